//! `[model]` of a run: Hugging Face's names for what a decoder is, or a directory to take it and its weights from. What is
//! not given is the family's. The same fields are the `config.json` of our own directories.
use crate::{AttentionBias, Decoder, Family, Mlp, NormKind, Position, Rope, Scaling, Window, WindowLayers, models};
use backend::{Heads, Nonlinearity, Pairs};
use serde::{Deserialize, Serialize};
use std::path::PathBuf;

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ModelConfig {
    /// A Hugging Face directory: shape and weights come from there, and nothing that it says may be given beside it.
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

    #[serde(skip_serializing_if = "Option::is_none")]
    pub norm: Option<NormKind>,
    /// Of whichever norm.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rms_norm_eps: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sandwich_norms: Option<bool>,

    #[serde(skip_serializing_if = "Option::is_none")]
    pub attention_bias: Option<AttentionBias>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub qk_norm: Option<bool>,
    /// 0: none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sliding_window: Option<usize>,
    /// Layers below this one have no window.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_window_layers: Option<usize>,
    /// Every so many layers the last has no window.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sliding_window_pattern: Option<usize>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub position_embedding: Option<PositionEmbedding>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rope_theta: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rope_scaling: Option<Scaling>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rope_layout: Option<RopeLayout>,
    /// 0: head_dim.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub query_pre_attn_scalar: Option<f64>,
    /// 0: none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub attn_logit_softcapping: Option<f64>,
    /// 0: none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub final_logit_softcapping: Option<f64>,

    #[serde(skip_serializing_if = "Option::is_none")]
    pub hidden_act: Option<HiddenAct>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub gated_mlp: Option<bool>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mlp_bias: Option<bool>,

    #[serde(skip_serializing_if = "Option::is_none")]
    pub scale_embedding: Option<bool>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub embed_grad_scale: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub norm_head: Option<bool>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tie_word_embeddings: Option<bool>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_position_embeddings: Option<usize>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub initializer_range: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub scaled_init: Option<bool>,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum PositionEmbedding {
    Rope,
    Alibi,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum RopeLayout {
    Half,
    Interleaved,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum HiddenAct {
    Silu,
    Gelu,
    #[serde(alias = "gelu_pytorch_tanh")]
    GeluTanh,
}

/// What may stand beside `init_from`: how the weights of a directory are trained on, not what they are.
const BESIDE: [&str; 4] = ["init_from", "rope_layout", "embed_grad_scale", "norm_head"];

impl ModelConfig {
    /// Problems of the section on its own; those of the decoder come with [`ModelConfig::decoder`].
    pub fn problems(&self) -> Vec<String> {
        let mut out = vec![];
        if let Some(dir) = &self.init_from {
            let given = serde_json::to_value(self).expect("plain data");
            for key in given.as_object().expect("a struct").keys().filter(|key| !BESIDE.contains(&key.as_str())) {
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
        if self.max_window_layers.is_some() && self.sliding_window_pattern.is_some() {
            out.push("model.max_window_layers and model.sliding_window_pattern both say which layers have a window; keep one".into());
        }
        if self.sliding_window_pattern == Some(0) {
            out.push("model.sliding_window_pattern = 0: must be at least 1; try 2".into());
        }
        let window = models::base(self.family.unwrap_or(Family::Llama)).window;
        if self.sliding_window.or(window.map(|w| w.size)).is_none() {
            for (key, value) in
                [("max_window_layers", self.max_window_layers), ("sliding_window_pattern", self.sliding_window_pattern)]
            {
                if let Some(n) = value {
                    out.push(format!(
                        "model.{key} = {n} does nothing without model.sliding_window; give it, or remove the key"
                    ));
                }
            }
        }
        if self.position_embedding == Some(PositionEmbedding::Alibi) {
            let keys = [
                ("rope_theta", self.rope_theta.is_some()),
                ("rope_scaling", self.rope_scaling.is_some()),
                ("rope_layout", self.rope_layout.is_some()),
            ];
            for (key, _) in keys.iter().filter(|(_, given)| *given) {
                out.push(format!("model.{key} does nothing with position_embedding = \"alibi\"; remove one of them"));
            }
        }
        out
    }

    /// The decoder that the section describes (without `init_from`). `vocab` is used where no vocab_size is given.
    /// Call it after [`ModelConfig::problems`] came back empty; missing sizes are zero, which the decoder reports.
    pub fn decoder(&self, vocab: usize) -> Decoder {
        let family = self.family.unwrap_or(Family::Llama);
        let base = models::base(family);
        let size = |n: Option<usize>| n.unwrap_or(0);
        let some = |given: Option<f64>, default: Option<f64>| given.map_or(default, |x| (x != 0.0).then_some(x));
        let (hidden, layers, n) =
            (size(self.hidden_size), size(self.num_hidden_layers), size(self.num_attention_heads));
        let dim = self.head_dim.unwrap_or(hidden.checked_div(n).unwrap_or(0));
        let query_scalar = some(self.query_pre_attn_scalar, base.query_scalar).filter(|x| *x != dim as f64);
        let by = self.hidden_act.map_or(base.mlp.by, HiddenAct::nonlinearity);
        let (gated, bias) = (self.gated_mlp.unwrap_or(base.mlp.gated), self.mlp_bias.unwrap_or(base.mlp.bias));
        let m = Decoder {
            family,
            vocab: self.vocab_size.unwrap_or(vocab),
            hidden,
            layers,
            heads: Heads { n, kv: self.num_key_value_heads.unwrap_or(n), dim },
            ffn: size(self.intermediate_size),
            norm: self.norm.unwrap_or(base.norm),
            norm_eps: self.rms_norm_eps.unwrap_or(base.norm_eps),
            sandwich_norms: self.sandwich_norms.unwrap_or(base.sandwich_norms),
            attention_bias: self.attention_bias.unwrap_or(base.attention_bias),
            qk_norm: self.qk_norm.unwrap_or(base.qk_norm),
            window: self.window(base.window, layers),
            position: self.position(base.position),
            query_scalar,
            score_cap: some(self.attn_logit_softcapping, base.score_cap),
            logit_cap: some(self.final_logit_softcapping, base.logit_cap),
            mlp: Mlp { gated, by, bias },
            scaled_embedding: self.scale_embedding.unwrap_or(base.scaled_embedding),
            tied: self.tie_word_embeddings.unwrap_or(base.tied),
            max_positions: self.max_position_embeddings.unwrap_or(base.max_positions),
            init_std: self.initializer_range.unwrap_or(base.init_std),
            scaled_init: self.scaled_init.unwrap_or(base.scaled_init),
            embed_grad_scale: base.embed_grad_scale,
            norm_head: base.norm_head,
        };
        self.beside(m)
    }

    /// What may be given beside `init_from`, put into the decoder of the directory.
    pub fn beside(&self, m: Decoder) -> Decoder {
        let position = match (m.position, self.rope_layout) {
            (Position::Rope(rope), Some(layout)) => Position::Rope(Rope { pairs: layout.pairs(), ..rope }),
            (position, _) => position,
        };
        Decoder {
            position,
            embed_grad_scale: self.embed_grad_scale.unwrap_or(m.embed_grad_scale),
            norm_head: self.norm_head.unwrap_or(m.norm_head),
            ..m
        }
    }

    fn window(&self, base: Option<Window>, layers: usize) -> Option<Window> {
        let size = self.sliding_window.or(base.map(|w| w.size)).filter(|size| *size > 0)?;
        let of = match (self.max_window_layers, self.sliding_window_pattern, base) {
            (Some(first), ..) => WindowLayers::From(first),
            (None, Some(n), _) => WindowLayers::ButEvery(n),
            (None, None, Some(base)) => base.layers,
            (None, None, None) => WindowLayers::All,
        };
        Window { size, layers: of }.plain(layers)
    }

    fn position(&self, base: Position) -> Position {
        let rope = match base {
            Position::Rope(rope) => rope,
            Position::Alibi => Rope::plain(10_000.0),
        };
        let default = if base == Position::Alibi { PositionEmbedding::Alibi } else { PositionEmbedding::Rope };
        match self.position_embedding.unwrap_or(default) {
            PositionEmbedding::Alibi => Position::Alibi,
            PositionEmbedding::Rope => Position::Rope(Rope {
                theta: self.rope_theta.unwrap_or(rope.theta),
                scaling: self.rope_scaling.or(rope.scaling),
                pairs: rope.pairs,
            }),
        }
    }

    /// The section that describes a decoder, every field given.
    pub fn of(m: &Decoder) -> ModelConfig {
        let rope = match m.position {
            Position::Rope(rope) => Some(rope),
            Position::Alibi => None,
        };
        let layers = m.window.map(|w| w.layers);
        ModelConfig {
            init_from: None,
            family: Some(m.family),
            vocab_size: Some(m.vocab),
            hidden_size: Some(m.hidden),
            num_hidden_layers: Some(m.layers),
            num_attention_heads: Some(m.heads.n),
            num_key_value_heads: Some(m.heads.kv),
            head_dim: Some(m.heads.dim),
            intermediate_size: Some(m.ffn),
            norm: Some(m.norm),
            rms_norm_eps: Some(m.norm_eps),
            sandwich_norms: Some(m.sandwich_norms),
            attention_bias: Some(m.attention_bias),
            qk_norm: Some(m.qk_norm),
            sliding_window: Some(m.window.map_or(0, |w| w.size)),
            max_window_layers: layers.and_then(|l| if let WindowLayers::From(n) = l { Some(n) } else { None }),
            sliding_window_pattern: layers.and_then(|l| if let WindowLayers::ButEvery(n) = l { Some(n) } else { None }),
            position_embedding: Some(if rope.is_some() { PositionEmbedding::Rope } else { PositionEmbedding::Alibi }),
            rope_theta: rope.map(|r| r.theta),
            rope_scaling: rope.and_then(|r| r.scaling),
            rope_layout: rope.map(|r| RopeLayout::of(r.pairs)),
            query_pre_attn_scalar: Some(m.query_scalar.unwrap_or(0.0)),
            attn_logit_softcapping: Some(m.score_cap.unwrap_or(0.0)),
            final_logit_softcapping: Some(m.logit_cap.unwrap_or(0.0)),
            hidden_act: Some(HiddenAct::of(m.mlp.by)),
            gated_mlp: Some(m.mlp.gated),
            mlp_bias: Some(m.mlp.bias),
            scale_embedding: Some(m.scaled_embedding),
            embed_grad_scale: Some(m.embed_grad_scale),
            norm_head: Some(m.norm_head),
            tie_word_embeddings: Some(m.tied),
            max_position_embeddings: Some(m.max_positions),
            initializer_range: Some(m.init_std),
            scaled_init: Some(m.scaled_init),
        }
    }
}

impl HiddenAct {
    fn nonlinearity(self) -> Nonlinearity {
        match self {
            HiddenAct::Silu => Nonlinearity::Silu,
            HiddenAct::Gelu => Nonlinearity::Gelu,
            HiddenAct::GeluTanh => Nonlinearity::GeluTanh,
        }
    }
    fn of(by: Nonlinearity) -> HiddenAct {
        match by {
            Nonlinearity::Silu => HiddenAct::Silu,
            Nonlinearity::Gelu => HiddenAct::Gelu,
            Nonlinearity::GeluTanh => HiddenAct::GeluTanh,
        }
    }
}

impl RopeLayout {
    fn pairs(self) -> Pairs {
        match self {
            RopeLayout::Half => Pairs::Half,
            RopeLayout::Interleaved => Pairs::Interleaved,
        }
    }
    fn of(pairs: Pairs) -> RopeLayout {
        match pairs {
            Pairs::Half => RopeLayout::Half,
            Pairs::Interleaved => RopeLayout::Interleaved,
        }
    }
}
