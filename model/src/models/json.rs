//! Reading and writing the fields of a `config.json` that all families share.
//!
//! A field that changes the maths and is not understood is refused, never ignored. A field nobody here knows is accepted
//! only when it is switched off (null, false, empty).
use crate::{Decoder, Family, Rope, Scaling};
use backend::Heads;
use serde_json::{Map, Value, json};

/// Fields that do not change the maths of training or of a forward.
const HARMLESS: &[&str] = &[
    "_name_or_path",
    "architectures",
    "attention_dropout",
    "attn_implementation",
    "auto_map",
    "bos_token_id",
    "dtype",
    "eos_token_id",
    "id2label",
    "is_llama_config",
    "label2id",
    "max_window_layers",
    "model_type",
    "pad_token_id",
    "pretraining_tp",
    "torch_dtype",
    "transformers.js_config",
    "transformers_version",
    "use_cache",
];

pub struct Fields<'a> {
    map: Map<String, Value>,
    config: &'a Value,
    problems: Vec<String>,
}

impl<'a> Fields<'a> {
    pub fn new(config: &'a Value) -> Self {
        let mut map = config.as_object().cloned().unwrap_or_default();
        HARMLESS.iter().for_each(|key| drop(map.remove(*key)));
        Fields { map, config, problems: vec![] }
    }

    /// A field that must have this value where it is given.
    pub fn expect(&mut self, key: &str, value: impl Into<Value>) {
        let value = value.into();
        if let Some(got) = self.map.remove(key).filter(|got| !got.is_null() && *got != value) {
            self.problems.push(format!("{key} = {got} changes the maths and is not supported; only {value} is"));
        }
    }

    fn size(&mut self, key: &str) -> Option<usize> {
        let got = self.map.remove(key).filter(|v| !v.is_null())?;
        let size = got.as_u64().map(|n| n as usize);
        if size.is_none() {
            self.problems.push(format!("{key} = {got} is not a size"));
        }
        size
    }

    fn needed(&mut self, key: &str) -> usize {
        if self.config.get(key).is_none_or(Value::is_null) {
            self.problems.push(format!("{key} is missing"));
        }
        self.size(key).unwrap_or(0)
    }

    fn number(&mut self, key: &str, default: f64) -> f64 {
        let got = self.map.remove(key);
        self.parse_number(key, got, default)
    }

    fn parse_number(&mut self, key: &str, got: Option<Value>, default: f64) -> f64 {
        match got.filter(|v| !v.is_null()) {
            None => default,
            Some(got) => got.as_f64().unwrap_or_else(|| {
                self.problems.push(format!("{key} = {got} is not a number"));
                default
            }),
        }
    }

    /// Off where it is not given.
    fn flag(&mut self, key: &str) -> bool {
        match self.map.remove(key).filter(|v| !v.is_null()) {
            None => false,
            Some(Value::Bool(on)) => on,
            Some(got) => {
                self.problems.push(format!("{key} = {got} is neither true nor false"));
                false
            }
        }
    }

