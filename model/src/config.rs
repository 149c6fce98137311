//! `[model]` of a run: Hugging Face's names for the sizes, or a directory to take shape and weights from.
use crate::{Decoder, Family, Rope, Scaling};
use backend::Heads;
use serde::{Deserialize, Serialize};
use std::path::PathBuf;

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ModelConfig {
    /// A Hugging Face directory: shape and weights come from there, and no size may be given beside it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub init_from: Option<PathBuf>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub family: Option<Family>,
    /// Defaults to the tokenizer's.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub vocab_size: Option<usize>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub hidden_size: Option<usize>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub num_hidden_layers: Option<usize>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub num_attention_heads: Option<usize>,
    /// Defaults to num_attention_heads.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub num_key_value_heads: Option<usize>,
    /// Defaults to hidden_size / num_attention_heads.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub head_dim: Option<usize>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub intermediate_size: Option<usize>,
    #[serde(default = "defaults::rms_norm_eps")]
    pub rms_norm_eps: f64,
    #[serde(default = "defaults::rope_theta")]
    pub rope_theta: f64,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rope_scaling: Option<Scaling>,
    #[serde(default)]
    pub tie_word_embeddings: bool,
    #[serde(default = "defaults::max_position_embeddings")]
    pub max_position_embeddings: usize,
    #[serde(default = "defaults::initializer_range")]
    pub initializer_range: f64,
}

mod defaults {
    pub fn rms_norm_eps() -> f64 {
        1e-5
    }
    pub fn rope_theta() -> f64 {
        10_000.0
    }
    pub fn max_position_embeddings() -> usize {
        2048
    }
    pub fn initializer_range() -> f64 {
        0.02
    }
}

impl ModelConfig {
    /// The sizes that were given, which `init_from` forbids.
    fn given(&self) -> Vec<&'static str> {
        let sizes = [
            ("vocab_size", self.vocab_size),
            ("hidden_size", self.hidden_size),
            ("num_hidden_layers", self.num_hidden_layers),
            ("num_attention_heads", self.num_attention_heads),
            ("num_key_value_heads", self.num_key_value_heads),
            ("head_dim", self.head_dim),
            ("intermediate_size", self.intermediate_size),
        ];
        let mut out: Vec<_> = sizes.iter().filter(|(_, n)| n.is_some()).map(|(key, _)| *key).collect();
        if self.family.is_some() {
            out.push("family");
        }
        out
    }

    /// Problems of the section on its own; those of the sizes come with [`ModelConfig::decoder`].
    pub fn problems(&self) -> Vec<String> {
        let mut out = vec![];
        if let Some(dir) = &self.init_from {
            for key in self.given() {
                out.push(format!(
                    "model.{key} cannot be given beside model.init_from: it comes from {}; remove it",
                    dir.join("config.json").display()
                ));
            }
            return out;
        }
        let needed = [
            ("hidden_size", self.hidden_size),
            ("num_hidden_layers", self.num_hidden_layers),
            ("num_attention_heads", self.num_attention_heads),
            ("intermediate_size", self.intermediate_size),
        ];
        for (key, _) in needed.iter().filter(|(_, n)| n.is_none()) {
            out.push(format!("model.{key} is missing; give it, or model.init_from = \"DIR\" of a Hugging Face model"));
        }
        if let (Some(d), Some(n), None) = (self.hidden_size, self.num_attention_heads, self.head_dim)
            && n > 0
            && d % n != 0
        {
            out.push(format!(
                "model.hidden_size = {d} is not a multiple of model.num_attention_heads = {n}; change one of them, or give model.head_dim"
            ));
        }
        out
    }

    /// The decoder that the section describes (without `init_from`). `vocab` is used where no vocab_size is given.
    /// Call it after [`ModelConfig::problems`] came back empty; missing sizes are zero, which the decoder reports.
    pub fn decoder(&self, vocab: usize) -> Decoder {
        let size = |n: Option<usize>| n.unwrap_or(0);
        let (hidden, n) = (size(self.hidden_size), size(self.num_attention_heads));
        let dim = self.head_dim.unwrap_or(hidden.checked_div(n).unwrap_or(0));
        Decoder {
            family: self.family.unwrap_or(Family::Llama),
            vocab: self.vocab_size.unwrap_or(vocab),
            hidden,
            layers: size(self.num_hidden_layers),
            heads: Heads { n, kv: self.num_key_value_heads.unwrap_or(n), dim },
            ffn: size(self.intermediate_size),
            norm_eps: self.rms_norm_eps,
            rope: Rope { theta: self.rope_theta, scaling: self.rope_scaling },
            tied: self.tie_word_embeddings,
            max_positions: self.max_position_embeddings,
            init_std: self.initializer_range,
        }
    }
}
