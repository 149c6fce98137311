//! What makes training comfortable: ramp-up, skipped batches, logs, timelines, losses by type, precision, recomputation.
mod common;
use common::{Desk, stories};
use serde_json::Value;

fn numbers(rows: &[Value], key: &str) -> Vec<f64> {
    rows.iter().filter_map(|r| r[key].as_f64()).collect()
}

// ---- the course of a run -------------------------------------------------------------------------------------------

const RAMP: &str = "--set train.micro_batches=4 --set train.steps=7 --set lr_schedule.kind=constant \
    --set lr_schedule.warmup_steps=0 --set data.micro_batch_size=1 \
    --set train.ramp_up.start=1 --set train.ramp_up.increment=2 --set train.ramp_up.every=2";

#[test]
fn the_batch_grows_and_a_resume_goes_on_where_it_was() {
    let desk = Desk::golden("llama_mha");
    desk.ok(&format!("train run.toml {RAMP} --set name=whole"));
    let rows = desk.metrics("whole");
    assert_eq!(numbers(&rows, "micro_batches"), [1.0, 1.0, 3.0, 3.0, 4.0, 4.0, 4.0]);
    let tokens = numbers(&rows, "tokens");
    let one = tokens[0];
    let grown: Vec<f64> = tokens.windows(2).map(|t| (t[1] - t[0]) / one).collect();
    assert_eq!(grown, [1.0, 3.0, 3.0, 4.0, 4.0, 4.0]);

    desk.ok(&format!("train run.toml {RAMP} --set name=parts --set checkpoint.every=3"));
    for step in [6, 7] {
        std::fs::remove_dir_all(desk.path(&format!("runs/parts/checkpoints/step_{step}"))).unwrap();
    }
    desk.ok(&format!("train run.toml {RAMP} --set name=parts --set checkpoint.auto_resume=true"));
    assert_eq!(desk.results("parts"), desk.results("whole"));
    assert_eq!(desk.state("parts", 7), desk.state("whole", 7));

    let edited = desk.ok(&format!("schedule run.toml {RAMP}"));
    desk.write("edited.txt", edited);
    desk.run(&format!("train run.toml {RAMP} --fresh --program edited.txt"))
        .refused(&["train.ramp_up makes 3 of them"]);
}

#[test]
fn skipped_batches_are_left_out_and_the_others_stay_in_their_place() {
    let desk = Desk::golden("llama_mha");
    let train = |name: &str, more: &str| {
        desk.ok(&format!("train run.toml --set train.steps=6 --set name={name} {more}"));
        desk.metrics(name)
    };
    let (all, some) = (train("all", ""), train("some", "--set train.skip_batches=1,3-4"));
    let left_out: Vec<u64> =
        some.iter().filter(|r| r["left_out"] == true).map(|r| r["step"].as_u64().unwrap()).collect();
    assert_eq!(left_out, [2, 4, 5]);
    let steps: Vec<u64> = some.iter().map(|r| r["step"].as_u64().unwrap()).collect();
    assert_eq!(steps, [1, 2, 3, 4, 5, 6]);
    assert_eq!(some[0]["loss"], all[0]["loss"]);
    assert_ne!(some[2]["loss"], all[2]["loss"], "step 2 did nothing");
    let (kept, whole) = (numbers(&some, "tokens"), numbers(&all, "tokens"));
    assert_eq!(kept, whole[..3], "what was left out is not counted");

    // Of one step that skips everything before it: the weights are still the first ones, the batch is its own.
    let late = train("late", "--set train.skip_batches=0-4");
    let fresh = train("fresh", "--set optimizer.lr=1e-30 --set lr_schedule.min_lr=0");
    assert!((late[5]["loss"].as_f64().unwrap() - fresh[5]["loss"].as_f64().unwrap()).abs() < 1e-9);
}

// ---- what a run tells ----------------------------------------------------------------------------------------------

/// Of a line `key=value key=value`, where keys may hold spaces.
fn field(line: &str, key: &str) -> f64 {
    let at = line.find(&format!(" {key}=")).unwrap_or_else(|| panic!("no {key} in {line}"));
    let value = line[at + key.len() + 2..].split(' ').next().unwrap();
    value.parse().unwrap_or_else(|e| panic!("{key}={value}: {e}"))
}

