//! LLaMA: the names of the parameter table are its own.
use super::{FileTensor, json::Fields};
use crate::{Decoder, Family};
use serde_json::{Value, json};

pub fn from_json(config: &Value) -> Result<Decoder, Vec<String>> {
    let mut f = Fields::new(config);
    f.expect("hidden_act", "silu");
    f.expect("attention_bias", false);
    f.expect("mlp_bias", false);
    f.decoder(Family::Llama)
}

pub fn to_json(m: &Decoder) -> Value {
    let mut out = json!({
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "attention_bias": false,
        "mlp_bias": false,
    });
    super::json::put_shape(&mut out, m);
    out
}

pub fn tensors(m: &Decoder) -> Vec<FileTensor> {
    m.table().iter().map(|spec| FileTensor::whole(spec.name.clone(), spec)).collect()
}
