//! A decoder described by data: everything the maths depends on, resolved and checked.
use crate::{Rope, Unit, UnitKind};
use backend::{DType, Heads, Nonlinearity, Scores, Slopes};
use serde::{Deserialize, Serialize};

/// A model family: its defaults, and how its directory spells a decoder. The maths is the same for all.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Family {
    Llama,
    Internlm,
    Internlm2,
    Mistral,
    Qwen2,
    Qwen3,
    Baichuan,
    Gemma,
    Gemma2,
    /// Ours: any decoder, in the words of a run's `[model]`.
    Internevo,
}

/// How the residual stream is normalised.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum NormKind {
    /// x / rms(x) w
    Rms,
    /// x / rms(x) (1 + w), as Gemma has it
    RmsPlusOne,
    /// (x - mean) / σ w + b
    Layer,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum AttentionBias {
    None,
    /// Of queries, keys and values, as Qwen 2.
    Qkv,
    /// And of the output projection, as InternLM.
    All,
}

/// Sliding-window attention: a query sees the last `size` tokens, itself among them.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Window {
    pub size: usize,
    pub layers: WindowLayers,
}

/// The layers with a window; the others see all of the past.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum WindowLayers {
    All,
    /// This layer and those after it (Qwen's `max_window_layers`).
    From(usize),
    /// All but the last of every so many (2 in Gemma 2: layers 0, 2, 4, ...).
    ButEvery(usize),
}

impl WindowLayers {
    fn contains(self, layer: usize) -> bool {
        match self {
            WindowLayers::All => true,
            WindowLayers::From(first) => layer >= first,
            WindowLayers::ButEvery(n) => !(layer + 1).is_multiple_of(n),
        }
    }

    /// Which of so many layers have the window.
    pub fn of(self, layers: usize) -> Vec<bool> {
        (0..layers).map(|l| self.contains(l)).collect()
    }

    /// How many of so many layers that are, which a damaged number may make endlessly many.
    fn count(self, layers: usize) -> usize {
        match self {
            WindowLayers::All => layers,
            WindowLayers::From(first) => layers.saturating_sub(first),
            WindowLayers::ButEvery(n) => layers - layers.checked_div(n).unwrap_or(0),
        }
    }
}

impl Window {
    pub fn is_of(&self, layer: usize) -> bool {
        self.layers.contains(layer)
    }

    /// One way to say each thing: nothing where no layer has the window, all where all have it.
    pub fn plain(self, layers: usize) -> Option<Window> {
        match self.layers.count(layers) {
            0 if layers > 0 => None,
            n if n == layers => Some(Window { layers: WindowLayers::All, ..self }),
            _ => Some(self),
        }
    }
}

/// How attention knows where a token stands.
#[derive(Clone, Copy, PartialEq, Debug)]
pub enum Position {
    /// Queries and keys are rotated.
    Rope(Rope),
    /// Scores fall with the distance (Press et al. 2022).
    Alibi,
}

/// down(f(gate x) · up x), or without a gate down(f(up x)).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Mlp {
    pub gated: bool,
    pub by: Nonlinearity,
    pub bias: bool,
}

#[derive(Clone, PartialEq, Debug)]
pub struct Decoder {
    pub family: Family,
    /// V
    pub vocab: usize,
    /// D
    pub hidden: usize,
    /// L
    pub layers: usize,
    pub heads: Heads,
    /// F
    pub ffn: usize,
    pub norm: NormKind,
    pub norm_eps: f64,
    /// Norms also behind attention and behind the MLP, before the addition to the residual stream (Gemma 2).
    pub sandwich_norms: bool,
    pub attention_bias: AttentionBias,
    /// Every query and key head is RMS-normalised before it is rotated (Qwen 3).
    pub qk_norm: bool,
    pub window: Option<Window>,
    pub position: Position,
    /// Scores are q·k / sqrt(this); none: H.
    pub query_scalar: Option<f64>,
    /// Soft cap of the scores (Gemma 2).
    pub score_cap: Option<f64>,
    /// Soft cap of the logits (Gemma 2).
    pub logit_cap: Option<f64>,
    pub mlp: Mlp,
    /// Embeddings are multiplied by sqrt(D) (Gemma).
    pub scaled_embedding: bool,
    /// The gradients of the embedding and of the head's matrix are multiplied by this; what they compute is not.
    pub embed_grad_scale: f64,
    /// The rows of the head's matrix are normalised before they are used (Baichuan 2).
    pub norm_head: bool,
    /// The head multiplies by the embedding's matrix.
    pub tied: bool,
    /// The longest context the model is meant for: generation looks at it, and dynamic NTK stretches beyond it.
    pub max_positions: usize,
    /// Standard deviation of initial matrices.
    pub init_std: f64,
    /// What adds to the residual stream begins smaller the deeper it is.
    pub scaled_init: bool,
}

impl Decoder {
    /// A LLaMA of this shape; change what differs.
    pub fn llama(vocab: usize, hidden: usize, layers: usize, heads: Heads, ffn: usize) -> Decoder {
        Decoder { vocab, hidden, layers, heads, ffn, ..crate::models::base(Family::Llama) }
    }

