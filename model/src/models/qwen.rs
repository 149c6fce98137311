//! Qwen 2 (biases of queries, keys and values) and Qwen 3 (every query and key head normalised). Both may have a sliding
//! window in their upper layers.
use super::fields::Fields;
use super::json;
use super::llama;
use crate::{AttentionBias, Decoder, Family, Mlp, Position, Rope};
use serde_json::{Value, json};

pub fn base2() -> Decoder {
    Decoder {
        family: Family::Qwen2,
        norm_eps: 1e-6,
        attention_bias: AttentionBias::Qkv,
        position: Position::Rope(Rope::plain(1e6)),
        max_positions: 32_768,
        ..llama::base()
    }
}

pub fn base3() -> Decoder {
    Decoder { family: Family::Qwen3, attention_bias: AttentionBias::None, qk_norm: true, ..base2() }
}

pub fn from_json2(config: &Value) -> Result<Decoder, Vec<String>> {
    let mut f = Fields::new(config);
    f.expect("attention_bias", true);
    shared(f, base2())
}

pub fn from_json3(config: &Value) -> Result<Decoder, Vec<String>> {
    let mut f = Fields::new(config);
    f.required("head_dim");
    let attention_bias = f.attention_bias("attention_bias");
    shared(f, Decoder { attention_bias, ..base3() })
}

fn shared(mut f: Fields, base: Decoder) -> Result<Decoder, Vec<String>> {
    f.required("num_key_value_heads");
    let m = f.shape(base);
    let mlp = Mlp { by: f.nonlinearity("hidden_act"), ..m.mlp };
    let window = f.window(m.layers);
    f.finish(Decoder { mlp, window, ..m })
}

pub fn to_json2(m: &Decoder) -> Value {
    let own = json!({ "architectures": ["Qwen2ForCausalLM"], "model_type": "qwen2" });
    json::with_shape(m, json::with_window(m, own))
}

pub fn to_json3(m: &Decoder) -> Value {
    let own = json!({
        "architectures": ["Qwen3ForCausalLM"],
        "model_type": "qwen3",
        "attention_bias": m.attention_bias == AttentionBias::All,
    });
    json::with_shape(m, json::with_window(m, own))
}
