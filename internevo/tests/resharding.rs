//! State is kept by parameter, not by layout: what one layout has saved another goes on with, exactly, and a rank needs no more
//! memory for that than for training. What is not ignored are samples; the rest takes minutes:
//! `cargo test --release -p internevo --test resharding -- --ignored`.
mod common;
use common::{Desk, stories};
use serde_json::Value;
use std::collections::{BTreeSet, HashMap};
use std::fs;
use std::sync::atomic::{AtomicUsize, Ordering};

const RUN: &str = "name = \"run\"\nthreads = 1\n[model]\nfamily = \"llama\"\nvocab_size = 211\nhidden_size = 16\nnum_hidden_layers = 4\n\
    num_attention_heads = 4\nnum_key_value_heads = 2\nintermediate_size = 24\n[data]\nkind = \"random\"\nseq_len = 32\n\
    micro_batch_size = 1\n[optimizer]\nlr = 1e-2\n[metrics]\ntensorboard = false\n[checkpoint]\nkeep_last = 99\n";

struct Layout {
    name: &'static str,
    ranks: usize,
    /// Ranks are processes, or else threads.
    processes: bool,
    /// `[parallel]`, and micro-batches of a rank: four a step in all.
    set: &'static str,
    /// Layouts whose sums are of one kind are twins, as docs/layouts.md says: they train with the same bits.
    sums: &'static str,
}

const fn threads(ranks: usize, name: &'static str, sums: &'static str, set: &'static str) -> Layout {
    Layout { name, ranks, processes: false, set, sums }
}

const fn processes(ranks: usize, name: &'static str, sums: &'static str, set: &'static str) -> Layout {
    Layout { name, ranks, processes: true, set, sums }
}

/// The samples go from each to the next.
const LAYOUTS: [Layout; 12] = [
    threads(1, "one", "one rank's", "--set train.micro_batches=4"),
    threads(4, "mtp", "tensor 4", "--set parallel.tensor.size=4 --set train.micro_batches=4"),
    processes(
        4,
        "isp",
        "data 2, tensor 2, weight 4",
        "--set parallel.tensor.size=2 --set parallel.tensor.mode=isp --set parallel.weight.size=4 --set train.micro_batches=2",
    ),
    threads(
        2,
        "interleaved",
        "one rank's",
        "--set parallel.pipeline.size=2 --set parallel.pipeline.schedule=interleaved --set parallel.pipeline.chunks=2 \
         --set train.micro_batches=4",
    ),
    threads(
        2,
        "zbv",
        "one rank's",
        "--set parallel.pipeline.size=2 --set parallel.pipeline.schedule=zbv --set train.micro_batches=4",
    ),
    processes(
        4,
        "zero3",
        "data 4, after each micro-batch",
        "--set parallel.zero.stage=3 --set parallel.zero.size=2 --set train.micro_batches=1",
    ),
    threads(
        4,
        "fsp",
        "data 2, tensor 2, after each micro-batch",
        "--set parallel.tensor.size=2 --set parallel.tensor.mode=fsp --set parallel.zero.stage=2 --set memory.recompute=1.0 \
         --set train.micro_batches=2",
    ),
    threads(4, "zero1", "data 4", "--set parallel.zero.size=2 --set train.micro_batches=1"),
    threads(
        4,
        "msp",
        "tensor 2",
        "--set parallel.tensor.size=2 --set parallel.tensor.mode=msp --set parallel.pipeline.size=2 --set train.micro_batches=4",
    ),
    threads(2, "data", "data 2", "--set parallel.zero.stage=0 --set train.micro_batches=2"),
    processes(4, "stages", "data 2", "--set parallel.pipeline.size=2 --set train.micro_batches=2"),
    threads(
        8,
        "all",
        "data 2, tensor 2, after each micro-batch",
        "--set parallel.pipeline.size=2 --set parallel.pipeline.schedule=zb-h1 --set parallel.pipeline.layers=[1,3] \
         --set parallel.tensor.size=2 --set parallel.tensor.mode=msp --set parallel.zero.stage=3 --set train.micro_batches=2",
    ),
];

impl Layout {
    fn train(&self, desk: &Desk, more: &str) {
        let Layout { ranks, set, .. } = self;
        desk.ok(&match self.processes {
            true => format!("launch -n {ranks} train run.toml {set} {more}"),
            false => format!("train run.toml --ranks {ranks} {set} {more}"),
        });
    }
}

fn desk() -> Desk {
    let desk = Desk::new();
    desk.write("run.toml", RUN);
    desk
}