#[test]
fn every_rank_has_a_log_with_the_fields_of_the_original() {
    let desk = Desk::golden("internlm2_gqa");
    desk.ok("train run.toml --ranks 2 --set train.micro_batches=2 --set train.steps=4 --set optimizer.beta2_c=0.9");
    let rows = desk.metrics("golden");
    for rank in [0, 1] {
        let log = desk.text(&format!("runs/golden/logs/rank_{rank}.log"));
        let steps: Vec<&str> =
            log.lines().filter(|l| l.contains(" tflops=")).map(|l| l.split_once("INFO").unwrap().1).collect();
        assert_eq!(steps.len(), 4);
        for (i, line) in steps.iter().enumerate() {
            let row = &rows[i];
            assert_eq!(field(line, "step"), i as f64);
            let near = |key: &str, want: &Value, off: f64| {
                let (got, want) = (field(line, key), want.as_f64().unwrap());
                assert!((got - want).abs() <= off, "{key} of step {i}: {got}, in metrics.jsonl {want}");
            };
            near("loss", &row["loss"], 0.0);
            near("lr", &row["lr"], 0.0);
            near("adam_beta2", &row["beta2"], 0.0);
            near("loss_scale", &1.0.into(), 0.0);
            near("acc", &row["accuracy"], 1e-4);
            near("loss_from_metric", &row["loss"], 1e-4);
            near("perplexity", &row["loss"].as_f64().unwrap().exp().into(), 1e-3);
            near("micro_num", &2.0.into(), 0.0);
            near("inf_nan_skip_batches", &0.0.into(), 0.0);
            assert!(line.contains(&format!("grad_norm={{'0_default': {}}}", row["grad_norm"])), "{line}");
            for key in
                ["tgs (tokens/gpu/second)", "tgs/last_tgs_1", "tgs/tgs_all", "tgs/tgs_avg", "tgs/tgs_SMA", "tflops"]
            {
                assert!(field(line, key) > 0.0, "{key}");
            }
            for key in ["tgs/last_tgs_10", "tgs/last_tgs_50", "fwd_bwd_time"] {
                assert!(field(line, key) >= 0.0, "{key}");
            }
            assert!(field(line, "num_samples_in_batch") >= 2.0 && field(line, "largest_length") > 1.0);
            assert!(field(line, "largest_batch") >= field(line, "smallest_batch"));
        }
        let consumed: Vec<f64> = steps.iter().map(|l| field(l, "num_consumed_tokens")).collect();
        assert!(consumed.windows(2).all(|c| (c[1] - c[0] - consumed[0]).abs() < 0.5), "{consumed:?}");
    }
    let beta2 = numbers(&rows, "beta2");
    let want: Vec<f64> = (1..=4).map(|t| f64::max(0.95, 1.0 - (t as f64).powf(-0.9))).collect();
    assert_eq!(beta2, want);
}

#[test]
fn a_timeline_shows_every_action_of_every_rank() {
    let desk = Desk::golden("internlm2_gqa");
    desk.write("run.toml", desk.text("run.toml") + "[metrics]\ntrace_steps = [2]\n");
    desk.ok("train run.toml --ranks 2 --set train.steps=3 --set parallel.pipeline.size=2");
    let trace: Value = serde_json::from_str(&desk.text("runs/golden/trace/step_2.json")).unwrap();
    let events = trace["traceEvents"].as_array().unwrap();
    let schedule = desk.ok("schedule run.toml --ranks 2 --set train.steps=3 --set parallel.pipeline.size=2");
    let mut rank = usize::MAX;
    let mut actions = 0;
    for line in schedule.lines().filter(|l| !l.starts_with('#')) {
        if let Some(next) = line.strip_prefix("rank ") {
            rank = next.parse().unwrap();
            continue;
        }
        let found = events.iter().find(|e| e["ph"] == "X" && e["pid"] == rank && e["name"] == line);
        let event = found.unwrap_or_else(|| panic!("{line} of rank {rank} is not in the trace"));
        assert!(event["ts"].as_f64().unwrap() >= 0.0 && event["dur"].as_f64().unwrap() >= 0.0);
        actions += 1;
    }
    assert_eq!(events.iter().filter(|e| e["ph"] == "X").count(), actions);
    let names = events.iter().filter(|e| e["name"] == "thread_name");
    assert!(names.map(|e| e["args"]["name"].as_str().unwrap()).any(|name| name == "send down"), "a lane a row");
    // What a rank computes, it computes one after the other.
    for pid in 0..2 {
        let mut spans: Vec<(f64, f64)> = events
            .iter()
            .filter(|e| e["ph"] == "X" && e["pid"] == pid && e["tid"] == 0)
            .map(|e| (e["ts"].as_f64().unwrap(), e["dur"].as_f64().unwrap()))
            .collect();
        spans.sort_by(|a, b| a.0.total_cmp(&b.0));
        assert!(spans.windows(2).all(|s| s[0].0 + s[0].1 <= s[1].0 + 1e-3), "compute overlaps itself");
    }
}

// ---- types and sets ------------------------------------------------------------------------------------------------

