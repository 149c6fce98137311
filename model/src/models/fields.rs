//! Reading the fields of a `config.json` that families share.
//!
//! A field that changes the maths and is not understood is refused, never ignored. A field nobody here knows is accepted
//! only when it is switched off (null, false, empty).
use crate::problems::too_many_layers;
use crate::rope::Yarn;
use crate::{AttentionBias, Decoder, Position, Rope, Scaling, Window, WindowLayers};
use backend::{Heads, Nonlinearity};
use serde_json::{Map, Value};

/// Fields that do not change the maths of training or of a forward.
pub const HARMLESS: &[&str] = &[
    "_from_model_config",
    "_name_or_path",
    "architectures",
    "attention_dropout",
    "attn_implementation",
    "auto_map",
    "bos_token_id",
    "cache_implementation",
    "dtype",
    "eos_token_id",
    "gradient_checkpointing",
    "id2label",
    "is_llama_config",
    "label2id",
    "model_type",
    "pad_token_id",
    "pretraining_tp",
    "tokenizer_class",
    "torch_dtype",
    "transformers.js_config",
    "transformers_version",
    "use_cache",
];

/// What transformers takes where a config does not say; the same in all classes.
const THETA: f64 = 10_000.0;
const NORM_EPS: f64 = 1e-6;

/// The fields of an object that nobody has read yet, and what was wrong with those that were.
pub struct Fields {
    map: Map<String, Value>,
    /// Where the object is, as problems name it: empty, or `rotary.`.
    at: String,
    problems: Vec<String>,
}

impl Fields {
    pub fn new(config: &Value) -> Fields {
        let mut map = config.as_object().cloned().unwrap_or_default();
        HARMLESS.iter().for_each(|key| drop(map.remove(*key)));
        Fields { map, at: String::new(), problems: vec![] }
    }

    pub fn problem(&mut self, text: String) {
        self.problems.push(format!("{}{text}", self.at));
    }

    /// Not there and null are the same, in most fields.
    fn take(&mut self, key: &str) -> Option<Value> {
        self.map.remove(key).filter(|v| !v.is_null())
    }

    /// A size that stays to be read.
    pub fn peek(&self, key: &str) -> Option<u64> {
        self.map.get(key).and_then(Value::as_u64)
    }

    pub fn has(&self, key: &str) -> bool {
        self.map.contains_key(key)
    }

    /// A field whose default in transformers is a size of one model, which nobody would guess.
    pub fn required(&mut self, key: &str) {
        if !self.has(key) {
            self.problem(format!("{key} is missing"));
        }
    }

    /// A field that must have this value where it is given.
    pub fn expect(&mut self, key: &str, value: impl Into<Value>) {
        let value = value.into();
        if let Some(got) = self.take(key).filter(|got| *got != value) {
            self.problem(format!("{key} = {got} changes the maths and is not supported; only {value} is"));
        }
    }

    /// A field that must have one of these values where it is given.
    pub fn expect_one(&mut self, key: &str, values: &[&str]) {
        if let Some(got) = self.take(key).filter(|got| !values.iter().any(|v| got == v)) {
            let list = values.join(", ");
            self.problem(format!("{key} = {got} changes the maths and is not supported; supported: {list}"));
        }
    }

    pub fn size(&mut self, key: &str) -> Option<usize> {
        let got = self.take(key)?;
        let size = got.as_u64().map(|n| n as usize);
        if size.is_none() {
            self.problem(format!("{key} = {got} is not a size"));
        }
        size
    }

    fn needed(&mut self, key: &str) -> usize {
        if self.map.get(key).is_none_or(Value::is_null) {
            self.problem(format!("{key} is missing"));
        }
        self.size(key).unwrap_or(0)
    }

    /// A size that null switches off and that has a default.
    pub fn size_or_null(&mut self, key: &str, default: usize) -> Option<usize> {
        if self.has(key) { self.size(key) } else { Some(default) }
    }

    pub fn number(&mut self, key: &str, default: f64) -> f64 {
        self.number_or_nothing(key).unwrap_or(default)
    }

    /// A number that null switches off and that has a default.
    pub fn number_or_null(&mut self, key: &str, default: f64) -> Option<f64> {
        if self.has(key) { self.number_or_nothing(key) } else { Some(default) }
    }

    fn number_or_nothing(&mut self, key: &str) -> Option<f64> {
        let got = self.take(key)?;
        let number = got.as_f64();
        if number.is_none() {
            self.problem(format!("{key} = {got} is not a number"));
        }
        number
    }

