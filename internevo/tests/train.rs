//! `internevo train`: against PyTorch, against itself in other layouts and orders, and against itself interrupted.
mod common;
use common::{Desk, GOLDENS, golden, golden_json, stories};
use safetensors::SafeTensors;
use serde_json::Value;

// ---- against PyTorch -----------------------------------------------------------------------------------------------

#[test]
fn goldens_are_met() {
    for name in GOLDENS {
        let (desk, g) = (Desk::golden(name), golden_json(name));
        // The held-out rows of the golden are the first few of its training rows.
        let rows = g["eval_rows"].as_u64().unwrap() * g["seq_len"].as_u64().unwrap() + 1;
        let tokens = std::fs::read(golden(name).join("tokens.bin")).unwrap();
        desk.write("held_out.bin", &tokens[..2 * rows as usize]);
        desk.ok("train run.toml --set data.valid.path=held_out.bin --set train.validate_every=100");

        let rows = desk.metrics("golden");
        let curve = |key: &str| rows.iter().filter_map(|r| r[key].as_f64()).collect::<Vec<_>>();
        let close = |key: &str, want: &[f64]| {
            let got = curve(key);
            assert_eq!(got.len(), want.len(), "{name}: {key}");
            for (i, (a, b)) in got.iter().zip(want).enumerate() {
                assert!((a - b).abs() <= 2e-6 * b.abs(), "{name}: {key} {i}: {a}, PyTorch {b}");
            }
        };
        let list = |key: &str| g[key].as_array().unwrap().iter().map(|x| x.as_f64().unwrap()).collect::<Vec<_>>();
        let number = |key: &str| g[key].as_f64().unwrap();
        close("loss", &list("losses"));
        close("grad_norm", &list("grad_norms"));
        close("lr", &list("lrs"));
        close("val_loss", &[number("initial_eval_loss"), number("eval_loss")]);

        let saved = desk.read("runs/golden/checkpoints/step_10/model.safetensors");
        let saved = SafeTensors::deserialize(&saved).unwrap();
        let want = std::fs::read(golden(name).join("golden.safetensors")).unwrap();
        let want = SafeTensors::deserialize(&want).unwrap();
        let mut compared = 0;
        for (param, want) in want.iter().filter_map(|(n, t)| Some((n.strip_prefix("final.")?, t))) {
            let got = saved.tensor(param).unwrap_or_else(|e| panic!("{name}: {param}: {e}"));
            assert_eq!(got.shape(), want.shape(), "{name}: {param}");
            let (got, want) = (floats(&got), floats(&want));
            let largest = want.iter().fold(0.0f64, |m, x| m.max(x.abs()));
            let off = got.iter().zip(&want).fold(0.0f64, |m, (a, b)| m.max((a - b).abs()));
            assert!(off <= 1e-3 * largest, "{name}: {param} is off by {off} of {largest}");
            compared += 1;
        }
        assert_eq!(compared, saved.len(), "{name}: every tensor is compared");
    }
}

fn floats(t: &safetensors::tensor::TensorView) -> Vec<f64> {
    match t.dtype() {
        safetensors::Dtype::F64 => t.data().as_chunks().0.iter().map(|b| f64::from_le_bytes(*b)).collect(),
        safetensors::Dtype::F32 => t.data().as_chunks().0.iter().map(|b| f32::from_le_bytes(*b).into()).collect(),
        other => panic!("goldens are not {other}"),
    }
}

/// InternLM2 has no class in transformers.
#[test]
fn checkpoints_are_spelt_as_llama() {
    let desk = Desk::golden("internlm2_gqa");
    desk.ok("train run.toml --set train.steps=1 --set lr_schedule.warmup_steps=0");
    let config: Value = serde_json::from_str(&desk.text("runs/golden/checkpoints/step_1/config.json")).unwrap();
    assert_eq!(config["architectures"][0], "LlamaForCausalLM");
    let saved = desk.read("runs/golden/checkpoints/step_1/model.safetensors");
    let saved = SafeTensors::deserialize(&saved).unwrap();
    assert!(saved.tensor("model.layers.1.self_attn.q_proj.weight").is_ok(), "{:?}", saved.names());
}

// ---- in other layouts and orders -----------------------------------------------------------------------------------

/// Four micro-batches a step, of which `--set` makes what a layout needs.
const LAYOUTS: &str = "--set data.micro_batch_size=1 --set train.reproducible=2 \
    --set lr_schedule.warmup_steps=0 --set lr_schedule.kind=constant";