/// Mostly the disk is waited for.
fn side_by_side<T: Sync>(all: &[T], each: impl Fn(&T) + Sync) {
    let next = AtomicUsize::new(0);
    let work = || {
        while let Some(one) = all.get(next.fetch_add(1, Ordering::Relaxed)) {
            each(one);
        }
    };
    std::thread::scope(|scope| (0..3).for_each(|_| drop(scope.spawn(work))));
}

// ---- any layout to any other ---------------------------------------------------------------------------------------

/// Steps before the move; the batch after them is left out, so that what was read is saved again as it is.
const BEFORE: u64 = 12;
const STEPS: u64 = BEFORE + 1 + 20;

/// The norm of the head's rows is divided out, and a directory has them normalised.
const NORM_HEAD: &str = "--set model.norm_head=true";
const TIED: &str = "--set model.tie_word_embeddings=true";

#[test]
fn a_layout_goes_on_with_what_another_saved() {
    let ring: Vec<_> = (0..LAYOUTS.len()).map(|i| (i, (i + 1) % LAYOUTS.len())).collect();
    go_on("", &ring);
}

#[test]
fn tied_embeddings_and_normalised_heads_move() {
    let at = |name: &str| LAYOUTS.iter().position(|l| l.name == name).unwrap();
    go_on(TIED, &[(at("isp"), at("zbv"))]);
    go_on(NORM_HEAD, &[(at("msp"), at("interleaved"))]);
}

#[test]
#[ignore = "takes minutes: all pairs"]
fn every_layout_goes_on_with_what_any_other_saved() {
    let from = |a| (0..LAYOUTS.len()).filter(move |b| a != *b).map(move |b| (a, b));
    let all: Vec<_> = (0..LAYOUTS.len()).flat_map(from).collect();
    for model in ["", TIED, NORM_HEAD] {
        go_on(model, &all);
    }
}

/// For each pair the second layout goes on from a checkpoint of the first.
fn go_on(model: &str, pairs: &[(usize, usize)]) {
    let desk = desk();
    let train = |layout: &Layout, name: &str, every: u64, more: &str| {
        let schedule = format!("--set train.steps={STEPS} --set train.skip_batches=\"{BEFORE}\"");
        layout.train(&desk, &format!("--set name={name} {model} {schedule} --set checkpoint.every={every} {more}"));
    };
    let stay: BTreeSet<usize> = pairs.iter().map(|(a, _)| *a).collect();
    side_by_side(&Vec::from_iter(stay), |a| train(&LAYOUTS[*a], LAYOUTS[*a].name, BEFORE, ""));
    side_by_side(pairs, |(a, b)| {
        let (a, b) = (&LAYOUTS[*a], &LAYOUTS[*b]);
        let moved = format!("{}_to_{}", a.name, b.name);
        copy_checkpoint(&desk, a.name, BEFORE, &moved);
        train(b, &moved, BEFORE + 1, "--resume");
        let same = saved(&desk, a.name, BEFORE) == saved(&desk, &moved, BEFORE + 1);
        assert!(same, "{model} {moved}: what is saved is not what was read");
        let [moved_rows, rows] = [&moved, a.name].map(|run| rows_after(&desk, run, BEFORE + 1));
        assert_eq!(rows.len(), 20, "{moved}");
        // Ends of a pipeline that share a matrix add its gradients in another order.
        if a.sums == b.sums && model != TIED {
            assert!(moved_rows == rows, "{model} {moved}: other bits than its twin");
            assert!(saved(&desk, &moved, STEPS) == saved(&desk, a.name, STEPS), "{model} {moved}: another end");
        }
        near(&moved_rows, &rows, &format!("{model} {moved}"));
    });
}

/// With `train.reproducible` all sums follow one tree, whoever makes them (docs/layouts.md).
#[test]
fn a_reproducible_run_moves_again_and_again_and_has_the_bits_of_one_rank() {
    let desk = desk();
    let train = |layout: &Layout, name: &str, steps: usize, more: &str| {
        let set = "--set train.reproducible=4 --set lr_schedule.kind=constant";
        layout.train(&desk, &format!("--set name={name} --set train.steps={steps} {set} {more}"));
    };
    let stops: Vec<&Layout> = LAYOUTS.iter().filter(|layout| !layout.sums.contains("tensor")).collect();
    assert!(stops.len() >= 6);
    for (i, layout) in stops.iter().enumerate() {
        train(layout, "moves", 2 * (i + 1), "--resume");
    }
    let steps = 2 * stops.len();
    train(&LAYOUTS[0], "stays", steps, "");
    assert!(desk.results("moves") == desk.results("stays"));
    assert!(desk.state("moves", steps as u64) == desk.state("stays", steps as u64));
}

