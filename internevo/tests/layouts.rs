//! Every kind of layout through the whole program: ramp-up, held-out losses, recomputation, skipped steps, and a resume that changes
//! the layout.
mod common;
use common::Desk;
use serde_json::Value;

const RUN: &str = "[model]\nfamily = \"llama\"\nvocab_size = 211\nhidden_size = 16\nnum_hidden_layers = 4\nnum_attention_heads = 4\n\
    num_key_value_heads = 2\nintermediate_size = 24\n[data]\nkind = \"tokens\"\npath = \"tokens.bin\"\n\
    seq_len = 32\nmicro_batch_size = 1\n[data.valid]\nfraction = 0.1\n[train]\nsteps = 8\nvalidate_every = 4\n\
    [train.ramp_up]\nstart = 1\nincrement = 1\nevery = 2\n\
    [lr_schedule]\nkind = \"constant\"\nwarmup_steps = 0\n[checkpoint]\nevery = 4\n";

const RAMP: &str = "[train.ramp_up]\nstart = 1\nincrement = 1\nevery = 2\n";

/// `[parallel]`, and micro-batches of a rank: four a step in all.
const LAYOUTS: [(&str, &str); 9] = [
    ("mtp", "--ranks 2 --set parallel.tensor.size=2 --set train.micro_batches=4"),
    ("kv", "--ranks 4 --set parallel.tensor.size=4 --set train.micro_batches=4"),
    ("msp", "--ranks 2 --set parallel.tensor.size=2 --set parallel.tensor.mode=msp --set train.micro_batches=4"),
    (
        "fsp",
        "--ranks 4 --set parallel.tensor.size=2 --set parallel.tensor.mode=fsp --set train.micro_batches=2 --set memory.recompute=1.0",
    ),
    (
        "isp",
        "--ranks 4 --set parallel.tensor.size=2 --set parallel.tensor.mode=isp --set parallel.weight.size=4 --set train.micro_batches=2",
    ),
    ("zero3", "--ranks 2 --set parallel.zero.stage=3 --set train.micro_batches=2"),
    (
        "hsdp",
        "--ranks 4 --set parallel.zero.stage=3 --set parallel.zero.size=2 --set train.micro_batches=1 --set memory.recompute=selective",
    ),
    (
        "zbv",
        "--ranks 2 --set parallel.pipeline.size=2 --set parallel.pipeline.schedule=zbv --set train.micro_batches=4",
    ),
    (
        "all",
        "--ranks 8 --set parallel.pipeline.size=2 --set parallel.pipeline.schedule=zb-h1 --set parallel.pipeline.layers=[1,3] \
         --set parallel.tensor.size=2 --set parallel.tensor.mode=msp --set parallel.zero.stage=3 --set train.micro_batches=2",
    ),
];

/// A run file, and 60 rows of made-up tokens.
fn desk(run: &str) -> Desk {
    let desk = Desk::new();
    desk.write("run.toml", run);
    let token = |i: u32| ((i * i / 7 + i * 31) % 211) as u16;
    desk.write("tokens.bin", (0..60 * 32 + 1).flat_map(|i| token(i).to_le_bytes()).collect::<Vec<u8>>());
    desk
}

/// Losses, norms and held-out losses of two runs.
fn near(a: &[Value], b: &[Value], what: &str) {
    assert_eq!(a.len(), b.len(), "{what}");
    for (a, b) in a.iter().zip(b) {
        for (key, tolerance) in [("loss", 4e-6), ("grad_norm", 4e-5), ("val_loss", 4e-6), ("tokens", 0.0)] {
            assert_eq!(a[key].is_null(), b[key].is_null(), "{what}: {key}");
            let [x, y] = [a, b].map(|row| row[key].as_f64().unwrap_or(0.0));
            assert!((x - y).abs() <= tolerance * y.abs(), "{what}: {key} {x}, one rank {y}");
        }
    }
}

#[test]
fn every_layout_trains_validates_and_resumes_in_another() {
    let desk = desk(&RUN.replace(RAMP, ""));
    let train = |name: &str, steps: u64, more: &str| {
        desk.ok(&format!("train run.toml --set name={name} --set train.steps={steps} {more}"));
    };
    train("one", 8, "--set train.micro_batches=4");
    let one = desk.results("one");
    assert!(one.iter().filter(|row| !row["val_loss"].is_null()).count() >= 2, "held-out losses are there");
    for (at, (name, layout)) in LAYOUTS.iter().enumerate() {
        train(name, 8, layout);
        near(&desk.results(name), &one, name);
        // The first half in this layout, the second in the next one.
        let moved = format!("{name}_moved");
        train(&moved, 4, layout);
        train(&moved, 8, &format!("{} --resume", LAYOUTS[(at + 1) % LAYOUTS.len()].1));
        near(&desk.results(&moved), &one, &moved);
    }
}

/// Steps of one, two, three and four micro-batches a rank.
#[test]
fn ramps_go_up_in_every_layout() {
    let desk = desk(RUN);
    for (name, layout) in LAYOUTS.iter().filter(|(_, layout)| layout.contains("micro_batches=4")) {
        desk.ok(&format!("train run.toml --set name={name} {layout}"));
    }
    desk.ok("train run.toml --set name=one --set train.micro_batches=4");
    let one = desk.results("one");
    for (name, _) in LAYOUTS.iter().filter(|(_, layout)| layout.contains("micro_batches=4")) {
        near(&desk.results(name), &one, name);
    }
}

/// An overflow on one rank is an overflow on all: the same steps are skipped, and nothing is changed by them.
#[test]
fn overflows_skip_the_same_steps_in_every_layout() {
    let desk = desk(&RUN.replace(RAMP, ""));
    let f16 = "--set precision.params=f16 --set precision.loss_scale.initial=1e9 --set precision.loss_scale.max=1e9 \
        --set precision.loss_scale.hysteresis=1 --set train.max_skips=100 --set train.steps=24 --set train.validate_every=0";
    let scales = |name: &str, layout: &str| {
        desk.ok(&format!("train run.toml --set name={name} {f16} {layout}"));
        let rows = desk.results(name);
        rows.iter().map(|row| (row["loss_scale"].clone(), row["skipped"].clone())).collect::<Vec<_>>()
    };
    let one = scales("one", "--set train.micro_batches=4");
    assert_ne!(one.first(), one.last(), "{one:?}");
    for (name, layout) in LAYOUTS {
        assert_eq!(scales(name, layout), one, "{name}");
    }
}
