//! The training operations, as data: what a device is asked to do, one value each.
//!
//! An operation names its tensors; `reads` and `writes` say which memory it touches and `flops` what it costs, so a
//! device that only counts, one that records and one that queues need no line per operation. The formula and the loops
//! of each stand in `cpu/`. A written tensor that an operation adds to is named once, as a write.
//!
//! `acc` says whether a weight gradient is added to (`true`) or written (`false`, the first of a leaf).
use crate::View;

/// Shape of an attention: `n` query heads, `kv` key/value heads (`kv` divides `n`), each of `dim` numbers.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Hash)]
pub struct Heads {
    pub n: usize,
    pub kv: usize,
    pub dim: usize,
}
impl Heads {
    /// Width of a row of queries, keys and values side by side: (N + 2 K) H.
    pub fn qkv(&self) -> usize {
        (self.n + 2 * self.kv) * self.dim
    }
    /// Width of a row of outputs: N H.
    pub fn out(&self) -> usize {
        self.n * self.dim
    }
    /// What each of so many ranks has; with fewer key/value heads than ranks, neighbours have the same one.
    pub fn part(&self, ranks: usize) -> Heads {
        let kv = if self.kv == 0 { 0 } else { (self.kv / ranks).max(1) };
        Heads { n: self.n / ranks, kv, ..*self }
    }
}

/// How attention scores are made of q and k, and which keys a query sees. Token i sees j <= i of its segment.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct Scores {
    /// s = scale q·k; usually 1 / sqrt(H).
    pub scale: f64,
    /// Soft cap (Gemma 2): s <- cap tanh(s / cap). None: not capped.
    pub cap: Option<f64>,
    /// Sliding window (Mistral): i sees j > i - window only. None: all of the past.
    pub window: Option<usize>,
    /// ALiBi (Press et al. 2022): s <- s - slope(head) (i - j), after the cap. Slopes as in the paper's code, also for
    /// numbers of heads that are no power of two.
    pub alibi: Option<Slopes>,
}

/// The heads of an attention among those of the model: a tensor-parallel rank has a part of them.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Slopes {
    /// Number of the first query head.
    pub first: usize,
    /// Query heads of the model.
    pub of: usize,
}

/// Rotary position embedding of queries and keys.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct Rotation {
    /// (T) u32
    pub positions: View,
    /// (P, H): H/2 cosines, then H/2 sines, of each position.
    pub table: View,
    pub pairs: Pairs,
}

/// Which two elements of a head form a pair that RoPE rotates.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Hash)]
pub enum Pairs {
    /// (i, i + H/2), as GPT-NeoX and Hugging Face's LLaMA.
    Half,
    /// (2i, 2i + 1), as the paper and the original LLaMA.
    Interleaved,
}

/// A nonlinearity of the MLP.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Hash)]
pub enum Nonlinearity {
    /// x σ(x)
    Silu,
    /// x Φ(x), with erf
    Gelu,
    /// The approximation of GELU by tanh
    GeluTanh,
}

/// What is done to logits before and in the cross-entropy.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct LogitLoss {
    /// z <- cap tanh(z / cap) first. None: not capped.
    pub cap: Option<f64>,
    /// ε of label smoothing: (1 - ε) of the target on the label, ε spread evenly over all V.
    pub smoothing: f64,
}

/// The columns of a rank's logits among those of the vocabulary.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Columns {
    /// The first one's number.
    pub first: usize,
    /// So many are in the vocabulary; those behind them are padding, whose logits count as -inf.
    pub filled: usize,
    /// With padding.
    pub width: usize,
}

/// Dynamic loss scaling (Micikevicius et al. 2018).
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct LossScale {
    pub min: f64,
    pub max: f64,
    pub growth: f64,
    pub backoff: f64,
    /// Steps without an overflow after which the scale grows.
    pub interval: u64,
    /// Overflows since the last growth after which it shrinks.
    pub hysteresis: u64,
}

