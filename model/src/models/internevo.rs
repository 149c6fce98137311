//! Our own directories: any decoder, in the words of a run's `[model]`, every field given. No class of transformers opens
//! them; what such a class can compute is written as its family.
use super::{fields, llama};
use crate::{Decoder, Family, ModelConfig};
use serde_json::{Value, json};

pub fn base() -> Decoder {
    Decoder { family: Family::Internevo, ..llama::base() }
}

pub fn from_json(config: &Value) -> Result<Decoder, Vec<String>> {
    let mut map = config.as_object().cloned().unwrap_or_default();
    fields::HARMLESS.iter().for_each(|key| drop(map.remove(*key)));
    map.insert("family".into(), "internevo".into());
    let section: ModelConfig = serde_json::from_value(Value::Object(map)).map_err(|e| vec![e.to_string()])?;
    let mut problems = section.problems();
    if section.init_from.is_some() {
        problems.push("init_from is not for a config.json".into());
    }
    let decoder = section.decoder(0);
    problems.extend(if problems.is_empty() { decoder.problems() } else { vec![] });
    if problems.is_empty() { Ok(decoder) } else { Err(fields::without_section(problems)) }
}

pub fn to_json(m: &Decoder) -> Value {
    let section = ModelConfig { family: None, ..ModelConfig::of(m) };
    let mut out = serde_json::to_value(section).expect("plain data");
    out["model_type"] = "internevo".into();
    out["torch_dtype"] = json!("float32");
    out
}
