//! InternLM2: LLaMA's maths with queries, keys and values in one matrix, grouped by key/value head: its rows are, for
//! each of the K groups, N/K query heads, then the key head, then the value head, of H rows each. A model with normalised
//! head rows is stored with the rows normalised, and is then the same without.
use super::fields::Fields;
use super::json;
use super::llama;
use super::tensors::{FileTensor, rows};
use crate::{AttentionBias, Decoder, Family};
use serde_json::{Value, json};

pub fn base() -> Decoder {
    Decoder { family: Family::Internlm2, ..llama::base() }
}

pub fn from_json(config: &Value) -> Result<Decoder, Vec<String>> {
    let mut f = Fields::new(config);
    f.expect("hidden_act", "silu");
    let m = f.shape(base());
    let attention_bias = f.attention_bias("bias");
    f.finish(Decoder { attention_bias, ..m })
}

pub fn to_json(m: &Decoder) -> Value {
    let own = json!({
        "architectures": ["InternLM2ForCausalLM"],
        "model_type": "internlm2",
        "bias": m.attention_bias == AttentionBias::All,
    });
    json::with_shape(m, own)
}

pub fn tensors(m: &Decoder) -> Vec<FileTensor> {
    let mut out: Vec<FileTensor> = vec![];
    for spec in m.table() {
        let (prefix, field) = match spec.name.strip_prefix("model.layers.").and_then(|s| s.split_once('.')) {
            Some((layer, field)) => (format!("model.layers.{layer}."), field),
            None => (String::new(), spec.name.as_str()),
        };
        let (field, kind) = field.rsplit_once('.').expect("a name ends with what it is");
        let native = match field {
            "model.embed_tokens" => "model.tok_embeddings",
            "model.norm" => "model.norm",
            "lm_head" => "output",
            "input_layernorm" => "attention_norm",
            "post_attention_layernorm" => "ffn_norm",
            "self_attn.o_proj" => "attention.wo",
            "mlp.gate_proj" => "feed_forward.w1",
            "mlp.up_proj" => "feed_forward.w3",
            "mlp.down_proj" => "feed_forward.w2",
            "self_attn.q_proj" => {
                out.push(wqkv(m, &prefix, kind));
                continue;
            }
            "self_attn.k_proj" | "self_attn.v_proj" => continue, // rows of wqkv
            other => unreachable!("a parameter without a name in InternLM2: {other}"),
        };
        out.push(FileTensor::whole(m, format!("{prefix}{native}.{kind}"), &spec));
    }
    out
}

/// `kind` is weight or bias.
fn wqkv(m: &Decoder, prefix: &str, kind: &str) -> FileTensor {
    let (h, group) = (m.heads.dim, m.heads.n / m.heads.kv);
    let of = |which: &str, start: usize, n: usize| rows(m, &format!("{prefix}self_attn.{which}_proj.{kind}"), start, n);
    let pieces = (0..m.heads.kv)
        .flat_map(|g| [of("q", g * group * h, group * h), of("k", g * h, h), of("v", g * h, h)].concat())
        .collect();
    let shape = if kind == "bias" { vec![m.heads.qkv()] } else { vec![m.heads.qkv(), m.hidden] };
    FileTensor { name: format!("{prefix}attention.wqkv.{kind}"), shape, pieces }
}