#[derive(Clone, Copy, PartialEq, Debug)]
pub enum Op {
    /// y = value
    Fill { y: View, value: f64 },
    /// y = x; between f32, bf16 and f16 the value is converted.
    Copy { x: View, y: View },
    /// y += x
    Add { x: View, y: View },
    /// rows (n) u32, x (T, D) -> y (n, D): y[i] = x[rows[i]]
    TakeRows { rows: View, x: View, y: View, d: usize },

    /// ids (T), w (V, D) -> y (T, D) = scale w[id]. With `first`, w is the rows of a vocabulary from there on, and a token that
    /// has its row elsewhere gets zeros.
    Embedding { ids: View, w: View, y: View, d: usize, scale: f64, first: Option<usize> },
    /// ids (T), dy (T, D) -> dw (V, D) = or += scale dy
    EmbeddingBackward { ids: View, dy: View, dw: View, d: usize, scale: f64, first: Option<usize>, acc: bool },

    /// x (T, D), w (F, D), `add` (T, F) -> y (T, F) = x wᵀ, or add + x wᵀ. `dims` is [T, D, F] in all three.
    Linear { x: View, w: View, add: Option<View>, y: View, dims: [usize; 3] },
    /// dy (T, F), w (F, D) -> dx (T, D) = dy w
    LinearBackwardInput { dy: View, w: View, dx: View, dims: [usize; 3] },
    /// dy (T, F), x (T, D) -> dw (F, D) = scale dyᵀ x, or dw += scale dyᵀ x
    LinearBackwardWeight { dy: View, x: View, dw: View, dims: [usize; 3], scale: f64, acc: bool },
    /// b (F) -> y (T, F) += b in every row
    AddBias { b: View, y: View },
    /// dy (T, F) -> db (F) = or += the sum of the rows
    BiasBackward { dy: View, db: View, acc: bool },

    /// x (T, D), w (D) -> y (T, D) = x rstd (w + offset), rstd (T) = 1 / sqrt(mean(x²) + eps). Gemma's offset is 1.
    RmsNorm { x: View, w: View, y: View, rstd: View, eps: f64, offset: f64 },
    /// x, dy (T, D), w (D), rstd (T) -> dx (T, D) +=, dw (D). The residual path is already in dx.
    RmsNormBackward { x: View, w: View, rstd: View, dy: View, dx: View, dw: View, offset: f64, acc: bool },
    /// x (T, D), w, b (D) -> y (T, D) = (x - mean) rstd w + b, stats (2, T) = mean | rstd
    LayerNorm { x: View, w: View, b: View, y: View, stats: View, eps: f64 },
    /// x, dy (T, D), w (D), stats (2, T) -> dx (T, D) +=, dw, db (D)
    LayerNormBackward { x: View, w: View, stats: View, dy: View, dx: View, dw: View, db: View, acc: bool },
    /// x (T, (N+2K) H), w (2, H) = of queries | of keys -> y (T, (N+2K) H): every query and key head RMS-normalised (Qwen3),
    /// values copied; rstd (T, N + K)
    HeadNorm { x: View, w: View, y: View, rstd: View, heads: Heads, eps: f64 },
    /// dqkv (T, (N+2K) H) in place, from the gradient of y to that of x; dw (2, H)
    HeadNormBackward { x: View, w: View, rstd: View, dqkv: View, dw: View, heads: Heads, acc: bool },
    /// w (V, D) -> y (V, D) = w / max(‖row‖, 1e-12), norms (V) (Baichuan 2's and InternLM2's `norm_head`)
    UnitRows { w: View, y: View, norms: View, d: usize },
    /// y, dy (V, D), norms (V) -> dw (V, D) = or += scale (dy - y (y·dy)) / norm
    UnitRowsBackward { y: View, norms: View, dy: View, dw: View, d: usize, scale: f64, acc: bool },

