//! Gemma (norms of 1 + w, embeddings times sqrt(D), the tanh GELU) and Gemma 2 (norms on both sides of a half-block, soft
//! caps, a sliding window in every other layer).
use super::fields::Fields;
use super::json;
use super::llama;
use crate::{AttentionBias, Decoder, Family, Mlp, NormKind, Window, WindowLayers};
use backend::Nonlinearity;
use serde_json::{Value, json};

pub fn base1() -> Decoder {
    let llama = llama::base();
    Decoder {
        family: Family::Gemma,
        norm: NormKind::RmsPlusOne,
        norm_eps: 1e-6,
        mlp: Mlp { by: Nonlinearity::GeluTanh, ..llama.mlp },
        scaled_embedding: true,
        tied: true,
        max_positions: 8192,
        ..llama
    }
}

pub fn base2() -> Decoder {
    Decoder {
        family: Family::Gemma2,
        sandwich_norms: true,
        window: Some(Window { size: 4096, layers: WindowLayers::ButEvery(2) }),
        score_cap: Some(50.0),
        logit_cap: Some(30.0),
        ..base1()
    }
}

pub fn from_json1(config: &Value) -> Result<Decoder, Vec<String>> {
    let mut f = Fields::new(config);
    // The first releases say "gelu" and mean the tanh; a later field says so.
    f.expect_one("hidden_act", &["gelu_pytorch_tanh", "gelu"]);
    f.expect("hidden_activation", "gelu_pytorch_tanh");
    let m = shared(&mut f, base1());
    f.finish(m)
}

pub fn from_json2(config: &Value) -> Result<Decoder, Vec<String>> {
    let mut f = Fields::new(config);
    f.expect("hidden_act", "gelu_pytorch_tanh");
    f.expect("hidden_activation", "gelu_pytorch_tanh");
    let m = shared(&mut f, base2());
    let size = f.size_or_null("sliding_window", 4096);
    if let Some(size) = size {
        f.expect("sliding_window_size", size);
    }
    let layers = f.layer_types(m.layers).unwrap_or_else(|| WindowLayers::ButEvery(2).of(m.layers));
    let window = f.sliding(size, layers);
    let query_scalar = f.number("query_pre_attn_scalar", 256.0);
    let m = Decoder {
        window,
        query_scalar: (query_scalar != m.heads.dim as f64).then_some(query_scalar),
        score_cap: f.number_or_null("attn_logit_softcapping", 50.0),
        logit_cap: f.number_or_null("final_logit_softcapping", 30.0),
        ..m
    };
    f.finish(m)
}

fn shared(f: &mut Fields, base: Decoder) -> Decoder {
    f.required("head_dim");
    f.required("num_key_value_heads");
    f.expect("use_bidirectional_attention", false);
    let m = f.shape(base);
    Decoder { attention_bias: f.attention_bias("attention_bias"), ..m }
}

pub fn to_json1(m: &Decoder) -> Value {
    let own = json!({
        "architectures": ["GemmaForCausalLM"],
        "model_type": "gemma",
        "attention_bias": m.attention_bias == AttentionBias::All,
        "hidden_activation": json::act(m.mlp.by),
    });
    json::with_shape(m, own)
}

pub fn to_json2(m: &Decoder) -> Value {
    let own = json!({
        "architectures": ["Gemma2ForCausalLM"],
        "model_type": "gemma2",
        "attention_bias": m.attention_bias == AttentionBias::All,
        "hidden_activation": json::act(m.mlp.by),
        "sliding_window": m.window.map(|w| w.size),
        "layer_types": json::layer_types(m),
        "query_pre_attn_scalar": json::whole(m.query_scalar.unwrap_or(m.heads.dim as f64)),
        "attn_logit_softcapping": m.score_cap,
        "final_logit_softcapping": m.logit_cap,
    });
    json::with_shape(m, own)
}
