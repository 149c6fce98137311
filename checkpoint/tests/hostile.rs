//! Directories that are not what they should be: each is refused with the file and what is wrong in it.
mod common;
use checkpoint::HfDir;
use common::*;
use safetensors::tensor::{Dtype, SafeTensors, TensorView};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::fs;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;

/// Opens a golden that was damaged; gives the refusal, or nothing.
fn refusal(name: &str, damage: impl FnOnce(&Path)) -> String {
    let dir = tempfile::tempdir().unwrap();
    copy(name, dir.path());
    damage(dir.path());
    match HfDir::open(dir.path()) {
        Ok(_) => String::new(),
        Err(e) => e.to_string(),
    }
}

fn contains(text: &str, words: &[&str]) {
    words.iter().for_each(|w| assert!(text.contains(w), "{w:?} is not in {text:?}"));
    assert!(!text.ends_with('.'), "{text}");
}

#[test]
fn config() {
    // (golden, key, value, what the refusal says)
    let table: &[(&str, &str, Value, &str)] = &[
        ("llama_mha", "hidden_act", json!("relu"), "hidden_act = \"relu\""),
        ("llama_mha", "hidden_act", json!(1), "hidden_act = 1 is not a word"),
        ("llama_mha", "attention_bias", json!("q"), "attention_bias = \"q\""),
        ("llama_mha", "mlp_bias", json!(0), "mlp_bias = 0"),
        ("llama_mha", "sliding_window", json!(4096), "sliding_window = 4096"),
        ("llama_mha", "a_new_idea", json!("on"), "a_new_idea = \"on\""),
        ("llama_mha", "quantization_config", json!({ "bits": 4 }), "quantization_config"),
        ("llama_mha", "rope_scaling", json!({ "rope_type": "longrope", "factor": 2.0 }), "rope_type \"longrope\""),
        ("llama_mha", "rope_scaling", json!({ "rope_type": "linear" }), "rope_scaling.factor is missing"),
        ("llama_mha", "rope_scaling", json!("linear"), "rope_scaling = \"linear\""),
        ("llama_gqa_tied", "rope_scaling", json!({ "type": "linear", "factor": 2.0 }), "are both given"),
        ("llama_mha", "rope_parameters", json!({ "rope_theta": "1e6" }), "rope_parameters.rope_theta = \"1e6\""),
        ("llama_mha", "rope_theta", json!("large"), "rope_theta = \"large\""),
        ("llama_mha", "tie_word_embeddings", json!("yes"), "tie_word_embeddings = \"yes\""),
        ("llama_mha", "hidden_size", json!(-24), "hidden_size = -24"),
        ("llama_mha", "hidden_size", json!(null), "hidden_size is missing"),
        ("llama_mha", "vocab_size", json!(0), "vocab_size = 0"),
        ("llama_mha", "vocab_size", json!(u64::MAX), "one of the sizes is too large"),
        ("llama_mha", "head_dim", json!(1_u64 << 62), "one of the sizes is too large"),
        ("llama_mha", "num_hidden_layers", json!(1_000_000_000), "num_hidden_layers = 1000000000"),
        ("qwen3", "num_hidden_layers", json!(1_u64 << 60), "num_hidden_layers = 1152921504606846976 is too large"),
        ("gemma2", "num_hidden_layers", json!(u32::MAX), "num_hidden_layers = 4294967295 is too large"),
        ("many_variants", "num_hidden_layers", json!(1_u64 << 60), "num_hidden_layers = 1152921504606846976 is too"),
        ("llama_mha", "num_key_value_heads", json!(2), "num_key_value_heads = 2 does not divide"),
        ("llama_mha", "num_attention_heads", json!((1_u64 << 61) - 1), "does not divide num_attention_heads"),
        ("llama_mha", "model_type", json!("gpt2"), "model_type = \"gpt2\""),
        ("internlm2_gqa", "bias", json!("on"), "bias = \"on\""),
        ("internlm2_mqa", "rope_scaling", json!({ "type": "dynamic", "factor": -2.0 }), "rope_scaling.factor = -2"),
    ];
    for (name, key, value, says) in table {
        let text = refusal(name, |dir| edit_json(&dir.join("config.json"), |c| c[*key] = value.clone()));
        contains(&text, &["config.json", says]);
    }
    for key in ["vocab_size", "hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size"] {
        let text = refusal("llama_mha", |dir| {
            edit_json(&dir.join("config.json"), |c| drop(c.as_object_mut().unwrap().remove(key)))
        });
        contains(&text, &["config.json", &format!("{key} is missing")]);
    }
    // A piece of a tensor for each head.
    let heads = refusal("internlm2_gqa", |dir| {
        edit_json(&dir.join("config.json"), |c| {
            (c["num_attention_heads"], c["num_key_value_heads"], c["head_dim"]) =
                (json!(1 << 30), json!(1 << 30), json!(2));
        })
    });
    contains(&heads, &["config.json", "rows, but their files have only"]);
    // All at once, and what is switched off is no obstacle.
    let two = refusal("llama_mha", |dir| {
        edit_json(&dir.join("config.json"), |c| (c["mlp_bias"], c["hidden_act"]) = (json!(1), json!("relu")))
    });
    contains(&two, &["mlp_bias", "hidden_act"]);
    let off = refusal("llama_mha", |dir| {
        edit_json(&dir.join("config.json"), |c| (c["sliding_window"], c["a_new_idea"]) = (json!(null), json!(false)))
    });
    assert_eq!(off, "");
    for (text, says) in [("{\"hidden_size\": ", "EOF"), ("", "EOF"), ("[1, 2]", "model_type"), ("\u{0}", "expected")] {
        let refused = refusal("llama_mha", |dir| fs::write(dir.join("config.json"), text).unwrap());
        contains(&refused, &["config.json", says]);
    }
}