    /// Causal attention inside each segment of cu_seqlens (S + 1) u32 (starts at 0; entries after T's repeat T).
    /// qkv (T, (N+2K) H), whose queries and keys are rotated first, in place -> o (T, N H), lse (N, T) = natural log of the
    /// sum of exponentials of the scores.
    Attention {
        qkv: View,
        cu_seqlens: View,
        rotation: Option<Rotation>,
        o: View,
        lse: View,
        heads: Heads,
        scores: Scores,
    },
    /// qkv rotated, o, lse as `Attention` left them, d_o (T, N H) -> dqkv (T, (N+2K) H), of what was not yet rotated.
    AttentionBackward {
        qkv: View,
        cu_seqlens: View,
        rotation: Option<Rotation>,
        o: View,
        lse: View,
        d_o: View,
        dqkv: View,
        heads: Heads,
        scores: Scores,
    },
    /// Attention over a cache, for generation. span (2) u32 = [start, n]: the first n rows of qkv (T, (N+2K) H), rotated
    /// first and in place, are tokens start .. start + n. Their keys and values enter cache (2, C, K H); row i attends to
    /// tokens 0 ..= start + i. o (T, N H); rows from n on are zero.
    AttentionCached {
        qkv: View,
        span: View,
        rotation: Option<Rotation>,
        cache: View,
        o: View,
        heads: Heads,
        scores: Scores,
    },

    /// x (T, (N+2K) H) -> y (n, T, (N/n + 2 K/n) H): the heads of each of n ranks, as an all-to-all sends them. With K < n
    /// key/value heads n / K ranks get the same one.
    SplitHeads { x: View, y: View, heads: Heads, parts: usize },
    /// The transpose of that, x (n, T, (N/n + 2 K/n) H) -> y (T, (N+2K) H): heads that several ranks had are added up.
    JoinHeads { x: View, y: View, heads: Heads, parts: usize },

    /// h (T, 2F) = gate | up -> s (T, F) = f(gate) up
    Gated { h: View, s: View, f: usize, by: Nonlinearity },
    /// h (T, 2F) becomes its gradient, from ds (T, F)
    GatedBackward { h: View, ds: View, f: usize, by: Nonlinearity },
    /// h -> s = f(h)
    Activation { h: View, s: View, by: Nonlinearity },
    /// h becomes its gradient, from ds
    ActivationBackward { h: View, ds: View, by: Nonlinearity },

    /// labels (T) u32 -> count (1) f64: how many are not u32::MAX; added to when `acc`.
    CountLabels { labels: View, count: View, acc: bool },
    /// logits (T, V), labels, types (T) -> stats (1 + 3 K) f64 = or += ; the logits become scale (1) f64 times the gradient
    /// of loss / count (count (1) f64; no labels at all: zeros). stats[0] is the loss, Σ over labels that are not
    /// u32::MAX of −log softmax(logits)[label] with smoothing; then for each of the K types of tokens
    /// [Σ −log softmax(logits)[label] without smoothing, labels, labels that are the largest logit of their row].
    CrossEntropy {
        labels: View,
        types: View,
        count: View,
        scale: View,
        logits: View,
        stats: View,
        v: usize,
        with: LogitLoss,
        acc: bool,
    },
    /// The stats alone, the loss without smoothing: logits (T, V), labels, types (T) -> stats (1 + 3 K) f64 = or +=
    CrossEntropyLoss { labels: View, types: View, logits: View, stats: View, v: usize, cap: Option<f64>, acc: bool },
    /// A vocabulary that is cut over ranks, in three steps. First each rank of its own logits (T, V'), capped in place: labels
    /// (T) -> parts (T, 4) f64 = max, Σ exp(z - max), the label's logit or 0 if it is elsewhere, Σ z.
    LogitParts { labels: View, logits: View, parts: View, columns: Columns, cap: Option<f64> },
    /// Then the parts of all n ranks (n, T, 4), in rank order -> stats, as `CrossEntropy`.
    LossOfParts { labels: View, types: View, parts: View, stats: View, vocab: usize, smoothing: f64, acc: bool },
    /// And with them logits (T, V'), capped -> their gradient, as `CrossEntropy`.
    LogitGradient {
        labels: View,
        count: View,
        scale: View,
        parts: View,
        logits: View,
        columns: Columns,
        vocab: usize,
        with: LogitLoss,
    },
    /// z <- cap tanh(z / cap), for generation.
    SoftCap { z: View, cap: f64 },

