//! A decoder described by data: everything the maths depends on, resolved and checked.
use crate::{Rope, Unit, UnitKind};
use backend::Heads;
use serde::{Deserialize, Serialize};

/// A model family: how its directory spells the decoder. The maths is the same.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Family {
    Llama,
    Internlm2,
}

/// More than a hundred times those of the deepest models.
const MOST_LAYERS: usize = 10_000;

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
    pub norm_eps: f64,
    pub rope: Rope,
    /// The head multiplies by the embedding's matrix.
    pub tied: bool,
    /// The longest context the model is meant for; only generation looks at it.
    pub max_positions: usize,
    /// Standard deviation of initial matrices.
    pub init_std: f64,
}

impl Decoder {
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

    /// Everything that does not fit together, each with its way out. Keys are those of `[model]`.
    pub fn problems(&self) -> Vec<String> {
        let mut out = vec![];
        let sizes = [
            ("vocab_size", self.vocab),
            ("hidden_size", self.hidden),
            ("num_hidden_layers", self.layers),
            ("num_attention_heads", self.heads.n),
            ("num_key_value_heads", self.heads.kv),
            ("head_dim", self.heads.dim),
            ("intermediate_size", self.ffn),
            ("max_position_embeddings", self.max_positions),
        ];
        for (key, _) in sizes.iter().filter(|(_, n)| *n == 0) {
            out.push(format!("model.{key} = 0: must be at least 1"));
        }
        let Heads { n, kv, dim } = self.heads;
        // What is counted from the sizes fits a machine word, and a program of all layers fits the memory; those of a
        // damaged file or of a slip of the pen would not.
        let width = self.vocab as f64 + self.ffn as f64 + (n as f64 + 2.0 * kv as f64) * dim as f64;
        let parameters = self.hidden as f64 * self.layers.max(1) as f64 * width;
        if self.layers > MOST_LAYERS {
            out.push(format!("model.num_hidden_layers = {} is too large; at most {MOST_LAYERS} can be", self.layers));
        } else if parameters > 1e15 {
            out.push(format!(
                "model.hidden_size = {}, num_hidden_layers = {} and a width of {width:e} make {parameters:e} parameters; one of the sizes is too large",
                self.hidden, self.layers
            ));
        }
        if kv > 0 && n % kv != 0 {
            let fits: Vec<String> = (1..=n).filter(|k| n % k == 0).map(|k| k.to_string()).collect();
            out.push(format!(
                "model.num_key_value_heads = {kv} does not divide model.num_attention_heads = {n}; try one of {}",
                fits.join(", ")
            ));
        }
        if dim % 2 == 1 {
            out.push(format!("model.head_dim = {dim} is odd, but RoPE rotates pairs; try {}", dim + 1));
        }
        if !self.norm_eps.is_finite() || self.norm_eps <= 0.0 {
            out.push(format!("model.rms_norm_eps = {}: must be positive; try 1e-5", self.norm_eps));
        }
        if !(self.init_std > 0.0 && self.init_std.is_finite()) {
            out.push(format!("model.initializer_range = {}: must be positive; try 0.02", self.init_std));
        }
        out.extend(self.rope.problems());
        out
    }
}
