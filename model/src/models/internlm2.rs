//! InternLM2: LLaMA's maths with queries, keys and values in one matrix, grouped by key/value head: its rows are, for
//! each of the K groups, N/K query heads, then the key head, then the value head, of H rows each.
use super::{FileTensor, Piece, json::Fields};
use crate::{Decoder, Family};
use serde_json::{Value, json};

pub fn from_json(config: &Value) -> Result<Decoder, Vec<String>> {
    let mut f = Fields::new(config);
    f.expect("hidden_act", "silu");
    f.expect("bias", false);
    f.decoder(Family::Internlm2)
}

pub fn to_json(m: &Decoder) -> Value {
    let mut out = json!({
        "architectures": ["InternLM2ForCausalLM"],
        "model_type": "internlm2",
        "bias": false,
    });
    super::json::put_shape(&mut out, m);
    out
}

pub fn tensors(m: &Decoder) -> Vec<FileTensor> {
    let mut out: Vec<FileTensor> = vec![];
    for spec in m.table() {
        let (prefix, field) = match spec.name.strip_prefix("model.layers.").and_then(|s| s.split_once('.')) {
            Some((layer, field)) => (format!("model.layers.{layer}."), field),
            None => (String::new(), spec.name.as_str()),
        };
        let native = match field {
            "model.embed_tokens.weight" => "model.tok_embeddings.weight",
            "model.norm.weight" => "model.norm.weight",
            "lm_head.weight" => "output.weight",
            "input_layernorm.weight" => "attention_norm.weight",
            "post_attention_layernorm.weight" => "ffn_norm.weight",
            "self_attn.o_proj.weight" => "attention.wo.weight",
            "mlp.gate_proj.weight" => "feed_forward.w1.weight",
            "mlp.up_proj.weight" => "feed_forward.w3.weight",
            "mlp.down_proj.weight" => "feed_forward.w2.weight",
            "self_attn.q_proj.weight" => {
                out.push(wqkv(m, &prefix));
                continue;
            }
            "self_attn.k_proj.weight" | "self_attn.v_proj.weight" => continue, // rows of wqkv
            other => unreachable!("a parameter without a name in InternLM2: {other}"),
        };
        out.push(FileTensor::whole(format!("{prefix}{native}"), &spec));
    }
    out
}

fn wqkv(m: &Decoder, prefix: &str) -> FileTensor {
    let (h, group) = (m.heads.dim, m.heads.n / m.heads.kv);
    let piece = |which: &str, start: usize, rows: usize| Piece {
        param: format!("{prefix}self_attn.{which}_proj.weight"),
        start,
        rows,
    };
    let pieces = (0..m.heads.kv)
        .flat_map(|g| [piece("q", g * group * h, group * h), piece("k", g * h, h), piece("v", g * h, h)])
        .collect();
    FileTensor { name: format!("{prefix}attention.wqkv.weight"), shape: vec![m.heads.qkv(), m.hidden], pieces }
}