    /// x -> sums (ceil(len / chunk)) f64: the sum of squares of each chunk. A grid that does not know about shards is
    /// what makes the gradient norm independent of the layout.
    SumSquares { x: View, sums: View, chunk: usize },
    /// sums (n) f64, count (1) f64, scale (3) f64 whose first is the loss scale S -> norm (3) f64 = [‖g‖ / S, factor on the
    /// gradient that undoes S and clips to `max_norm` (0: never), 1 if the step is to be taken: a finite norm and at
    /// least one label, else 0]. Added in index order.
    GradNorm { sums: View, count: View, scale: View, norm: View, max_norm: f64 },
    /// norm (3) as `GradNorm` wrote it -> scale (3) f64 = [loss scale, steps since it last changed or overflowed,
    /// overflows since it last grew], updated. A norm that is not finite is an overflow.
    LossScale { norm: View, scale: View, rule: LossScale },
    /// AdamW (Loshchilov & Hutter 2019, algorithm 2) on g, p, m, v of equal length, in place on p, m, v.
    /// hyper (4) f64 = [lr, 1 - beta1ᵗ, 1 - beta2ᵗ, beta2]; norm as `GradNorm` wrote it: nothing is written when
    /// norm[2] is 0. `copy`, where p is a master weight, becomes the new p, rounded.
    AdamW {
        g: View,
        norm: View,
        hyper: View,
        p: View,
        m: View,
        v: View,
        copy: Option<View>,
        beta1: f64,
        eps: f64,
        weight_decay: f64,
    },
}

