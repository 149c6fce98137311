//! Writing the fields of a `config.json` that families share.
use crate::{Decoder, Position, WindowLayers};
use backend::Nonlinearity;
use serde_json::{Value, json};

/// A family's own fields and the shared ones, in the spelling that old and new transformers read.
pub fn with_shape(m: &Decoder, mut own: Value) -> Value {
    let rope = match m.position {
        Position::Rope(rope) => Some(rope),
        Position::Alibi => None,
    };
    let scaling = rope.and_then(|r| r.scaling).map(|s| {
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
        "hidden_act": act(m.mlp.by),
        "rms_norm_eps": m.norm_eps,
        "rope_theta": rope.map(|r| r.theta),
        "rope_scaling": scaling,
        "tie_word_embeddings": m.tied,
        "max_position_embeddings": m.max_positions,
        "initializer_range": m.init_std,
        "torch_dtype": "float32",
        "use_cache": true,
    });
    let (Value::Object(out), Value::Object(shape)) = (&mut own, shape) else { unreachable!("both are objects") };
    out.extend(shape);
    own
}

/// Qwen's fields of the window.
pub fn with_window(m: &Decoder, mut own: Value) -> Value {
    own["use_sliding_window"] = m.window.is_some().into();
    own["sliding_window"] = m.window.map(|w| w.size).into();
    own["max_window_layers"] = match m.window.map(|w| w.layers) {
        None | Some(WindowLayers::ButEvery(_)) => m.layers.into(),
        Some(WindowLayers::From(first)) => first.into(),
        Some(WindowLayers::All) => 0.into(),
    };
    if m.window.is_some() {
        own["layer_types"] = layer_types(m);
    }
    own
}

pub fn layer_types(m: &Decoder) -> Value {
    let sliding = |l: usize| m.window.is_some_and(|w| w.is_of(l));
    (0..m.layers).map(|l| if sliding(l) { "sliding_attention" } else { "full_attention" }).collect()
}

pub fn act(by: Nonlinearity) -> &'static str {
    match by {
        Nonlinearity::Silu => "silu",
        Nonlinearity::Gelu => "gelu",
        Nonlinearity::GeluTanh => "gelu_pytorch_tanh",
    }
}

/// Without a point where it is an integer: some classes insist.
pub fn whole(x: f64) -> Value {
    if x.fract() == 0.0 && x.abs() < 1e15 { (x as i64).into() } else { x.into() }
}

pub fn remove(out: &mut Value, keys: &[&str]) {
    keys.iter().for_each(|key| drop(out.as_object_mut().expect("a config").remove(*key)));
}