    pub fn flag(&mut self, key: &str, default: bool) -> bool {
        match self.take(key) {
            None => default,
            Some(Value::Bool(on)) => on,
            Some(got) => {
                self.problem(format!("{key} = {got} is neither true nor false"));
                default
            }
        }
    }

    pub fn word(&mut self, key: &str, default: &str) -> String {
        match self.take(key) {
            None => default.into(),
            Some(Value::String(word)) => word,
            Some(got) => {
                self.problem(format!("{key} = {got} is not a word"));
                default.into()
            }
        }
    }

    /// The fields of an object, to be given back to [`Fields::close`].
    pub fn object(&mut self, key: &str) -> Option<Fields> {
        match self.take(key)? {
            Value::Object(map) => Some(Fields { map, at: format!("{}{key}.", self.at), problems: vec![] }),
            got => {
                self.problem(format!("{key} = {got} is not an object"));
                None
            }
        }
    }

    pub fn close(&mut self, object: Fields) {
        self.problems.extend(object.refuse_the_rest());
    }

    /// A family whose heads all have their own keys and values and are as wide as they can be.
    pub fn without_groups(&mut self) {
        if let (Some(d), Some(n)) = (self.peek("hidden_size"), self.peek("num_attention_heads")) {
            self.expect("num_key_value_heads", n);
            self.expect("head_dim", d.checked_div(n).unwrap_or(0));
        }
    }

    /// Biases of all four projections, or of none.
    pub fn attention_bias(&mut self, key: &str) -> AttentionBias {
        if self.flag(key, false) { AttentionBias::All } else { AttentionBias::None }
    }

    pub fn nonlinearity(&mut self, key: &str) -> Nonlinearity {
        match self.word(key, "silu").as_str() {
            "silu" | "swish" => Nonlinearity::Silu,
            "gelu" => Nonlinearity::Gelu,
            "gelu_pytorch_tanh" | "gelu_new" => Nonlinearity::GeluTanh,
            other => {
                let supported = "silu, gelu, gelu_pytorch_tanh";
                self.problem(format!("{key} = \"{other}\" is not supported; supported: {supported}"));
                Nonlinearity::Silu
            }
        }
    }

    /// The fields that all families have in common.
    pub fn shape(&mut self, base: Decoder) -> Decoder {
        let (hidden, n) = (self.needed("hidden_size"), self.needed("num_attention_heads"));
        let kv = self.size("num_key_value_heads").unwrap_or(n);
        let dim = self.size("head_dim").unwrap_or(hidden.checked_div(n).unwrap_or(0));
        let max_positions = self.size("max_position_embeddings").unwrap_or(base.max_positions);
        Decoder {
            vocab: self.needed("vocab_size"),
            hidden,
            layers: self.layers(),
            heads: Heads { n, kv, dim },
            ffn: self.needed("intermediate_size"),
            norm_eps: self.number("rms_norm_eps", NORM_EPS),
            position: Position::Rope(self.rope(max_positions)),
            tied: self.flag("tie_word_embeddings", base.tied),
            max_positions,
            init_std: self.number("initializer_range", 0.02),
            ..base
        }
    }

    fn layers(&mut self) -> usize {
        let layers = self.needed("num_hidden_layers");
        match too_many_layers(layers) {
            Some(problem) => {
                self.problems.extend(without_section(vec![problem]));
                0
            }
            None => layers,
        }
    }

    /// Both spellings: `rope_theta` and `rope_scaling`, and the newer `rope_parameters` that holds all of it.
    fn rope(&mut self, max_positions: usize) -> Rope {
        let theta = self.number("rope_theta", THETA);
        let (older, newer) = (self.object("rope_scaling"), self.object("rope_parameters"));
        if older.is_some() && newer.is_some() {
            self.problem("rope_scaling and rope_parameters are both given; keep one".into());
        }
        let Some(mut given) = newer.or(older) else { return Rope::plain(theta) };
        let theta = given.number("rope_theta", theta);
        let kind = given.word("type", "default");
        let kind = given.word("rope_type", &kind);
        let scaling = given.scaling(&kind, max_positions);
        self.close(given);
        Rope { scaling, ..Rope::plain(theta) }
    }