/// A `.bin` of the original with its `.meta`.
fn write_bin(desk: &Desk, path: &str, samples: &[Vec<i64>]) {
    let (mut bin, mut rows) = (String::new(), vec![]);
    for tokens in samples {
        rows.extend([bin.len() as i64, tokens.len() as i64]);
        bin += &format!("{{\"tokens\": {tokens:?}}}\n");
    }
    let shape = samples.len();
    let mut header = format!("{{'descr': '<i8', 'fortran_order': False, 'shape': ({shape}, 2), }}");
    header += &" ".repeat((64 - (10 + header.len() + 1) % 64) % 64);
    header.push('\n');
    let mut meta = b"\x93NUMPY\x01\x00".to_vec();
    meta.extend((header.len() as u16).to_le_bytes());
    meta.extend(header.as_bytes());
    rows.iter().for_each(|n| meta.extend(n.to_le_bytes()));
    desk.write(path, bin);
    desk.write(&format!("{path}.meta"), meta);
}

const TYPED: &str = r#"
name = "typed"
threads = 1
[model]
family = "internlm2"
vocab_size = 32
hidden_size = 16
num_hidden_layers = 2
num_attention_heads = 2
intermediate_size = 32
[data]
kind = "internevo"
path = "train"
seq_len = 16
micro_batch_size = 2
shuffle = true
[data.valid]
path = "valid"
min_length = 4
[train]
steps = 30
micro_batches = 2
validate_every = 30
[optimizer]
lr = 3e-2
"#;

/// One type of text repeats itself, the other is noise: the losses tell them apart.
#[test]
fn losses_are_told_by_type_and_by_set() {
    let desk = Desk::new();
    let mut x = 1u64;
    let mut noise = |_| {
        x = x.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        1 + ((x >> 33) % 30) as i64
    };
    let counting = |start: i64, len: i64| (0..len).map(|i| 1 + (start + i) % 30).collect::<Vec<i64>>();
    let noisy: Vec<Vec<i64>> = (0..60).map(|_| (0..20).map(&mut noise).collect()).collect();
    let easy: Vec<Vec<i64>> = (0..60).map(|i| counting(i, 20)).collect();
    write_bin(&desk, "train/count/a.bin", &easy);
    write_bin(&desk, "train/noise/b.bin", &noisy);
    write_bin(&desk, "valid/count/v.bin", &easy[..8]);
    write_bin(&desk, "valid/noise/v.bin", &noisy[..8]);
    desk.write("run.toml", TYPED);
    desk.ok("train run.toml");
    let rows = desk.metrics("typed");
    let last = rows.iter().rfind(|r| r["loss"].is_f64()).unwrap();
    for row in rows.iter().filter(|r| r["loss"].is_f64()) {
        let types = row["types"].as_object().unwrap();
        assert_eq!(types.keys().collect::<Vec<_>>(), ["count", "noise"]);
        let parts: Vec<(f64, f64, f64)> = types
            .values()
            .filter(|t| t["tokens"].as_f64().unwrap() > 0.0)
            .map(|t| ["loss", "tokens", "accuracy"].map(|k| t[k].as_f64().unwrap()).into())
            .collect();
        let tokens: f64 = parts.iter().map(|p| p.1).sum();
        let mean = |f: &dyn Fn(&(f64, f64, f64)) -> f64| parts.iter().map(|p| f(p) * p.1).sum::<f64>() / tokens;
        assert!((mean(&|p| p.0) - row["loss"].as_f64().unwrap()).abs() < 1e-6, "{row}");
        assert!((mean(&|p| p.2) - row["accuracy"].as_f64().unwrap()).abs() < 1e-9, "{row}");
    }
    let of = |row: &Value, kind: &str, key: &str| row["types"][kind][key].as_f64().unwrap();
    let easy_at_the_end: Vec<f64> =
        rows.iter().rev().filter_map(|r| r["types"]["count"]["accuracy"].as_f64()).take(5).collect();
    assert!(easy_at_the_end.iter().sum::<f64>() / easy_at_the_end.len() as f64 > 0.5, "{easy_at_the_end:?}");
    assert!((of(last, "noise", "perplexity").ln() - of(last, "noise", "loss")).abs() < 1e-9);

    let held_out: Vec<(&str, f64, f64)> = rows
        .iter()
        .filter(|r| r["val_loss"].is_f64() && r["step"] == 30)
        .map(|r| (r["set"].as_str().unwrap(), r["val_loss"].as_f64().unwrap(), r["val_accuracy"].as_f64().unwrap()))
        .collect();
    assert_eq!(held_out.iter().map(|h| h.0).collect::<Vec<_>>(), ["count", "noise"]);
    assert!(held_out[0].1 + 1.0 < held_out[1].1 && held_out[0].2 > held_out[1].2, "{held_out:?}");
    let log = desk.text("runs/typed/logs/rank_0.log");
    for key in ["acc/count=", "tokens/noise=", "loss/count=", "Validation on noise: step=30 val/noise_loss="] {
        assert!(log.contains(key), "{key}");
    }

    // The same on two ranks, by layout.
    desk.ok("train run.toml --ranks 2 --set name=two --set train.micro_batches=1 --set train.reproducible=2");
    desk.ok("train run.toml --set name=one --set train.reproducible=2");
    for (two, one) in desk.results("two").iter().zip(desk.results("one")) {
        assert_eq!(*two, one);
    }
}

