//! Baichuan and Baichuan 2: LLaMA with queries, keys and values in one matrix, one below the other, and no groups of
//! heads. The 13B models have ALiBi instead of RoPE, Baichuan 2 normalises the rows of the head, and their configs say
//! neither: the code beside them does. Both follow from what else the published configs have. What we write says both
//! outright.
use super::fields::Fields;
use super::json;
use super::llama;
use super::tensors::{FileTensor, rows};
use crate::{Decoder, Family, Position};
use serde_json::{Value, json};

pub fn base() -> Decoder {
    Decoder { family: Family::Baichuan, norm_eps: 1e-6, max_positions: 4096, ..llama::base() }
}

pub fn from_json(config: &Value) -> Result<Decoder, Vec<String>> {
    let mut f = Fields::new(config);
    f.without_groups();
    f.expect("hidden_act", "silu");
    let is_13b = (f.peek("hidden_size"), f.peek("num_attention_heads")) == (Some(5120), Some(40));
    let default = if is_13b || !f.has("max_position_embeddings") { "alibi" } else { "rope" };
    let alibi = match f.word("position_embedding", default).as_str() {
        "alibi" => true,
        "rope" => false,
        other => {
            f.problem(format!("position_embedding = \"{other}\" is not supported; supported: rope, alibi"));
            false
        }
    };
    let second = f.has("z_loss_weight") || f.peek("vocab_size") == Some(125_696);
    let norm_head = f.flag("norm_head", second);
    if f.number("z_loss_weight", 0.0) != 0.0 {
        f.problem("z_loss_weight is not 0, which changes the loss, and is not supported".into());
    }
    let longest = f.size("model_max_length");
    let m = f.shape(base());
    let max_positions = if f.has("max_position_embeddings") { m.max_positions } else { longest.unwrap_or(4096) };
    let position = if alibi { Position::Alibi } else { m.position };
    f.finish(Decoder { norm_head, position, max_positions, ..m })
}

pub fn to_json(m: &Decoder) -> Value {
    let alibi = m.position == Position::Alibi;
    let own = json!({
        "architectures": ["BaichuanForCausalLM"],
        "model_type": "baichuan",
        "position_embedding": if alibi { "alibi" } else { "rope" },
        "norm_head": m.norm_head,
        "model_max_length": m.max_positions,
    });
    let mut out = json::with_shape(m, own);
    json::remove(&mut out, &["num_key_value_heads", "head_dim"]);
    if alibi {
        json::remove(&mut out, &["max_position_embeddings", "rope_theta", "rope_scaling"]);
    }
    if m.norm_head {
        out["z_loss_weight"] = 0.into();
    }
    out
}

pub fn tensors(m: &Decoder) -> Vec<FileTensor> {
    let mut out: Vec<FileTensor> = vec![];
    for spec in m.table() {
        let (at, part) = spec.name.rsplit_once("self_attn.").unwrap_or(("", ""));
        match part {
            "q_proj.weight" => {
                let of = |p: &str, n: usize| rows(m, &format!("{at}self_attn.{p}_proj.weight"), 0, n * m.heads.dim);
                let pieces = [of("q", m.heads.n), of("k", m.heads.kv), of("v", m.heads.kv)].concat();
                let name = format!("{at}self_attn.W_pack.weight");
                out.push(FileTensor { name, shape: vec![m.heads.qkv(), m.hidden], pieces });
            }
            "k_proj.weight" | "v_proj.weight" => {} // rows of W_pack
            _ => out.push(FileTensor::whole(m, spec.name.clone(), &spec)),
        }
    }
    out
}