fn train_to(desk: &Desk, name: &str, steps: u64, more: &str) {
    desk.ok(&format!("train run.toml {LAYOUTS} --set name={name} --set train.steps={steps} {more}"));
}

#[test]
fn layouts_give_the_bits_of_one_rank() {
    let desk = Desk::golden("internlm2_gqa");
    let train = |name: &str, more: &str| {
        train_to(&desk, name, 6, more);
        (desk.results(name), desk.state(name, 6))
    };
    let one = train("one", "--set train.micro_batches=4");
    for (name, more) in [
        ("data", "--ranks 2 --set train.micro_batches=2"),
        ("zero0", "--ranks 2 --set train.micro_batches=2 --set parallel.zero.stage=0"),
        ("pipeline", "--ranks 2 --set train.micro_batches=4 --set parallel.pipeline.size=2"),
        (
            "gpipe",
            "--ranks 2 --set train.micro_batches=4 --set parallel.pipeline.size=2 --set parallel.pipeline.schedule=gpipe",
        ),
        ("both", "--ranks 4 --set train.micro_batches=2 --set parallel.pipeline.size=2"),
        ("threads", "--set train.micro_batches=4 --set threads=2"),
    ] {
        assert!(train(name, more) == one, "{name} differs from one rank");
    }
    // Sharding groups are part of a layout too.
    let four = "--ranks 4 --set train.micro_batches=1 --set train.reproducible=0";
    let groups = format!("{four} --set parallel.zero.size=2");
    assert!(train("groups", &groups) == train("four", four), "sharding groups of two differ from one of four");

    // The second half in another layout than the first.
    train_to(&desk, "moved", 3, "--ranks 2 --set train.micro_batches=2");
    train_to(&desk, "moved", 6, "--ranks 2 --set train.micro_batches=4 --set parallel.pipeline.size=2 --resume");
    assert!((desk.results("moved"), desk.state("moved", 6)) == one, "resumed in another layout");

    let other = train("other", "--set train.micro_batches=4 --set train.reproducible=4");
    assert_eq!(other.0.len(), one.0.len());
    assert_ne!(other.1, one.1, "the order of sums shows in the bits");
}

/// Several stages a rank, through checkpoints: the second half in another layout than the first.
#[test]
fn interleaved_pipelines_give_the_bits_of_one_rank() {
    let desk = Desk::new();
    desk.write(
        "run.toml",
        "[model]\nfamily = \"llama\"\nvocab_size = 211\nhidden_size = 16\nnum_hidden_layers = 5\nnum_attention_heads = 2\n\
         intermediate_size = 24\n[data]\nkind = \"random\"\nseq_len = 16\nmicro_batch_size = 1\n[train]\nmicro_batches = 4\n\
         [lr_schedule]\nkind = \"constant\"\nwarmup_steps = 0\n",
    );
    let train = |name: &str, steps: u64, more: &str| {
        desk.ok(&format!("train run.toml --set name={name} --set train.steps={steps} {more}"));
    };
    let interleaved = "--ranks 2 --set parallel.pipeline.size=2 --set parallel.pipeline.chunks=2 \
        --set parallel.pipeline.schedule=interleaved";
    train("one", 6, "");
    train("interleaved", 6, interleaved);
    train("moved", 3, interleaved);
    train("moved", 6, "--ranks 3 --set parallel.pipeline.size=3 --resume");
    let one = (desk.results("one"), desk.state("one", 6));
    assert!((desk.results("interleaved"), desk.state("interleaved", 6)) == one);
    assert!((desk.results("moved"), desk.state("moved", 6)) == one);
}

#[test]
fn tied_embeddings_of_a_pipeline_resume() {
    let desk = Desk::golden("llama_gqa_tied");
    let layout = "--ranks 4 --set train.micro_batches=2 --set parallel.pipeline.size=2";
    train_to(&desk, "whole", 6, layout);
    train_to(&desk, "halves", 3, layout);
    train_to(&desk, "halves", 6, &format!("{layout} --resume"));
    assert!((desk.results("halves"), desk.state("halves", 6)) == (desk.results("whole"), desk.state("whole", 6)));
}