// ---- precision and memory ------------------------------------------------------------------------------------------

#[test]
fn low_precision_resumes_bit_for_bit() {
    let desk = Desk::golden("llama_gqa_tied");
    for params in ["bf16", "f16"] {
        let train = |name: &str, more: &str| {
            desk.ok(&format!(
                "train run.toml --set precision.params={params} --set name={params}_{name} --set lr_schedule.kind=constant \
                 --set lr_schedule.warmup_steps=0 --set train.steps=8 {more}"
            ))
        };
        train("whole", "");
        train("parts", "--set checkpoint.every=4");
        std::fs::remove_dir_all(desk.path(&format!("runs/{params}_parts/checkpoints/step_8"))).unwrap();
        train("parts", "--resume");
        let [whole, parts] = ["whole", "parts"].map(|name| format!("{params}_{name}"));
        assert_eq!(desk.results(&parts), desk.results(&whole), "{params}");
        assert_eq!(desk.state(&parts, 8), desk.state(&whole, 8), "{params}");
        let scales = numbers(&desk.metrics(&whole), "loss_scale");
        assert!(scales.iter().all(|s| *s == if params == "f16" { 65536.0 } else { 1.0 }), "{scales:?}");
    }
}

/// An f16 that overflows: the steps are skipped and told, the scale comes down, and the checkpoint remembers it.
#[test]
fn an_overflow_is_skipped_and_the_scale_is_kept() {
    let desk = Desk::golden("llama_mha");
    let scale = "--set precision.params=f16 --set precision.loss_scale.initial=16777216 --set lr_schedule.kind=constant \
        --set lr_schedule.warmup_steps=0";
    desk.ok(&format!("train run.toml {scale} --set train.steps=10"));
    let rows = desk.metrics("golden");
    let (skipped, taken): (Vec<&Value>, Vec<&Value>) = rows.iter().partition(|r| r["skipped"] == true);
    assert!(!skipped.is_empty() && !taken.is_empty(), "{rows:?}");
    let log = desk.text("runs/golden/logs/rank_0.log");
    assert_eq!(log.matches("WARNING step").count(), skipped.len());
    let last = rows[9]["loss_scale"].as_f64().unwrap();
    assert!(last < 16777216.0);
    desk.ok(&format!("train run.toml {scale} --set train.steps=11 --resume"));
    assert_eq!(desk.metrics("golden")[10]["loss_scale"].as_f64().unwrap(), last);

    desk.run(&format!("train run.toml {scale} --set name=strict --set train.max_skips=0"))
        .refused(&["step 1: the gradient is not finite"]);
}

#[test]
fn recomputation_saves_memory_and_changes_no_bit() {
    let desk = Desk::golden("internlm2_gqa");
    let run = |name: &str, recompute: &str| {
        let set = format!("--set name={name} --set memory.recompute={recompute}");
        desk.ok(&format!("train run.toml {set}"));
        let plan = desk.json(&format!("plan run.toml --json {set}"));
        (desk.results(name), desk.state(name, 10), plan["memory_bytes"]["activations"].as_u64().unwrap())
    };
    let none = run("none", "0");
    for (name, recompute) in [("half", "0.5"), ("all", "1"), ("selective", "selective")] {
        let some = run(name, recompute);
        assert!(some.0 == none.0 && some.1 == none.1, "{name} changes bits");
        assert!(some.2 < none.2, "{name}: {} bytes, {} without", some.2, none.2);
    }
}

#[test]
fn nothing_is_saved_if_so_said() {
    let desk = Desk::new();
    desk.write("corpus/a.txt", stories(40).join("\n\n"));
    desk.write(
        "run.toml",
        r#"name = "run"
[model]
hidden_size = 16
num_hidden_layers = 1
num_attention_heads = 2
intermediate_size = 32
[tokenizer]
vocab_size = 300
[data]
kind = "text"
path = "corpus"
seq_len = 16
micro_batch_size = 2
[train]
steps = 3
[loss]
label_smoothing = 0.1
[checkpoint]
enabled = false
"#,
    );
    desk.ok("train run.toml");
    assert_eq!(desk.metrics("run").len(), 3);
    assert!(!desk.path("runs/run/checkpoints/step_3").exists());
    desk.ok("train run.toml");
}
