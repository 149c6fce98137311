//! LLaMA: the names of the parameter table are its own.
use super::fields::Fields;
use super::json;
use crate::{AttentionBias, Decoder, Family, Mlp, NormKind, Position, Rope};
use backend::{Heads, Nonlinearity};
use serde_json::{Value, json};

pub fn base() -> Decoder {
    Decoder {
        family: Family::Llama,
        vocab: 0,
        hidden: 0,
        layers: 0,
        heads: Heads { n: 0, kv: 0, dim: 0 },
        ffn: 0,
        norm: NormKind::Rms,
        norm_eps: 1e-5,
        sandwich_norms: false,
        attention_bias: AttentionBias::None,
        qk_norm: false,
        window: None,
        position: Position::Rope(Rope::plain(10_000.0)),
        query_scalar: None,
        score_cap: None,
        logit_cap: None,
        mlp: Mlp { gated: true, by: Nonlinearity::Silu, bias: false },
        scaled_embedding: false,
        embed_grad_scale: 1.0,
        norm_head: false,
        tied: false,
        max_positions: 2048,
        init_std: 0.02,
        scaled_init: true,
    }
}

pub fn from_json(config: &Value) -> Result<Decoder, Vec<String>> {
    let mut f = Fields::new(config);
    let m = f.shape(base());
    let attention_bias = f.attention_bias("attention_bias");
    let mlp = Mlp { by: f.nonlinearity("hidden_act"), bias: f.flag("mlp_bias", false), ..m.mlp };
    f.finish(Decoder { attention_bias, mlp, ..m })
}

pub fn to_json(m: &Decoder) -> Value {
    let own = json!({
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "attention_bias": m.attention_bias == AttentionBias::All,
        "mlp_bias": m.mlp.bias,
    });
    json::with_shape(m, own)
}
