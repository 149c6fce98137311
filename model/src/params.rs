//! The parameter table: which parameters there are, how they begin and where they lie. Identity is the name; a bucket
//! (all parameters of a unit, one after another) is only storage.
//!
//! Order inside a bucket is for the maths: q | k | v, their biases, and gate | up are adjacent, so that the merged
//! product is a view; what every member of a tensor-parallel group has whole comes first. [`crate::block`] cuts the buckets in this
//! order.
use crate::{AttentionBias, Decoder, NormKind, Split, Unit, UnitKind};

#[derive(Clone, Copy, PartialEq, Debug)]
pub enum Init {
    /// Independent, around 0.
    Normal {
        std: f64,
    },
    Ones,
    Zeros,
}

/// One row of the table.
#[derive(Clone, PartialEq, Debug)]
pub struct ParamSpec {
    /// As in a directory of LLaMA, or of the family that has this parameter.
    pub name: String,
    pub unit: Unit,
    pub shape: Vec<usize>,
    pub init: Init,
    /// Weight decay applies to matrices.
    pub decay: bool,
    /// Over a tensor-parallel group.
    pub split: Split,
    /// First element in the unit's bucket.
    pub offset: usize,
}

/// A parameter before it has its place.
struct Row {
    name: String,
    shape: Vec<usize>,
    init: Init,
    split: Split,
}

fn vector(name: &str, len: usize, init: Init) -> Row {
    Row { name: name.into(), shape: vec![len], init, split: Split::Whole }
}

fn bias(name: &str, len: usize, split: Split) -> Row {
    Row { split, ..vector(&format!("{name}.bias"), len, Init::Zeros) }
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
        let rows = match self.kind(unit) {
            UnitKind::Embedding => {
                vec![self.matrix("model.embed_tokens", [self.vocab, self.hidden], unit, Split::Rows)]
            }
            UnitKind::Attention { layer } => self.attention_rows(&format!("model.layers.{layer}"), unit),
            UnitKind::Mlp { layer } => self.mlp_rows(&format!("model.layers.{layer}"), unit),
            UnitKind::Head => {
                let mut rows = self.norm_rows("model.norm");
                if !self.tied {
                    rows.push(self.matrix("lm_head", [self.vocab, self.hidden], unit, Split::Rows));
                }
                rows
            }
        };
        let mut offset = 0;
        rows.into_iter()
            .map(|Row { name, shape, init, split }| {
                let decay = shape.len() > 1;
                let spec = ParamSpec { name, unit, shape, init, decay, split, offset };
                offset += spec.len();
                spec
            })
            .collect()
    }

    fn attention_rows(&self, at: &str, unit: Unit) -> Vec<Row> {
        let (d, h) = (self.hidden, self.heads);
        let name = |s: &str| format!("{at}.self_attn.{s}");
        let (qkv_bias, o_bias) = match self.attention_bias {
            AttentionBias::None => (false, false),
            AttentionBias::Qkv => (true, false),
            AttentionBias::All => (true, true),
        };
        let qkv = [
            ("q_proj", h.n * h.dim, Split::Rows),
            ("k_proj", h.kv * h.dim, Split::KvRows),
            ("v_proj", h.kv * h.dim, Split::KvRows),
        ];
        let mut rows = self.norm_rows(&format!("{at}.input_layernorm"));
        if o_bias {
            rows.push(bias(&name("o_proj"), d, Split::Whole));
        }
        if self.sandwich_norms {
            rows.extend(self.norm_rows(&format!("{at}.post_attention_layernorm")));
        }
        if self.qk_norm {
            let norm = |s| vector(&format!("{}.weight", name(s)), h.dim, Init::Ones);
            rows.extend(["q_norm", "k_norm"].map(|s| Row { split: Split::PerHead, ..norm(s) }));
        }
        rows.extend(qkv.iter().map(|(s, n, split)| self.matrix(&name(s), [*n, d], unit, *split)));
        if qkv_bias {
            rows.extend(qkv.iter().map(|(s, n, split)| bias(&name(s), *n, *split)));
        }
        rows.push(self.matrix(&name("o_proj"), [d, h.out()], unit, Split::Columns));
        rows
    }

    fn mlp_rows(&self, at: &str, unit: Unit) -> Vec<Row> {
        let (d, f) = (self.hidden, self.ffn);
        let name = |s: &str| format!("{at}.mlp.{s}");
        let into: &[&str] = if self.mlp.gated { &["gate_proj", "up_proj"] } else { &["up_proj"] };
        let norm = if self.sandwich_norms { "pre_feedforward_layernorm" } else { "post_attention_layernorm" };
        let mut rows = self.norm_rows(&format!("{at}.{norm}"));
        if self.mlp.bias {
            rows.push(bias(&name("down_proj"), d, Split::Whole));
        }
        if self.sandwich_norms {
            rows.extend(self.norm_rows(&format!("{at}.post_feedforward_layernorm")));
        }
        rows.extend(into.iter().map(|s| self.matrix(&name(s), [f, d], unit, Split::Rows)));
        if self.mlp.bias {
            rows.extend(into.iter().map(|s| bias(&name(s), f, Split::Rows)));
        }
        rows.push(self.matrix(&name("down_proj"), [d, f], unit, Split::Columns));
        rows
    }

    fn norm_rows(&self, name: &str) -> Vec<Row> {
        let weight = |init| vector(&format!("{name}.weight"), self.hidden, init);
        match self.norm {
            NormKind::Rms => vec![weight(Init::Ones)],
            NormKind::RmsPlusOne => vec![weight(Init::Zeros)],
            NormKind::Layer => vec![weight(Init::Ones), bias(name, self.hidden, Split::Whole)],
        }
    }

    fn matrix(&self, name: &str, shape: [usize; 2], unit: Unit, split: Split) -> Row {
        let std = self.init_std(name, unit);
        Row { name: format!("{name}.weight"), shape: shape.into(), init: Init::Normal { std }, split }
    }

    /// What is added to the residual stream starts smaller the deeper it is, as InternLM's scaled initialisation.
    fn init_std(&self, name: &str, unit: Unit) -> f64 {
        let depth = unit.0.div_ceil(2);
        let residual = name.ends_with("o_proj") || name.ends_with("down_proj");
        if self.scaled_init && residual { self.init_std / (2.0 * depth as f64).sqrt() } else { self.init_std }
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
