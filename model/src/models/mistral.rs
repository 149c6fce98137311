//! Mistral: LLaMA whose attention may have a sliding window in every layer.
use super::fields::Fields;
use super::json;
use super::llama;
use crate::{Decoder, Family, Mlp, Window, WindowLayers};
use serde_json::{Value, json};

pub fn base() -> Decoder {
    Decoder { family: Family::Mistral, max_positions: 32_768, ..llama::base() }
}

pub fn from_json(config: &Value) -> Result<Decoder, Vec<String>> {
    let mut f = Fields::new(config);
    f.required("num_key_value_heads");
    let m = f.shape(base());
    let mlp = Mlp { by: f.nonlinearity("hidden_act"), ..m.mlp };
    // A missing one is 4096 in transformers, null is none.
    let window = f.size_or_null("sliding_window", 4096).map(|size| Window { size, layers: WindowLayers::All });
    f.finish(Decoder { window, mlp, ..m })
}

pub fn to_json(m: &Decoder) -> Value {
    let own = json!({
        "architectures": ["MistralForCausalLM"],
        "model_type": "mistral",
        "sliding_window": m.window.map(|w| w.size),
    });
    json::with_shape(m, own)
}