#[test]
fn a_printed_schedule_gives_the_same_bits() {
    let desk = Desk::golden("internlm2_mqa");
    let layout =
        format!("{LAYOUTS} --set train.steps=6 --ranks 2 --set parallel.pipeline.size=2 --set train.micro_batches=4");
    let train = |name: &str, program: &str| {
        desk.ok(&format!("train run.toml {layout} --set name={name} {program}"));
        (desk.results(name), desk.state(name, 6))
    };
    let lowered = train("lowered", "");
    let printed = desk.ok(&format!("schedule run.toml {layout}"));
    desk.write("printed", &printed);
    assert!(train("printed", "--program printed") == lowered);

    let mut lines: Vec<&str> = printed.lines().collect();
    let squares = |l: &&str| l.starts_with("sum_squares");
    let pairs: Vec<usize> = (1..lines.len()).filter(|i| squares(&lines[i - 1]) && squares(&lines[*i])).collect();
    assert!(pairs.len() > 2);
    pairs.iter().step_by(2).for_each(|i| lines.swap(i - 1, *i));
    desk.write("swapped", lines.join("\n"));
    assert!(train("swapped", "--program swapped") == lowered);
}

// ---- interrupted ---------------------------------------------------------------------------------------------------

/// A run that is interrupted and resumed is the run that was not.
#[test]
fn resumed_runs_are_the_same_run() {
    let tokens = "--set data.micro_batch_size=1 --set data.seq_len=8 --set data.shuffle=true";
    let desk = Desk::golden("llama_mha");
    desk.write("text.toml", TEXT);
    desk.write("stories.jsonl", jsonl(40));
    for (case, train) in [
        ("solo", format!("train run.toml {tokens} --set lr_schedule.warmup_steps=40")),
        ("data", format!("train run.toml {tokens} --ranks 2")),
        ("pipeline", format!("train run.toml {tokens} --ranks 2 --set parallel.pipeline.size=2")),
        ("text", "train text.toml --set data.kind=jsonl --set data.path=stories.jsonl".into()),
    ] {
        for (how, code) in [("TERM", Some(0)), ("INT", Some(0)), ("KILL", None)] {
            let run = format!("{case}_{how}");
            let common = "--set checkpoint.every=20 --set train.validate_every=15 --set lr_schedule.kind=constant";
            let train = |name: &str, steps: u64, more: &str| {
                format!("{train} {common} --set name={name} --set train.steps={steps} {more}")
            };
            // It would not end by itself before the signal comes.
            let mut running = desk.start(&train(&run, 1_000_000, ""));
            running.until_rows(&desk, &run, 30);
            running.signal(how);
            let (ended, said) = running.end();
            assert_eq!(ended, code, "{run}: {said}");
            let done = desk.text(&format!("runs/{run}/metrics.jsonl")).matches("\"loss\"").count() as u64;
            if code.is_some() {
                let message = format!("stopped at step {done} of 1000000; --resume goes on from it");
                assert!(said.contains(&message), "{run}: {said}");
            }

            let steps = done + 12;
            let straight = format!("{run}_straight");
            desk.ok(&train(&straight, steps, ""));
            desk.ok(&train(&run, steps, "--resume"));
            assert_eq!(desk.results(&run), desk.results(&straight), "{run}");
            assert!(desk.state(&run, steps) == desk.state(&straight, steps), "{run}: final state");
        }
    }
}

#[test]
fn a_run_goes_on_to_more_steps_or_starts_again() {
    let desk = Desk::golden("llama_mha");
    let train = |more: &str| desk.ok(&format!("train run.toml --set checkpoint.every=2 {more}"));
    train("--set name=straight --set train.steps=12");
    assert_eq!(desk.checkpoints(), ["straight/checkpoints/step_10", "straight/checkpoints/step_12"], "keep_last is 2");
    let first = desk.run("train run.toml --set name=two --set train.steps=5 --set checkpoint.every=2 --resume");
    assert!(first.err.contains("runs/two has no checkpoint yet: starting from the beginning"), "{}", first.err);
    train("--set name=two --set train.steps=12 --set checkpoint.keep_last=3 --resume");
    assert_eq!(desk.results("two"), desk.results("straight"));
    assert!(desk.state("two", 12) == desk.state("straight", 12));
    let kept: Vec<String> = desk.checkpoints().into_iter().filter(|c| c.starts_with("two")).collect();
    assert_eq!(kept, ["two/checkpoints/step_10", "two/checkpoints/step_12", "two/checkpoints/step_8"]);

    train("--set name=two --set train.steps=3 --fresh");
    assert_eq!(desk.results("two"), desk.results("straight")[..3]);
    let kept: Vec<String> = desk.checkpoints().into_iter().filter(|c| c.starts_with("two")).collect();
    assert_eq!(kept, ["two/checkpoints/step_2", "two/checkpoints/step_3"]);
}

