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
}

#[derive(Clone, Copy, PartialEq, Debug)]
pub enum Op {
    /// y = value
    Fill { y: View, value: f64 },
    /// y = x
    Copy { x: View, y: View },
    /// y += x
    Add { x: View, y: View },
    /// rows (n) u32, x (T, D) -> y (n, D): y[i] = x[rows[i]]
    TakeRows { rows: View, x: View, y: View, d: usize },

    /// ids (T), w (V, D) -> y (T, D)
    Embedding { ids: View, w: View, y: View, d: usize },
    /// ids (T), dy (T, D) -> dw (V, D)
    EmbeddingBackward { ids: View, dy: View, dw: View, d: usize, acc: bool },

    /// x (T, D), w (F, D) -> y (T, F) = x wᵀ, or y += x wᵀ. `dims` is [T, D, F] in all three.
    Linear { x: View, w: View, y: View, dims: [usize; 3], acc: bool },
    /// dy (T, F), w (F, D) -> dx (T, D) = dy w
    LinearBackwardInput { dy: View, w: View, dx: View, dims: [usize; 3] },
    /// dy (T, F), x (T, D) -> dw (F, D) = dyᵀ x, or dw += dyᵀ x
    LinearBackwardWeight { dy: View, x: View, dw: View, dims: [usize; 3], acc: bool },

    /// x (T, D), w (D) -> y (T, D) = x rstd w, rstd (T) = 1 / sqrt(mean(x²) + eps)
    RmsNorm { x: View, w: View, y: View, rstd: View, eps: f64 },
    /// x, dy (T, D), w (D), rstd (T) -> dx (T, D) +=, dw (D). The residual path is already in dx.
    RmsNormBackward { x: View, w: View, rstd: View, dy: View, dx: View, dw: View, acc: bool },

    /// Rotates the queries and keys of qkv (T, (N+2K) H) in place by their positions (T) u32. table (P, H): H/2 cosines,
    /// then H/2 sines, of each position. Half-split pairs (i, i + H/2). `inverse` turns back: the backward of itself.
    Rope { qkv: View, positions: View, table: View, heads: Heads, inverse: bool },

    /// Causal attention inside each segment of cu_seqlens (S + 1) u32 (starts at 0; entries after T's repeat T).
    /// qkv (T, (N+2K) H) -> o (T, N H), lse (N, T) = natural log of the sum of exponentials of the scaled scores.
    Attention { qkv: View, cu_seqlens: View, o: View, lse: View, heads: Heads },
    /// qkv, o, lse as above, d_o (T, N H) -> dqkv (T, (N+2K) H)
    AttentionBackward { qkv: View, cu_seqlens: View, o: View, lse: View, d_o: View, dqkv: View, heads: Heads },
    /// Attention over a cache, for generation. span (2) u32 = [start, n]: the first n rows of qkv (T, (N+2K) H) are
    /// tokens start .. start + n. Their keys and values enter cache (2, C, K H); row i attends to tokens 0 ..= start + i.
    /// o (T, N H); rows from n on are zero.
    AttentionCached { qkv: View, span: View, cache: View, o: View, heads: Heads },

    /// h (T, 2F) = gate | up -> s (T, F) = silu(gate) up
    SwiGlu { h: View, s: View, f: usize },
    /// h (T, 2F), ds (T, F) -> dh (T, 2F)
    SwiGluBackward { h: View, ds: View, dh: View, f: usize },

    /// labels (T) u32 -> count (1) f64: how many are not u32::MAX; added to when `acc`.
    CountLabels { labels: View, count: View, acc: bool },
    /// logits (T, V), labels (T) -> loss (1) f64 = Σ −log softmax(logits)[label] over labels that are not u32::MAX;
    /// the logits become the gradient of loss / count (count (1) f64; no labels at all: zeros).
    CrossEntropy { labels: View, count: View, logits: View, loss: View, v: usize },
    /// The loss alone: logits (T, V), labels (T) -> loss (1) f64
    CrossEntropyLoss { labels: View, logits: View, loss: View, v: usize },