    /// Both spellings: `rope_theta` and `rope_scaling`, and the newer `rope_parameters` that holds all of it.
    fn rope(&mut self) -> Rope {
        let theta = self.number("rope_theta", 10_000.0);
        let older = self.map.remove("rope_scaling").filter(|v| !v.is_null());
        let newer = self.map.remove("rope_parameters").filter(|v| !v.is_null());
        if older.is_some() && newer.is_some() {
            self.problems.push("rope_scaling and rope_parameters are both given; keep one".into());
        }
        let key = if newer.is_some() { "rope_parameters" } else { "rope_scaling" };
        let Some(given) = newer.or(older) else { return Rope { theta, scaling: None } };
        let Value::Object(mut given) = given else {
            self.problems.push(format!("{key} = {given} is not an object"));
            return Rope { theta, scaling: None };
        };
        let theta = self.parse_number(&format!("{key}.rope_theta"), given.remove("rope_theta"), theta);
        let kind = given.remove("rope_type").or(given.remove("type")).unwrap_or("default".into());
        given.remove("type");
        let scaling = match kind.as_str() {
            Some("default") if given.is_empty() => None,
            Some("linear" | "llama3") => {
                given.insert("rope_type".into(), kind);
                match serde_json::from_value::<Scaling>(Value::Object(given)) {
                    Ok(scaling) => Some(scaling),
                    Err(e) => {
                        self.problems.push(format!("{key}: {e}"));
                        None
                    }
                }
            }
            Some("default") => {
                let keys: Vec<_> = given.keys().cloned().collect();
                self.problems.push(format!("{key}: {} is not supported with rope_type \"default\"", keys.join(", ")));
                None
            }
            _ => {
                self.problems
                    .push(format!("{key}: rope_type {kind} is not supported; supported: default, linear, llama3"));
                None
            }
        };
        Rope { theta, scaling }
    }

    /// The decoder, if nothing is left that could change it.
    pub fn decoder(mut self, family: Family) -> Result<Decoder, Vec<String>> {
        let (hidden, n) = (self.needed("hidden_size"), self.needed("num_attention_heads"));
        let kv = self.size("num_key_value_heads").unwrap_or(n);
        let dim = self.size("head_dim").unwrap_or(hidden.checked_div(n).unwrap_or(0));
        let decoder = Decoder {
            family,
            vocab: self.needed("vocab_size"),
            hidden,
            layers: self.needed("num_hidden_layers"),
            heads: Heads { n, kv, dim },
            ffn: self.needed("intermediate_size"),
            norm_eps: self.number("rms_norm_eps", 1e-6),
            rope: self.rope(),
            tied: self.flag("tie_word_embeddings"),
            max_positions: self.size("max_position_embeddings").unwrap_or(2048),
            init_std: self.number("initializer_range", 0.02),
        };
        let off = |v: &Value| match v {
            Value::Null | Value::Bool(false) => true,
            Value::Array(a) => a.is_empty(),
            Value::Object(o) => o.is_empty(),
            Value::Number(_) | Value::String(_) | Value::Bool(true) => false,
        };
        for (key, value) in self.map.iter().filter(|(_, v)| !off(v)) {
            self.problems
                .push(format!("{key} = {value} is not known here and may change the maths; remove it if it does not"));
        }
        if self.problems.is_empty() {
            let strip = |p: String| p.strip_prefix("model.").map(str::to_string).unwrap_or(p);
            self.problems.extend(decoder.problems().into_iter().map(strip));
        }
        if self.problems.is_empty() { Ok(decoder) } else { Err(self.problems) }
    }
}

/// The shared fields of a written `config.json`, in the spelling that old and new transformers read.
pub fn put_shape(out: &mut Value, m: &Decoder) {
    let scaling = m.rope.scaling.map(|s| {
        let mut scaling = serde_json::to_value(s).expect("plain data");
        scaling["type"] = scaling["rope_type"].clone();
        scaling
    });
    let shape = json!({
        "vocab_size": m.vocab,
        "hidden_size": m.hidden,
        "num_hidden_layers": m.layers,
        "num_attention_heads": m.heads.n,
        "num_key_value_heads": m.heads.kv,
        "head_dim": m.heads.dim,
        "intermediate_size": m.ffn,
        "hidden_act": "silu",
        "rms_norm_eps": m.norm_eps,
        "rope_theta": m.rope.theta,
        "rope_scaling": scaling,
        "tie_word_embeddings": m.tied,
        "max_position_embeddings": m.max_positions,
        "initializer_range": m.init_std,
        "torch_dtype": "float32",
        "use_cache": true,
    });
    let (Value::Object(out), Value::Object(shape)) = (out, shape) else { unreachable!("both are objects") };
    out.extend(shape);
}
