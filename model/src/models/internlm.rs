//! InternLM: LLaMA with biases in attention and no groups of heads. `rotary` is what later code has for `rope_scaling`.
use super::fields::Fields;
use super::json;
use super::llama;
use crate::{AttentionBias, Decoder, Family, Position, Rope, Scaling};
use serde_json::{Value, json};

pub fn base() -> Decoder {
    Decoder { family: Family::Internlm, attention_bias: AttentionBias::All, ..llama::base() }
}

pub fn from_json(config: &Value) -> Result<Decoder, Vec<String>> {
    let mut f = Fields::new(config);
    f.without_groups();
    f.expect("hidden_act", "silu");
    let m = f.shape(base());
    let attention_bias = if f.flag("bias", true) { AttentionBias::All } else { AttentionBias::None };
    let position = match f.object("rotary") {
        None => m.position,
        Some(mut rotary) => {
            let theta = rotary.number("base", 10_000.0);
            let factor = rotary.number("scaling_factor", 1.0);
            let scaling = match rotary.word("type", "origin").as_str() {
                "origin" => None,
                "dynamic" => Some(Scaling::Dynamic { factor }),
                other => {
                    rotary.problem(format!("type = \"{other}\" is not supported; supported: origin, dynamic"));
                    None
                }
            };
            f.close(rotary);
            Position::Rope(Rope { scaling, ..Rope::plain(theta) })
        }
    };
    f.finish(Decoder { attention_bias, position, ..m })
}

pub fn to_json(m: &Decoder) -> Value {
    let rotary = match m.position {
        Position::Rope(Rope { theta, scaling: Some(Scaling::Dynamic { factor }), .. }) => {
            json!({ "type": "dynamic", "base": theta, "scaling_factor": factor })
        }
        Position::Rope(Rope { theta, .. }) => json!({ "type": "origin", "base": theta }),
        Position::Alibi => Value::Null,
    };
    let own = json!({
        "architectures": ["InternLMForCausalLM"],
        "model_type": "internlm",
        "bias": m.attention_bias == AttentionBias::All,
        "rotary": rotary,
    });
    let mut out = json::with_shape(m, own);
    json::remove(&mut out, &["num_key_value_heads", "head_dim", "rope_theta", "rope_scaling"]);
    out
}
