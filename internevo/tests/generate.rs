//! `internevo generate`: the cached programs against PyTorch and against `eval`, and what ends or changes a text.
mod common;
use common::{Desk, GOLDENS, golden, golden_json};
use safetensors::SafeTensors;
use serde_json::Value;

fn tokens(answer: &Value) -> Vec<u32> {
    answer["tokens"].as_array().unwrap().iter().map(|id| id.as_u64().unwrap() as u32).collect()
}

fn list(ids: &[u32]) -> String {
    ids.iter().map(u32::to_string).collect::<Vec<_>>().join(",")
}

/// The likeliest token, after every prefix of a sequence.
#[test]
fn prefill_takes_the_token_that_pytorch_takes() {
    for name in GOLDENS {
        let (desk, dir) = (Desk::new(), golden(name).display().to_string());
        let ids: Vec<u32> = std::fs::read(golden(name).join("tokens.bin"))
            .unwrap()
            .chunks(2)
            .map(|b| u16::from_le_bytes([b[0], b[1]]).into())
            .collect();
        let file = std::fs::read(golden(name).join("golden.safetensors")).unwrap();
        let logits = SafeTensors::deserialize(&file).unwrap();
        let logits = logits.tensor("logits").unwrap();
        let [rows, vocab] = logits.shape()[..] else { panic!("{:?}", logits.shape()) };
        assert_eq!(rows, golden_json(name)["seq_len"].as_u64().unwrap() as usize);
        let logits: Vec<f64> = logits.data().as_chunks().0.iter().map(|b| f64::from_le_bytes(*b)).collect();
        for n in [1, 2, 3, 7, rows] {
            let row = &logits[(n - 1) * vocab..n * vocab];
            let best = (0..vocab).max_by(|a, b| row[*a].total_cmp(&row[*b])).unwrap();
            let prompt = list(&ids[..n]);
            let got = desk.json(&format!("generate {dir} --prompt-tokens {prompt} --max-new-tokens 1 --json"));
            assert_eq!(tokens(&got), [best as u32], "{name} after {n} tokens");
        }
    }
}

/// Each token of an answer is the one that comes first after a prompt of all before it.
#[test]
fn decoding_goes_on_as_prefill_would() {
    for name in GOLDENS {
        let (desk, dir) = (Desk::new(), golden(name).display().to_string());
        let generate = |prompt: &[u32], n: usize| {
            tokens(&desk.json(&format!("generate {dir} --prompt-tokens {} --max-new-tokens {n} --json", list(prompt))))
        };
        let mut text = vec![5, 9, 14];
        let answer = generate(&text, 10);
        assert_eq!(answer.len(), 10);
        for id in answer {
            assert_eq!(generate(&text, 1), [id], "{name} after {text:?}");
            text.push(id);
        }
    }
}

/// A model of few tokens and a long context, trained a little.
fn long_context() -> Desk {
    let desk = Desk::new();
    let ids: Vec<u8> = (0..4000u32).flat_map(|i| ((i * i / 7 + i / 3) as u16 % 8).to_le_bytes()).collect();
    desk.write("ids.bin", ids);
    desk.write(
        "run.toml",
        r#"
name = "long"
[model]
vocab_size = 8
hidden_size = 16
num_hidden_layers = 2
num_attention_heads = 2
intermediate_size = 32
max_position_embeddings = 600
initializer_range = 0.3
[data]
kind = "tokens"
path = "ids.bin"
seq_len = 64
micro_batch_size = 2
[train]
steps = 20
[optimizer]
lr = 1e-2
"#,
    );
    desk.ok("train run.toml");
    desk
}

/// `eval` has no cache: of all tokens, the one that makes a text likeliest is the greedy one. Prompts of one prefill
/// chunk (256 tokens) and of several.
#[test]
fn long_texts_are_read_as_eval_reads_them() {
    let desk = long_context();
    let ids: Vec<u32> = desk.read("ids.bin").chunks(2).map(|b| u16::from_le_bytes([b[0], b[1]]).into()).collect();
    let loss = |text: &[u32]| {
        desk.write("text.bin", text.iter().flat_map(|id| (*id as u16).to_le_bytes()).collect::<Vec<_>>());
        let eval = desk.json("eval runs/long/checkpoints/step_20 --tokens text.bin --seq-len 600 --json");
        assert_eq!(eval["tokens"], text.len() - 1);
        eval["loss"].as_f64().unwrap()
    };
    for n in [253, 300, 520] {
        let mut text = ids[..n].to_vec();
        let prompt = list(&text);
        let generate = "generate runs/long/checkpoints/step_20 --max-new-tokens 6 --json";
        for id in tokens(&desk.json(&format!("{generate} --prompt-tokens {prompt}"))) {
            let losses: Vec<f64> = (0..8).map(|other| loss(&[&text[..], &[other]].concat())).collect();
            let best = (0..8).min_by(|a, b| losses[*a].total_cmp(&losses[*b])).unwrap();
            assert_eq!(id, best as u32, "after {} tokens: {losses:?}", text.len());
            text.push(id);
        }
        assert_eq!(text.len(), n + 6);
    }
}