#[test]
fn files() {
    let remove = |file: &'static str| move |dir: &Path| fs::remove_file(dir.join(file)).unwrap();
    contains(&refusal("llama_mha", remove("config.json")), &["cannot read", "config.json"]);
    contains(&refusal("llama_mha", remove("model.safetensors")), &["no model.safetensors"]);
    let longer = |dir: &Path| {
        let path = dir.join("model.safetensors");
        fs::write(&path, [fs::read(&path).unwrap(), vec![0; 3]].concat()).unwrap();
    };
    contains(&refusal("llama_mha", longer), &["model.safetensors", "3 bytes follow the last tensor"]);
    let pickle = |dir: &Path| fs::write(dir.join("model.safetensors"), b"PK\x03\x04archive/data.pkl").unwrap();
    contains(&refusal("llama_mha", pickle), &["model.safetensors", "not a safetensors file"]);

    let full = fs::metadata(golden("llama_mha").join("model.safetensors")).unwrap().len();
    let header = 8 + 3000;
    for len in [0, 1, 7, 8, 9, 100, header - 1, header, header + 1, full / 2, full - 4, full - 1] {
        let text = refusal("llama_mha", |dir| {
            fs::OpenOptions::new().write(true).open(dir.join("model.safetensors")).unwrap().set_len(len).unwrap()
        });
        let needed = [8, header, full].into_iter().find(|n| len < *n).unwrap();
        contains(&text, &["model.safetensors", &format!("{len} bytes"), &format!("{} are missing", needed - len)]);
    }
}

type Stored = BTreeMap<String, (Dtype, Vec<usize>, Vec<u8>)>;

/// Rewrites the tensors of a directory.
fn edit_tensors(dir: &Path, edit: impl FnOnce(&mut Stored)) {
    let path = dir.join("model.safetensors");
    let bytes = fs::read(&path).unwrap();
    let file = SafeTensors::deserialize(&bytes).unwrap();
    let mut all: Stored = file
        .tensors()
        .into_iter()
        .map(|(name, t)| (name, (t.dtype(), t.shape().to_vec(), t.data().to_vec())))
        .collect();
    edit(&mut all);
    let views =
        all.iter().map(|(name, (dtype, shape, data))| (name, TensorView::new(*dtype, shape.clone(), data).unwrap()));
    safetensors::serialize_to_file(views, None, &path).unwrap();
}