    /// x -> sums (ceil(len / chunk)) f64: the sum of squares of each chunk. A grid that does not know about shards is
    /// what makes the gradient norm independent of the layout.
    SumSquares { x: View, sums: View, chunk: usize },
    /// sums (n) f64, count (1) f64 -> norm (3) f64 = [‖g‖, factor on the gradient that clips it to `max_norm` (0: never),
    /// 1 if the step is to be taken: a finite norm and at least one label, else 0]. Added in index order.
    GradNorm { sums: View, count: View, norm: View, max_norm: f64 },
    /// AdamW (Loshchilov & Hutter 2019, algorithm 2) on g, p, m, v of equal length, in place on p, m, v.
    /// hyper (3) f64 = [lr, 1 - beta1ᵗ, 1 - beta2ᵗ]; norm as `GradNorm` wrote it: nothing is written when
    /// norm[2] is 0.
    AdamW {
        g: View,
        norm: View,
        hyper: View,
        p: View,
        m: View,
        v: View,
        beta1: f64,
        beta2: f64,
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
            Op::RmsNorm { .. } => "rmsnorm",
            Op::RmsNormBackward { .. } => "rmsnorm_backward",
            Op::Rope { .. } => "rope",
            Op::Attention { .. } => "attention",
            Op::AttentionBackward { .. } => "attention_backward",
            Op::AttentionCached { .. } => "attention_cached",
            Op::SwiGlu { .. } => "swiglu",
            Op::SwiGluBackward { .. } => "swiglu_backward",
            Op::CountLabels { .. } => "count_labels",
            Op::CrossEntropy { .. } => "cross_entropy",
            Op::CrossEntropyLoss { .. } => "cross_entropy_loss",
            Op::SumSquares { .. } => "sum_squares",
            Op::GradNorm { .. } => "grad_norm",
            Op::AdamW { .. } => "adamw",
        }
    }

    /// (read, written) memory.
    pub fn views(&self) -> (Vec<View>, Vec<View>) {
        match *self {
            Op::Fill { y, .. } => (vec![], vec![y]),
            Op::Copy { x, y } | Op::Add { x, y } => (vec![x], vec![y]),
            Op::TakeRows { rows, x, y, .. } => (vec![rows, x], vec![y]),
            Op::Embedding { ids, w, y, .. } => (vec![ids, w], vec![y]),
            Op::EmbeddingBackward { ids, dy, dw, .. } => (vec![ids, dy], vec![dw]),
            Op::Linear { x, w, y, .. } => (vec![x, w], vec![y]),
            Op::LinearBackwardInput { dy, w, dx, .. } => (vec![dy, w], vec![dx]),
            Op::LinearBackwardWeight { dy, x, dw, .. } => (vec![dy, x], vec![dw]),
            Op::RmsNorm { x, w, y, rstd, .. } => (vec![x, w], vec![y, rstd]),
            Op::RmsNormBackward { x, w, rstd, dy, dx, dw, .. } => (vec![x, w, rstd, dy], vec![dx, dw]),
            Op::Rope { qkv, positions, table, .. } => (vec![positions, table], vec![qkv]),
            Op::Attention { qkv, cu_seqlens, o, lse, .. } => (vec![qkv, cu_seqlens], vec![o, lse]),
            Op::AttentionBackward { qkv, cu_seqlens, o, lse, d_o, dqkv, .. } => {
                (vec![qkv, cu_seqlens, o, lse, d_o], vec![dqkv])
            }
            Op::AttentionCached { qkv, span, cache, o, .. } => (vec![qkv, span], vec![cache, o]),
            Op::SwiGlu { h, s, .. } => (vec![h], vec![s]),
            Op::SwiGluBackward { h, ds, dh, .. } => (vec![h, ds], vec![dh]),
            Op::CountLabels { labels, count, .. } => (vec![labels], vec![count]),
            Op::CrossEntropy { labels, count, logits, loss, .. } => (vec![labels, count], vec![logits, loss]),
            Op::CrossEntropyLoss { labels, logits, loss, .. } => (vec![labels, logits], vec![loss]),
            Op::SumSquares { x, sums, .. } => (vec![x], vec![sums]),
            Op::GradNorm { sums, count, norm, .. } => (vec![sums, count], vec![norm]),
            Op::AdamW { g, norm, hyper, p, m, v, .. } => (vec![g, norm, hyper], vec![p, m, v]),
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
            Op::Add { y, .. } => y.len as f64,
            Op::EmbeddingBackward { dy, .. } => dy.len as f64,
            Op::RmsNorm { x, .. } => 4.0 * x.len as f64,
            Op::RmsNormBackward { x, .. } => 8.0 * x.len as f64,
            Op::Rope { qkv, .. } => 3.0 * qkv.len as f64,
            Op::SwiGlu { s, .. } => 6.0 * s.len as f64,
            Op::SwiGluBackward { ds, .. } => 10.0 * ds.len as f64,
            Op::CountLabels { labels, .. } => labels.len as f64,
            Op::CrossEntropy { logits, .. } => 6.0 * logits.len as f64,
            Op::CrossEntropyLoss { logits, .. } => 4.0 * logits.len as f64,
            Op::SumSquares { x, .. } => 2.0 * x.len as f64,
            Op::GradNorm { sums, .. } => sums.len as f64,
            Op::AdamW { p, .. } => 14.0 * p.len as f64,
        }
    }
}