    fn scaling(&mut self, kind: &str, max_positions: usize) -> Option<Scaling> {
        let original = "original_max_position_embeddings";
        match kind {
            "default" => None,
            "linear" => Some(Scaling::Linear { factor: self.needed_number("factor") }),
            "dynamic" => {
                // Newer transformers looks at max_position_embeddings alone.
                self.expect(original, max_positions);
                Some(Scaling::Dynamic { factor: self.needed_number("factor") })
            }
            "llama3" => Some(Scaling::Llama3 {
                factor: self.needed_number("factor"),
                low_freq_factor: self.needed_number("low_freq_factor"),
                high_freq_factor: self.needed_number("high_freq_factor"),
                original_max_position_embeddings: self.size(original).unwrap_or(max_positions),
            }),
            "yarn" => {
                self.required("factor");
                let original_max_position_embeddings = self.size(original).unwrap_or(max_positions);
                let ratio = max_positions as f64 / original_max_position_embeddings as f64;
                Some(Scaling::Yarn(Yarn {
                    factor: self.number("factor", ratio),
                    original_max_position_embeddings,
                    beta_fast: self.number("beta_fast", 32.0),
                    beta_slow: self.number("beta_slow", 1.0),
                    truncate: self.flag("truncate", true),
                    attention_factor: self.number_or_nothing("attention_factor"),
                    mscale: self.number_or_nothing("mscale"),
                    mscale_all_dim: self.number_or_nothing("mscale_all_dim"),
                }))
            }
            other => {
                let supported = "default, linear, dynamic, llama3, yarn";
                self.problem(format!("rope_type \"{other}\" is not supported; supported: {supported}"));
                None
            }
        }
    }

    fn needed_number(&mut self, key: &str) -> f64 {
        self.required(key);
        self.number(key, 1.0)
    }

    /// The window as Qwen has it: `use_sliding_window`, in layers from `max_window_layers` on or as `layer_types` says.
    pub fn window(&mut self, layers: usize) -> Option<Window> {
        let on = self.flag("use_sliding_window", false);
        let size = self.size_or_null("sliding_window", 4096).filter(|_| on);
        let first = self.size("max_window_layers").unwrap_or(28);
        let types = self.layer_types(layers);
        let default = || (0..layers).map(|l| size.is_some() && l >= first).collect();
        self.sliding(size, types.unwrap_or_else(default))
    }

    /// Which layers have a window, from the newer `layer_types`.
    pub fn layer_types(&mut self, layers: usize) -> Option<Vec<bool>> {
        let got = self.take("layer_types")?;
        let word = |v: &Value| match v.as_str() {
            Some("sliding_attention") => Some(true),
            Some("full_attention") => Some(false),
            _ => None,
        };
        let types: Option<Vec<bool>> = got.as_array().and_then(|list| list.iter().map(word).collect());
        match types.filter(|types| types.len() == layers) {
            Some(types) => Some(types),
            None => {
                let words = "sliding_attention or full_attention";
                self.problem(format!("layer_types = {got} is not a list of {layers} times {words}"));
                None
            }
        }
    }

    /// The window that these layers have.
    pub fn sliding(&mut self, size: Option<usize>, layers: Vec<bool>) -> Option<Window> {
        if !layers.contains(&true) {
            return None;
        }
        let Some(size) = size else {
            self.problem("layer_types has sliding_attention, but there is no sliding_window".into());
            return None;
        };
        let n = layers.len();
        let from = (0..n).map(WindowLayers::From);
        let found = from.chain((2..=n).map(WindowLayers::ButEvery)).find(|l| l.of(n) == layers);
        if found.is_none() {
            self.problem("layer_types is neither windows from one layer on nor in all but every n-th layer".into());
        }
        Window { size, layers: found? }.plain(n)
    }

    /// What nobody read and what could change the decoder.
    fn refuse_the_rest(mut self) -> Vec<String> {
        let off = |v: &Value| match v {
            Value::Null | Value::Bool(false) => true,
            Value::Array(a) => a.is_empty(),
            Value::Object(o) => o.is_empty(),
            Value::Number(_) | Value::String(_) | Value::Bool(true) => false,
        };
        for (key, value) in std::mem::take(&mut self.map).iter().filter(|(_, v)| !off(v)) {
            self.problem(format!(
                "{key} = {value} is not known here and may change the maths; remove it if it does not"
            ));
        }
        self.problems
    }

    /// The decoder, if nothing is left that could change it.
    pub fn finish(self, decoder: Decoder) -> Result<Decoder, Vec<String>> {
        let mut problems = self.refuse_the_rest();
        if problems.is_empty() {
            problems = without_section(decoder.problems());
        }
        if problems.is_empty() { Ok(decoder) } else { Err(problems) }
    }
}

/// Problems name keys of a run file; a config.json has no sections.
pub fn without_section(problems: Vec<String>) -> Vec<String> {
    problems.into_iter().map(|p| p.replace("model.", "")).collect()
}