fn copy_checkpoint(desk: &Desk, from: &str, step: u64, to: &str) {
    let [from, to] = [from, to].map(|run| format!("runs/{run}/checkpoints/step_{step}"));
    for folder in ["", "/training"] {
        for entry in fs::read_dir(desk.path(&format!("{from}{folder}"))).unwrap().map(Result::unwrap) {
            if entry.file_type().unwrap().is_file() {
                desk.write(&format!("{to}{folder}/{}", entry.file_name().display()), fs::read(entry.path()).unwrap());
            }
        }
    }
}

/// Weights and optimizer state of a checkpoint: bytes, and what the manifest says of them.
fn saved(desk: &Desk, run: &str, step: u64) -> ([Vec<u8>; 2], [Value; 2]) {
    let manifest = desk.text(&format!("runs/{run}/checkpoints/step_{step}/training/manifest.json"));
    let manifest: Value = serde_json::from_str(&manifest).unwrap();
    let entries = ["model.safetensors", "training/optimizer.safetensors"].map(|file| manifest["files"][file].clone());
    assert!(entries.iter().all(|entry| entry["tensors"].is_object()), "{run}: checksums of {entries:?}");
    (desk.state(run, step), entries)
}

fn rows_after(desk: &Desk, run: &str, step: u64) -> Vec<Value> {
    desk.results(run).into_iter().filter(|row| row["step"].as_u64().unwrap() > step).collect()
}

/// As far as docs/layouts.md lets layouts differ that are no twins.
fn near(moved: &[Value], stayed: &[Value], what: &str) {
    assert_eq!(moved.len(), stayed.len(), "{what}");
    for (a, b) in moved.iter().zip(stayed) {
        for (key, tolerance) in [("loss", 2e-6), ("grad_norm", 2e-6), ("step", 0.0), ("lr", 0.0), ("tokens", 0.0)] {
            let [x, y] = [a, b].map(|row| row[key].as_f64().unwrap());
            assert!((x - y).abs() <= tolerance * y.abs(), "{what}: step {}: {key} {x}, {y} without a move", b["step"]);
        }
    }
}

// ---- exact resume --------------------------------------------------------------------------------------------------

const F16: &str = "--set precision.params=f16 --set train.max_skips=20 --set precision.loss_scale.initial=1e7 \
    --set precision.loss_scale.growth_interval=1 --set precision.loss_scale.hysteresis=1";
const BF16: &str = "--set precision.params=bf16";
const RAMP_UP: &str = "--set train.ramp_up={start=1,increment=1,every=2}";
const TEXT: &str =
    "--set data.kind=jsonl --set data.path=stories.jsonl --set tokenizer.vocab_size=281 --set model.vocab_size=281";

/// What else there is to go on with, by the layout's number.
const MORE: [&str; 5] = ["", F16, RAMP_UP, BF16, TEXT];

const LAST: u64 = 10;
const SAVED: [u64; 3] = [LAST - 1, LAST / 2, 1];

#[test]
fn a_run_that_was_stopped_goes_on_as_if_it_had_not_been() {
    let some = |i: usize| (i, i.is_multiple_of(2), &SAVED[i % 3..][..1]);
    resume(&(0..8).map(some).collect::<Vec<_>>());
}

#[test]
#[ignore = "takes minutes: every layout, step and way to save"]
fn every_run_that_was_stopped_goes_on_as_if_it_had_not_been() {
    let both = |i| [true, false].map(|background| (i, background, &SAVED[..]));
    resume(&(0..LAYOUTS.len()).flat_map(both).collect::<Vec<_>>());
}