#[test]
fn sampling_follows_its_seed() {
    let (desk, dir) = (Desk::new(), golden("llama_mha").display().to_string());
    let generate = |more: &str| {
        tokens(&desk.json(&format!("generate {dir} --prompt-tokens 5,9,14 --max-new-tokens 24 --json {more}")))
    };
    let (greedy, one) = (generate(""), generate("--temperature 1 --seed 1"));
    assert_eq!(generate("--temperature 1 --seed 1"), one);
    assert_ne!(generate("--temperature 1 --seed 2"), one);
    assert_ne!(one, greedy);
    assert_eq!(generate("--temperature 1 --seed 1 --top-k 1"), greedy);
    assert_eq!(generate("--temperature 1 --seed 1 --top-p 1e-9"), greedy);
    assert_eq!(generate("--temperature 1e-4 --seed 1"), greedy);
    assert_eq!(generate("--threads 1"), generate("--threads 2"));
}

#[test]
fn a_text_ends_where_it_should() {
    let (desk, dir) = (Desk::new(), golden("llama_mha").display().to_string());
    let generate = |more: &str| desk.json(&format!("generate {dir} --prompt-tokens 5,9,14 --json {more}"));
    for (max, len, by) in [
        ("0", 0, "max_new_tokens"),
        ("7", 7, "max_new_tokens"),
        // 128 positions hold the prompt and all of the answer but its last token.
        ("1000", 126, "full context"),
        ("18446744073709551615", 126, "full context"),
    ] {
        let answer = generate(&format!("--max-new-tokens {max}"));
        assert_eq!((tokens(&answer).len(), answer["stopped_by"].as_str()), (len, Some(by)), "{max}");
    }

    // Every document is the same, so its end is certain.
    desk.write("same.jsonl", "{\"text\": \"one two three\"}\n".repeat(60));
    desk.write(
        "run.toml",
        r#"
name = "same"
[model]
hidden_size = 32
num_hidden_layers = 1
num_attention_heads = 2
intermediate_size = 32
[tokenizer]
vocab_size = 260
[data]
kind = "jsonl"
path = "same.jsonl"
seq_len = 32
micro_batch_size = 2
[train]
steps = 60
[optimizer]
lr = 2e-2
"#,
    );
    desk.ok("train run.toml");
    let generate =
        |more: &str| desk.json(&format!("generate runs/same/checkpoints/step_60 --prompt one --json {more}"));
    let answer = generate("");
    assert_eq!((answer["text"].as_str(), answer["stopped_by"].as_str()), (Some(" two three"), Some("end of text")));
    let longer = generate("--ignore-eos --max-new-tokens 60");
    assert_eq!((tokens(&longer).len(), longer["stopped_by"].as_str()), (60, Some("max_new_tokens")));
    assert_eq!(desk.ok("generate runs/same/checkpoints/step_60 --prompt one"), "one two three\n");
}

/// The ranks of a tensor-parallel group share a model; they come to the same tokens and the same loss.
#[test]
fn ranks_share_a_model() {
    let mut shared = 0;
    for name in GOLDENS {
        let (desk, dir) = (Desk::new(), golden(name).display().to_string());
        let ask = |more: &str| {
            desk.run(&format!("generate {dir} --prompt-tokens 3,1,4,1,5 --max-new-tokens 9 --json --logits {more}"))
        };
        let tokens_file = golden(name).join("tokens.bin").display().to_string();
        let loss = |more: &str| desk.json(&format!("eval {dir} --tokens {tokens_file} --seq-len 16 --json {more}"));
        for ranks in [2, 3, 4] {
            let cut = ask(&format!("--ranks {ranks}"));
            if cut.code != Some(0) {
                cut.refused(&[&format!("--ranks {ranks}: the ranks share the model"), "does not divide"]);
                continue;
            }
            let [cut, one]: [Value; 2] = [cut, ask("")].map(|out| serde_json::from_str(&out.out).unwrap());
            assert_eq!(tokens(&cut), tokens(&one), "{name} on {ranks} ranks");
            let logits = |answer: &Value| -> Vec<f64> {
                answer["logits"].as_array().unwrap().iter().map(|x| x.as_f64().unwrap()).collect()
            };
            let (cut, one) = (logits(&cut), logits(&one));
            let largest = one.iter().fold(0.0f64, |a, b| a.max(b.abs()));
            assert!(cut.len() == one.len() && cut.iter().zip(&one).all(|(a, b)| (a - b).abs() <= 1e-5 * largest));
            let [cut, one] = [format!("--ranks {ranks}"), String::new()].map(|more| loss(&more));
            let near = |key: &str| (cut[key].as_f64().unwrap() / one[key].as_f64().unwrap() - 1.0).abs() < 1e-6;
            assert!(near("loss") && near("tokens"), "{name} on {ranks} ranks: {cut} {one}");
            shared += 1;
        }
    }
    assert!(shared > 0, "some golden can be shared");
}