impl Op {
    pub fn name(&self) -> &'static str {
        match self {
            Op::Fill { .. } => "fill",
            Op::Copy { .. } => "copy",
            Op::Add { .. } => "add",
            Op::TakeRows { .. } => "take_rows",
            Op::Embedding { .. } => "embedding",
            Op::EmbeddingBackward { .. } => "embedding_backward",
            Op::Linear { .. } => "linear",
            Op::LinearBackwardInput { .. } => "linear_backward_input",
            Op::LinearBackwardWeight { .. } => "linear_backward_weight",
            Op::AddBias { .. } => "add_bias",
            Op::BiasBackward { .. } => "bias_backward",
            Op::RmsNorm { .. } => "rmsnorm",
            Op::RmsNormBackward { .. } => "rmsnorm_backward",
            Op::LayerNorm { .. } => "layernorm",
            Op::LayerNormBackward { .. } => "layernorm_backward",
            Op::HeadNorm { .. } => "head_norm",
            Op::HeadNormBackward { .. } => "head_norm_backward",
            Op::UnitRows { .. } => "unit_rows",
            Op::UnitRowsBackward { .. } => "unit_rows_backward",
            Op::Attention { .. } => "attention",
            Op::AttentionBackward { .. } => "attention_backward",
            Op::AttentionCached { .. } => "attention_cached",
            Op::SplitHeads { .. } => "split_heads",
            Op::JoinHeads { .. } => "join_heads",
            Op::Gated { .. } => "gated",
            Op::GatedBackward { .. } => "gated_backward",
            Op::Activation { .. } => "activation",
            Op::ActivationBackward { .. } => "activation_backward",
            Op::CountLabels { .. } => "count_labels",
            Op::CrossEntropy { .. } => "cross_entropy",
            Op::CrossEntropyLoss { .. } => "cross_entropy_loss",
            Op::LogitParts { .. } => "logit_parts",
            Op::LossOfParts { .. } => "loss_of_parts",
            Op::LogitGradient { .. } => "logit_gradient",
            Op::SoftCap { .. } => "soft_cap",
            Op::SumSquares { .. } => "sum_squares",
            Op::GradNorm { .. } => "grad_norm",
            Op::LossScale { .. } => "loss_scale",
            Op::AdamW { .. } => "adamw",
        }
    }

    /// (read, written) memory. What is updated in place is written.
    pub fn views(&self) -> (Vec<View>, Vec<View>) {
        match *self {
            Op::Fill { y, .. } => (vec![], vec![y]),
            Op::Copy { x, y } | Op::Add { x, y } => (vec![x], vec![y]),
            Op::SplitHeads { x, y, .. } | Op::JoinHeads { x, y, .. } => (vec![x], vec![y]),
            Op::TakeRows { rows, x, y, .. } => (vec![rows, x], vec![y]),
            Op::Embedding { ids, w, y, .. } => (vec![ids, w], vec![y]),
            Op::EmbeddingBackward { ids, dy, dw, .. } => (vec![ids, dy], vec![dw]),
            Op::Linear { x, w, add, y, .. } => ([x, w].into_iter().chain(add).collect(), vec![y]),
            Op::LinearBackwardInput { dy, w, dx, .. } => (vec![dy, w], vec![dx]),
            Op::LinearBackwardWeight { dy, x, dw, .. } => (vec![dy, x], vec![dw]),
            Op::RmsNorm { x, w, y, rstd, .. } => (vec![x, w], vec![y, rstd]),
            Op::RmsNormBackward { x, w, rstd, dy, dx, dw, .. } => (vec![x, w, rstd, dy], vec![dx, dw]),
            Op::AddBias { b, y } => (vec![b], vec![y]),
            Op::BiasBackward { dy, db, .. } => (vec![dy], vec![db]),
            Op::LayerNorm { x, w, b, y, stats, .. } => (vec![x, w, b], vec![y, stats]),
            Op::LayerNormBackward { x, w, stats, dy, dx, dw, db, .. } => (vec![x, w, stats, dy], vec![dx, dw, db]),
            Op::HeadNorm { x, w, y, rstd, .. } => (vec![x, w], vec![y, rstd]),
            Op::HeadNormBackward { x, w, rstd, dqkv, dw, .. } => (vec![x, w, rstd], vec![dqkv, dw]),
            Op::UnitRows { w, y, norms, .. } => (vec![w], vec![y, norms]),
            Op::UnitRowsBackward { y, norms, dy, dw, .. } => (vec![y, norms, dy], vec![dw]),
            Op::Attention { qkv, cu_seqlens, rotation, o, lse, .. } => {
                ([cu_seqlens].into_iter().chain(tables(rotation)).collect(), vec![qkv, o, lse])
            }
            Op::AttentionBackward { qkv, cu_seqlens, rotation, o, lse, d_o, dqkv, .. } => {
                ([qkv, cu_seqlens, o, lse, d_o].into_iter().chain(tables(rotation)).collect(), vec![dqkv])
            }
            Op::AttentionCached { qkv, span, rotation, cache, o, .. } => {
                ([span].into_iter().chain(tables(rotation)).collect(), vec![qkv, cache, o])
            }
            Op::Gated { h, s, .. } | Op::Activation { h, s, .. } => (vec![h], vec![s]),
            Op::GatedBackward { h, ds, .. } | Op::ActivationBackward { h, ds, .. } => (vec![ds], vec![h]),
            Op::CountLabels { labels, count, .. } => (vec![labels], vec![count]),
            Op::CrossEntropy { labels, types, count, scale, logits, stats, .. } => {
                (vec![labels, types, count, scale], vec![logits, stats])
            }
            Op::CrossEntropyLoss { labels, types, logits, stats, .. } => (vec![labels, types, logits], vec![stats]),
            Op::LogitParts { labels, logits, parts, .. } => (vec![labels], vec![logits, parts]),
            Op::LossOfParts { labels, types, parts, stats, .. } => (vec![labels, types, parts], vec![stats]),
            Op::LogitGradient { labels, count, scale, parts, logits, .. } => {
                (vec![labels, count, scale, parts], vec![logits])
            }
            Op::SoftCap { z, .. } => (vec![], vec![z]),
            Op::SumSquares { x, sums, .. } => (vec![x], vec![sums]),
            Op::GradNorm { sums, count, scale, norm, .. } => (vec![sums, count, scale], vec![norm]),
            Op::LossScale { norm, scale, .. } => (vec![norm], vec![scale]),
            Op::AdamW { g, norm, hyper, p, m, v, copy, .. } => {
                (vec![g, norm, hyper], [p, m, v].into_iter().chain(copy).collect())
            }
        }
    }

    /// Floating-point operations, a multiply-add counted as two. Matrix products and attention are exact; element-wise
    /// operations are counted by a small constant. Attention is counted as if the T tokens were one causal segment.
    pub fn flops(&self) -> f64 {
        let causal = |qkv: View, heads: Heads| {
            let t = (qkv.len / heads.qkv()) as f64;
            t * (t + 1.0) / 2.0 * heads.out() as f64
        };
        match *self {
            Op::Linear { dims, .. } | Op::LinearBackwardInput { dims, .. } | Op::LinearBackwardWeight { dims, .. } => {
                2.0 * dims.iter().map(|&n| n as f64).product::<f64>()
            }
            // Forward: two products. Backward: the scores again and four gradients, of which MFU counts the four.
            Op::Attention { qkv, heads, .. } => 4.0 * causal(qkv, heads),
            Op::AttentionBackward { qkv, heads, .. } => 8.0 * causal(qkv, heads),
            Op::AttentionCached { qkv, cache, heads, .. } => {
                let (t, context) = (qkv.len / heads.qkv(), cache.len / (2 * heads.kv * heads.dim));
                4.0 * (t * context * heads.out()) as f64
            }
            Op::Fill { .. } | Op::Copy { .. } | Op::TakeRows { .. } | Op::Embedding { .. } => 0.0,
            Op::SplitHeads { .. } | Op::JoinHeads { .. } => 0.0,
            Op::Add { y, .. } => y.len as f64,
            Op::EmbeddingBackward { dy, .. } => dy.len as f64,
            Op::RmsNorm { x, .. } => 4.0 * x.len as f64,
            Op::RmsNormBackward { x, .. } => 8.0 * x.len as f64,
            Op::AddBias { y, .. } => y.len as f64,
            Op::BiasBackward { dy, .. } => dy.len as f64,
            Op::LayerNorm { x, .. } | Op::HeadNorm { x, .. } => 6.0 * x.len as f64,
            Op::LayerNormBackward { x, .. } | Op::HeadNormBackward { x, .. } => 10.0 * x.len as f64,
            Op::UnitRows { w, .. } => 3.0 * w.len as f64,
            Op::UnitRowsBackward { y, .. } => 5.0 * y.len as f64,
            Op::Gated { s, .. } | Op::Activation { s, .. } => 6.0 * s.len as f64,
            Op::GatedBackward { ds, .. } | Op::ActivationBackward { ds, .. } => 10.0 * ds.len as f64,
            Op::CountLabels { labels, .. } => labels.len as f64,
            Op::CrossEntropy { logits, .. } => 6.0 * logits.len as f64,
            Op::CrossEntropyLoss { logits, .. } | Op::LogitParts { logits, .. } => 4.0 * logits.len as f64,
            Op::LossOfParts { parts, .. } => 2.0 * parts.len as f64,
            Op::LogitGradient { logits, .. } => 2.0 * logits.len as f64,
            Op::SoftCap { z, .. } => 3.0 * z.len as f64,
            Op::SumSquares { x, .. } => 2.0 * x.len as f64,
            Op::GradNorm { sums, .. } => sums.len as f64,
            Op::LossScale { .. } => 0.0,
            Op::AdamW { p, .. } => 14.0 * p.len as f64,
        }
    }
}

fn tables(rotation: Option<Rotation>) -> impl Iterator<Item = View> {
    rotation.into_iter().flat_map(|r| [r.positions, r.table])
}