/// Number of a layout, `checkpoint.background`, and the steps after which it stops, the last first.
fn resume(cases: &[(usize, bool, &[u64])]) {
    let desk = desk();
    let story = |text: String| serde_json::json!({ "text": text }).to_string() + "\n";
    desk.write("stories.jsonl", stories(40).into_iter().map(story).collect::<String>());
    side_by_side(cases, |(i, background, stops)| {
        let (layout, more) = (&LAYOUTS[*i], MORE[i % MORE.len()]);
        let [whole, run] = ["whole", "stopped"].map(|name| format!("{name}_{}_{background}", layout.name));
        let train = |name: &str, own: &str| {
            let set = format!("--set train.steps={LAST} --set checkpoint.background={background} {more}");
            layout.train(&desk, &format!("--set name={name} {set} {own}"));
        };
        // Nothing is saved but the end.
        train(&whole, "");
        let rows = desk.results(&whole);
        if more == F16 {
            let skipped: Vec<&Value> = rows.iter().map(|row| &row["skipped"]).collect();
            let both = [true, false].iter().all(|s| skipped.contains(&&Value::from(*s)));
            assert!(both, "the scale goes up and down: {rows:?}");
        }
        train(&run, "--set checkpoint.every=1");
        for stop in *stops {
            // As it is found where the next step was not saved any more.
            for step in stop + 1..=LAST {
                fs::remove_dir_all(desk.path(&format!("runs/{run}/checkpoints/step_{step}"))).unwrap();
            }
            train(&run, "--set checkpoint.every=1 --resume");
            assert!(desk.results(&run) == rows, "{} {more}: other rows after a stop at {stop}", layout.name);
            let same = saved(&desk, &run, LAST) == saved(&desk, &whole, LAST);
            assert!(same, "{} {more}: another end after a stop at {stop}", layout.name);
        }
    });
}

// ---- memory --------------------------------------------------------------------------------------------------------

/// A load puts what it reads in its place by pieces: beside parameters and optimizer state there is never more than one tensor.
#[test]
fn a_load_in_another_layout_needs_no_memory_but_that_of_the_state() {
    const BIG: &str = "--set model.vocab_size=8000 --set model.hidden_size=512 --set model.num_hidden_layers=8 \
        --set model.num_attention_heads=8 --set model.num_key_value_heads=8 --set model.intermediate_size=1408";
    const BATCH: &str = "--set train.global_batch_size=2";
    const LARGEST: u64 = 8000 * 512 * 4;
    let desk = desk();
    for (name, model) in [("big", BIG), ("small", "")] {
        let set = format!("--set parallel.tensor.size=2 --set train.steps=1 {BATCH}");
        desk.ok(&format!("train run.toml --ranks 2 {set} --set name={name} {model}"));
    }
    for (ranks, layout) in [
        (1, ""),
        (2, "--set parallel.pipeline.size=2"),
        (2, "--set parallel.zero.stage=3"),
        (2, "--set parallel.tensor.size=2 --set parallel.tensor.mode=isp --set parallel.weight.size=2"),
    ] {
        // A batch that is left out touches no gradients and activations, which would hide a load's waste.
        let set = "--set train.steps=2 --set train.skip_batches=\"1\" --set checkpoint.enabled=false";
        let set = format!("{layout} {set} {BATCH}");
        let peak = |name: &str, model: &str| {
            peak(&desk, ranks, &format!("train run.toml --set name={name} --resume {model} {set}"))
        };
        let memory = &desk.json(&format!("plan run.toml --ranks {ranks} {BIG} {set} --json"))["memory_bytes"];
        let state: u64 = ["parameters", "optimizer"].iter().map(|kind| memory[kind].as_u64().unwrap()).sum();
        let (big, program) = (peak("big", BIG), peak("small", ""));
        let mib = |bytes: u64| bytes >> 20;
        let said = format!("{set}: peak {} MiB, state {}, program {}", mib(big), mib(state), mib(program));
        println!("{said}");
        assert!(big <= state + LARGEST + program, "{said}");
        assert!(big >= state, "it was the state that was loaded: {said}");
    }
}

/// Of the rank that has had the most in memory.
fn peak(desk: &Desk, ranks: usize, command: &str) -> u64 {
    let launch = if ranks == 1 { String::new() } else { format!("launch -n {ranks} ") };
    let mut running = desk.start(&format!("{launch}{command}"));
    let id = running.child.id();
    let mut peaks = HashMap::new();
    while running.child.try_wait().unwrap().is_none() {
        let children = fs::read_to_string(format!("/proc/{id}/task/{id}/children")).unwrap_or_default();
        for process in children.split_whitespace().chain([id.to_string().as_str()]) {
            let status = fs::read_to_string(format!("/proc/{process}/status")).unwrap_or_default();
            let line = status.lines().find_map(|l| l.strip_prefix("VmHWM:")?.trim().strip_suffix(" kB"));
            if let Some(kib) = line {
                peaks.insert(process.to_string(), kib.parse::<u64>().unwrap() << 10);
            }
        }
        std::thread::sleep(std::time::Duration::from_millis(1));
    }
    let (code, said) = running.end();
    assert_eq!(code, Some(0), "{said}");
    peaks.into_values().max().unwrap()
}