    /// Embedding, two half-blocks a layer, head.
    pub fn units(&self) -> usize {
        2 * self.layers + 2
    }
    pub fn unit_range(&self) -> impl DoubleEndedIterator<Item = Unit> + use<> {
        (0..self.units()).map(Unit)
    }
    pub fn kind(&self, unit: Unit) -> UnitKind {
        match unit.0 {
            0 => UnitKind::Embedding,
            u if u == self.units() - 1 => UnitKind::Head,
            u if u % 2 == 1 => UnitKind::Attention { layer: (u - 1) / 2 },
            u => UnitKind::Mlp { layer: (u - 2) / 2 },
        }
    }
    pub fn head(&self) -> Unit {
        Unit(self.units() - 1)
    }
    /// The unit whose bucket holds the head's matrix.
    pub fn head_matrix_unit(&self) -> Unit {
        if self.tied { Unit(0) } else { self.head() }
    }

    /// Elements of a norm's parameters: w (D), and of LayerNorm b (D).
    pub fn norm_len(&self) -> usize {
        match self.norm {
            NormKind::Rms | NormKind::RmsPlusOne => self.hidden,
            NormKind::Layer => 2 * self.hidden,
        }
    }

    /// Elements of a norm's statistics of T tokens.
    pub fn norm_stats(&self, t: usize) -> usize {
        match self.norm {
            NormKind::Rms | NormKind::RmsPlusOne => t,
            NormKind::Layer => 2 * t,
        }
    }

    /// Width of what goes into the MLP's nonlinearity: gate | up, or up alone.
    pub fn mlp_in(&self) -> usize {
        if self.mlp.gated { 2 * self.ffn } else { self.ffn }
    }

    pub fn scores(&self, layer: usize) -> Scores {
        Scores {
            scale: self.query_scalar.unwrap_or(self.heads.dim as f64).powf(-0.5),
            cap: self.score_cap,
            window: self.window.filter(|w| w.is_of(layer)).map(|w| w.size),
            alibi: (self.position == Position::Alibi).then_some(Slopes { first: 0, of: self.heads.n }),
        }
    }

    /// What embeddings are multiplied by: a constant in the weights' type, as transformers has it.
    pub fn embedding_scale(&self, weights: DType) -> f64 {
        if !self.scaled_embedding {
            return 1.0;
        }
        let bits = match weights {
            DType::F64 => 53,
            DType::F32 => 24,
            DType::F16 => 11,
            DType::BF16 => 8,
            DType::U32 => panic!("weights are not integers"),
        };
        let exact = (self.hidden as f64).sqrt();
        let unit = 2f64.powi(exact.log2().floor() as i32 + 1 - bits);
        (exact / unit).round_ties_even() * unit
    }

    /// Elements of a rope table of `positions` rows, (P, H): nothing without RoPE.
    pub fn rope_table_len(&self, positions: usize) -> usize {
        match self.position {
            Position::Rope(_) => positions * self.heads.dim,
            Position::Alibi => 0,
        }
    }

    /// (P, H): for each position H/2 cosines, then H/2 sines.
    pub fn rope_table(&self, positions: usize) -> Vec<f64> {
        match self.position {
            Position::Rope(rope) => rope.table(positions, self.heads.dim, self.max_positions),
            Position::Alibi => vec![],
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_embedding_scale_is_a_number_of_the_weights_type() {
        let heads = Heads { n: 1, kv: 1, dim: 2 };
        let m = |hidden| Decoder { scaled_embedding: true, ..Decoder::llama(7, hidden, 1, heads, 8) };
        // sqrt(3072) = 55.4256..., of which transformers' bf16 keeps 55.5; sqrt(2048) = 45.2548..., 45.25.
        for (hidden, dtype, want) in [
            (3072, DType::BF16, 55.5),
            (2048, DType::BF16, 45.25),
            (3072, DType::F16, 55.4375),
            (3072, DType::F32, 3072f64.sqrt() as f32 as f64),
            (3072, DType::F64, 3072f64.sqrt()),
            (4096, DType::BF16, 64.0),
        ] {
            assert_eq!(m(hidden).embedding_scale(dtype), want, "{hidden} {dtype:?}");
        }
        assert_eq!(Decoder { scaled_embedding: false, ..m(3072) }.embedding_scale(DType::F32), 1.0);
    }

    #[test]
    fn windows_of_layers() {
        let of = |layers| (0..5).filter(|l| Window { size: 4, layers }.is_of(*l)).collect::<Vec<_>>();
        assert_eq!(of(WindowLayers::All), [0, 1, 2, 3, 4]);
        assert_eq!(of(WindowLayers::From(3)), [3, 4]);
        assert_eq!(of(WindowLayers::ButEvery(2)), [0, 2, 4]);
        assert_eq!(of(WindowLayers::ButEvery(3)), [0, 1, 3, 4]);
        for of in [0, 1, 2, 3, 7].map(WindowLayers::From).into_iter().chain([0, 1, 2, 5, 6].map(WindowLayers::ButEvery))
        {
            let listed = of.of(6).into_iter().filter(|has| *has).count();
            assert_eq!(of.count(6), listed, "{of:?}");
        }
    }
}