#[test]
fn tensors() {
    const NORM: &str = "model.layers.1.input_layernorm.weight";
    const EMBEDDING: &str = "model.embed_tokens.weight";
    type Edit = fn(&mut Stored);
    // (golden, edit, what the refusal says; nothing where it is accepted)
    let table: &[(&str, Edit, &[&str])] = &[
        ("llama_mha", |t| drop(t.remove(NORM)), &[NORM, "is missing"]),
        ("llama_mha", |t| drop(t.remove("lm_head.weight")), &["lm_head.weight", "is missing"]),
        ("llama_mha", |t| t.get_mut(NORM).unwrap().1 = vec![4, 6], &[NORM, "[4, 6]", "[24]"]),
        ("llama_mha", |t| t.get_mut(NORM).unwrap().0 = Dtype::I32, &[NORM, "stored as I32", "F32, F16, BF16, F64"]),
        (
            "llama_mha",
            |t| drop(t.insert("model.layers.1.self_attn.q_proj.bias".into(), (Dtype::F32, vec![1], vec![0; 4]))),
            &["tensor model.layers.1.self_attn.q_proj.bias does not belong"],
        ),
        (
            "llama_mha",
            |t| {
                drop(t.insert("model.layers.0.self_attn.rotary_emb.inv_freq".into(), (Dtype::F32, vec![1], vec![0; 4])))
            },
            &[],
        ),
        ("llama_gqa_tied", |t| drop(t.insert("lm_head.weight".into(), t[EMBEDDING].clone())), &[]),
        (
            "llama_gqa_tied",
            |t| {
                let mut head = t[EMBEDDING].clone();
                *head.2.last_mut().unwrap() ^= 1;
                t.insert("lm_head.weight".into(), head);
            },
            &["lm_head.weight differs from model.embed_tokens.weight", "tie_word_embeddings"],
        ),
        ("internlm2_gqa", |t| drop(t.remove("model.layers.1.attention.wqkv.weight")), &["wqkv.weight", "is missing"]),
    ];
    for (name, edit, says) in table {
        let text = refusal(name, |dir| edit_tensors(dir, edit));
        match says {
            [] => assert_eq!(text, ""),
            says => contains(&text, &[&["model.safetensors"], *says].concat()),
        }
    }
}

#[test]
fn index() {
    let cases: &[(Value, &[&str])] = &[
        (json!({ "metadata": {} }), &["missing field `weight_map`"]),
        (
            json!({ "weight_map": { "a": "../model-1.safetensors" } }),
            &["../model-1.safetensors", "not the name of a file"],
        ),
        (json!({ "weight_map": { "a": "/etc/passwd" } }), &["/etc/passwd", "not the name of a file"]),
        (json!({ "weight_map": { "a": ".." } }), &["not the name of a file"]),
        (json!({ "weight_map": { "a": "lost.safetensors" } }), &["cannot open", "lost.safetensors"]),
        (json!({ "weight_map": { "a": "x.safetensors" } }), &["index.json", "tensor a is not in x.safetensors"]),
        (
            json!({ "weight_map": { "lm_head.weight": "x.safetensors", "model.norm.weight": "y.safetensors" } }),
            &["index.json", "x.safetensors", "y.safetensors"],
        ),
        (json!({ "weight_map": {} }), &["config.json", "only 0 tensors"]),
        (json!({ "weight_map": { "lm_head.weight": "x.safetensors" } }), &[]),
    ];
    for (index, says) in cases {
        let text = refusal("llama_mha", |dir| {
            fs::copy(dir.join("model.safetensors"), dir.join("y.safetensors")).unwrap();
            fs::rename(dir.join("model.safetensors"), dir.join("x.safetensors")).unwrap();
            fs::write(dir.join("model.safetensors.index.json"), index.to_string()).unwrap();
        });
        if says.is_empty() { assert_eq!(text, "") } else { contains(&text, says) }
    }
}

/// Whatever the bytes, there is an answer: a directory that can be read to its end, or a refusal.
#[test]
fn flipped_bytes_never_panic() {
    let mut numbers = Numbers(2024);
    for (file, header, flips) in [("model.safetensors", 3008, 300), ("config.json", 0, 300)] {
        let clean = fs::read(golden("llama_mha").join(file)).unwrap();
        let dir = tempfile::tempdir().unwrap();
        copy("llama_mha", dir.path());
        let mut refused = 0;
        for i in 0..flips {
            let mut bytes = clean.clone();
            // Half of the flips hit the header, which is a small part of the file.
            let at = numbers.below(if header > 0 && i % 2 == 0 { header } else { bytes.len() });
            bytes[at] ^= 1 << numbers.below(8);
            fs::write(dir.path().join(file), &bytes).unwrap();
            let answer = catch_unwind(AssertUnwindSafe(|| {
                let model = HfDir::open(dir.path())?;
                for spec in model.decoder().table() {
                    model.read(&spec.name, 0, &mut vec![0.0; spec.len()])?;
                }
                Ok::<(), checkpoint::CheckpointError>(())
            }));
            match answer {
                Ok(Ok(())) => {}
                Ok(Err(_)) => refused += 1,
                Err(_) => panic!("byte {at} of {file}: {} became {}", clean[at], bytes[at]),
            }
        }
        println!("{file}: {refused} of {flips} flips refused");
        assert!(refused > 100, "{file}: only {refused} of {flips} flips refused");
    }
}