/// A checkpoint that was damaged after it was written is passed over, and what a crash left is cleared away.
#[test]
fn resume_goes_back_to_a_checkpoint_that_opens() {
    let desk = Desk::golden("llama_mha");
    let train = "train run.toml --set checkpoint.every=2 --set checkpoint.keep_last=5";
    desk.ok(&format!("{train} --set train.steps=6"));
    let damaged = "runs/golden/checkpoints/step_6/training/optimizer.safetensors";
    let bytes = desk.read(damaged);
    desk.write(damaged, &bytes[..bytes.len() - 1]);
    desk.write("runs/golden/checkpoints/step_8.tmp-12/model.safetensors", "half of it");
    let outcome = desk.run(&format!("{train} --resume"));
    assert_eq!(outcome.code, Some(0), "{}", outcome.err);
    assert!(outcome.err.contains("optimizer.safetensors: holds"), "{}", outcome.err);
    assert!(outcome.err.contains("going back to step 4"), "{}", outcome.err);
    let kept = ["step_10", "step_2", "step_4", "step_6", "step_6.abandoned", "step_8"];
    assert_eq!(desk.checkpoints(), kept.map(|c| format!("golden/checkpoints/{c}")));
    desk.ok(&format!("{train} --set name=straight"));
    assert_eq!(desk.results("golden"), desk.results("straight"));
    assert!(desk.state("golden", 10) == desk.state("straight", 10));
}

// ---- text ----------------------------------------------------------------------------------------------------------

const TEXT: &str = r#"
name = "text"
threads = 1
[model]
family = "internlm2"
hidden_size = 32
num_hidden_layers = 2
num_attention_heads = 4
num_key_value_heads = 2
intermediate_size = 64
max_position_embeddings = 64
[tokenizer]
vocab_size = 300
[data]
kind = "text"
path = "stories"
seq_len = 32
micro_batch_size = 2
shuffle = true
[data.valid]
fraction = 0.2
[train]
steps = 80
validate_every = 40
[optimizer]
lr = 1e-2
"#;

fn jsonl(documents: usize) -> String {
    stories(documents).iter().map(|text| format!("{}\n", serde_json::json!({ "text": text }))).collect()
}

#[test]
fn text_is_learned() {
    let desk = Desk::new();
    desk.write("run.toml", TEXT);
    desk.write("stories.jsonl", jsonl(60));
    for (i, text) in stories(60).iter().enumerate() {
        desk.write(&format!("stories/{i:02}.txt"), text);
    }
    // A file of its own is held out, which `eval` can read too.
    desk.write("held_out.txt", stories(75)[60..].concat());
    let held_out = serde_json::json!({ "text": desk.text("held_out.txt") });
    desk.write("held_out.jsonl", format!("{held_out}\n"));
    for (kind, path, valid) in [("text", "stories", "held_out.txt"), ("jsonl", "stories.jsonl", "held_out.jsonl")] {
        desk.write("run.toml", TEXT.replace("fraction = 0.2", &format!("path = {valid:?}")));
        let said = desk.ok(&format!("train run.toml --set name={kind} --set data.kind={kind} --set data.path={path}"));
        assert!(said.contains("a sample"), "{said}");
        let rows = desk.metrics(kind);
        let losses: Vec<f64> = rows.iter().filter_map(|r| r["val_loss"].as_f64()).collect();
        let steps: Vec<u64> =
            rows.iter().filter(|r| !r["val_loss"].is_null()).filter_map(|r| r["step"].as_u64()).collect();
        assert_eq!(steps, [0, 40, 80], "{kind}");
        // From a uniform guess over 300 tokens to less than half of it.
        assert!((losses[0] - 300f64.ln()).abs() < 0.2 && losses[2] < 0.5 * losses[0], "{kind}: {losses:?}");

        let checkpoint = format!("runs/{kind}/checkpoints/step_80");
        for file in ["tokenizer.json", "tokenizer_config.json", "config.json"] {
            assert!(desk.path(&checkpoint).join(file).exists(), "{kind}: {file}");
        }
        // Windows begin elsewhere than rows of packed documents do, so contexts differ a little.
        let eval = desk.json(&format!("eval {checkpoint} --text held_out.txt --seq-len 32 --json"));
        let loss = eval["loss"].as_f64().unwrap();
        assert!((loss - losses[2]).abs() < 0.05 * losses[2], "{kind}: {loss} after {losses:?}");
        assert!((eval["perplexity"].as_f64().unwrap() / loss.exp() - 1.0).abs() < 1e-12);
    }
}
