//! The parameter table: which parameters there are, how they begin and where they lie. Identity is the name; a bucket
//! (all parameters of a unit, one after another) is only storage.
//!
//! Order inside a bucket is for the maths: q | k | v and gate | up are adjacent, so that the merged product is a view.
use crate::{Decoder, Unit, UnitKind};

#[derive(Clone, Copy, PartialEq, Debug)]
pub enum Init {
    Normal { std: f64 },
    Ones,
}

/// One row of the table.
#[derive(Clone, PartialEq, Debug)]
pub struct ParamSpec {
    /// As in a LLaMA directory.
    pub name: String,
    pub unit: Unit,
    pub shape: Vec<usize>,
    pub init: Init,
    /// Weight decay applies to matrices.
    pub decay: bool,
    /// First element in the unit's bucket.
    pub offset: usize,
}

impl ParamSpec {
    pub fn len(&self) -> usize {
        self.shape.iter().product()
    }
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

impl Decoder {
    /// Parameters of a unit's bucket, in order.
    pub fn params(&self, unit: Unit) -> Vec<ParamSpec> {
        let (v, d, f, h) = (self.vocab, self.hidden, self.ffn, self.heads);
        let rows: Vec<(String, Vec<usize>)> = match self.kind(unit) {
            UnitKind::Embedding => vec![("model.embed_tokens.weight".into(), vec![v, d])],
            UnitKind::Attention { layer } => {
                let name = |s: &str| format!("model.layers.{layer}.{s}.weight");
                vec![
                    (name("input_layernorm"), vec![d]),
                    (name("self_attn.q_proj"), vec![h.n * h.dim, d]),
                    (name("self_attn.k_proj"), vec![h.kv * h.dim, d]),
                    (name("self_attn.v_proj"), vec![h.kv * h.dim, d]),
                    (name("self_attn.o_proj"), vec![d, h.n * h.dim]),
                ]
            }
            UnitKind::Mlp { layer } => {
                let name = |s: &str| format!("model.layers.{layer}.{s}.weight");
                vec![
                    (name("post_attention_layernorm"), vec![d]),
                    (name("mlp.gate_proj"), vec![f, d]),
                    (name("mlp.up_proj"), vec![f, d]),
                    (name("mlp.down_proj"), vec![d, f]),
                ]
            }
            UnitKind::Head => {
                let mut rows = vec![("model.norm.weight".into(), vec![d])];
                if !self.tied {
                    rows.push(("lm_head.weight".into(), vec![v, d]));
                }
                rows
            }
        };
        let mut offset = 0;
        rows.into_iter()
            .map(|(name, shape)| {
                let matrix = shape.len() > 1;
                let init = if matrix { Init::Normal { std: self.init_std(&name, unit) } } else { Init::Ones };
                let spec = ParamSpec { name, unit, shape, init, decay: matrix, offset };
                offset += spec.len();
                spec
            })
            .collect()
    }

    /// What is added to the residual stream starts smaller the deeper it is, as InternLM's scaled initialisation.
    fn init_std(&self, name: &str, unit: Unit) -> f64 {
        let depth = unit.0.div_ceil(2);
        let residual = name.ends_with("o_proj.weight") || name.ends_with("down_proj.weight");
        if residual { self.init_std / (2.0 * depth as f64).sqrt() } else { self.init_std }
    }

    /// The whole table, by unit.
    pub fn table(&self) -> Vec<ParamSpec> {
        self.unit_range().flat_map(|u| self.params(u)).collect()
    }

    pub fn parameters(&self) -> usize {
        self.table().iter().map(ParamSpec::len).sum()
    }
}

impl Decoder {
    /// Useful floating-point operations of training on one token in a segment of `seq_len`: six for each parameter of a
    /// matrix product (the head counts, the embedding's look-up does not), and attention's two products forward and four
    /// backward over the causal half. No recomputation, no element-wise work. The N of MFU.
    pub fn flops_per_token(&self, seq_len: usize) -> f64 {
        let matrices = |u| self.params(u).into_iter().filter(|p| p.shape.len() > 1).map(|p| p.len()).sum::<usize>();
        let blocks: usize = self.unit_range().skip(1).map(matrices).sum();
        let head = if self.tied { self.vocab * self.hidden } else { 0 };
        let attention = 12.0 * self.layers as f64 * self.heads.out() as f64 * (seq_len as f64 + 1.0) / 2.0;
        6.0 * (blocks + head) as f64 + attention
    }
}
