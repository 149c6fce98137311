//! `internevo plan`: sizes of known models, what more ranks change, and the planned memory against the real.
mod common;
use common::Desk;
use serde_json::Value;
use std::time::Duration;

struct Shape {
    name: &'static str,
    hidden: u64,
    layers: u64,
    heads: u64,
    kv: u64,
    ffn: u64,
    vocab: u64,
    /// As published.
    parameters: u64,
}

const SHAPES: [Shape; 3] = [
    Shape {
        name: "internlm2-7b",
        hidden: 4096,
        layers: 32,
        heads: 32,
        kv: 8,
        ffn: 14336,
        vocab: 92544,
        parameters: 7_737_708_544,
    },
    Shape {
        name: "internlm2-20b",
        hidden: 6144,
        layers: 48,
        heads: 48,
        kv: 8,
        ffn: 16384,
        vocab: 92544,
        parameters: 19_861_149_696,
    },
    Shape {
        name: "llama-70b",
        hidden: 8192,
        layers: 80,
        heads: 64,
        kv: 8,
        ffn: 28672,
        vocab: 32000,
        parameters: 68_976_648_192,
    },
];

impl Shape {
    fn toml(&self) -> String {
        let Shape { name, hidden, layers, heads, kv, ffn, vocab, .. } = self;
        format!(
            r#"name = "{name}"
[model]
hidden_size = {hidden}
num_hidden_layers = {layers}
num_attention_heads = {heads}
num_key_value_heads = {kv}
intermediate_size = {ffn}
vocab_size = {vocab}
[data]
kind = "tokens"
path = "ids.bin"
seq_len = 4096
micro_batch_size = 1
[train]
steps = 1
micro_batches = 4
"#
        )
    }
}

#[test]
fn known_models_have_their_size() {
    for shape in SHAPES {
        let desk = Desk::new();
        desk.write("run.toml", shape.toml());
        let outcome = desk.run("plan run.toml --json");
        assert_eq!(outcome.code, Some(0), "{}", outcome.err);
        assert!(outcome.took < Duration::from_secs(1), "{}: {:?}", shape.name, outcome.took);
        let plan: Value = serde_json::from_str(&outcome.out).unwrap();

        let Shape { hidden: d, layers, heads, kv, ffn, vocab, .. } = shape;
        let attention = d * d * 2 + 2 * d * (d / heads * kv);
        let parameters = 2 * vocab * d + d + layers * (attention + 3 * d * ffn + 2 * d);
        assert_eq!(parameters, shape.parameters);
        assert_eq!(plan["parameters"], parameters, "{}", shape.name);

        // Two operations a weight and token forwards, four backwards; the embedding is a look-up. Of causal attention
        // at least half of the square is computed, at most all.
        let products = 6 * (parameters - vocab * d - d - layers * 2 * d);
        let square = 6 * layers * 2 * d * 4096;
        let flops = plan["flops_per_token"].as_f64().unwrap() as u64;
        assert!((products + square / 2..=products + square).contains(&flops), "{}: {flops}", shape.name);

        let memory = plan["memory_bytes"].as_object().unwrap();
        for (kind, copies) in [("parameters", 1), ("gradients", 1), ("optimizer", 2)] {
            let bytes = memory[kind].as_u64().unwrap();
            let needed = 4 * parameters * copies;
            assert!((needed..needed + needed / 100).contains(&bytes), "{}: {kind} {bytes}", shape.name);
        }
        let sum: u64 = memory.iter().filter(|(kind, _)| *kind != "total").map(|(_, b)| b.as_u64().unwrap()).sum();
        assert_eq!(memory["total"], sum);
        assert_eq!(plan["tokens_per_step"], 4 * 4096);
    }
}

/// As in `internevo schedule run.toml | head`.
#[test]
fn a_reader_may_stop_reading() {
    let desk = Desk::new();
    desk.write("run.toml", SHAPES[0].toml());
    for command in ["schedule run.toml", "plan run.toml", "plan run.toml --json"] {
        let (reader, writer) = std::io::pipe().unwrap();
        drop(reader);
        let (code, said) = desk.start_into(command, writer).end();
        assert_eq!((code, said.as_str()), (Some(0), ""), "{command}");
    }
}

#[test]
fn more_ranks_hold_less_each() {
    let desk = Desk::new();
    desk.write("run.toml", SHAPES[0].toml());
    let plan = |more: &str| desk.json(&format!("plan run.toml --json {more}"));
    let bytes = |plan: &Value, kind: &str| plan["memory_bytes"][kind].as_u64().unwrap();
    let one = plan("");
    for ranks in [2, 4, 8] {
        let data = plan(&format!("--ranks {ranks}"));
        assert_eq!((&data["ranks"], &data["data"]), (&ranks.into(), &ranks.into()));
        assert_eq!(data["tokens_per_step"], ranks * 4 * 4096);
        let share = bytes(&data, "optimizer") as f64 / bytes(&one, "optimizer") as f64 * ranks as f64;
        assert!((1.0..1.01).contains(&share), "{ranks} ranks: {share} of the optimizer state in all");
        assert!(bytes(&data, "parameters") >= bytes(&one, "parameters"));

        let all = plan(&format!("--ranks {ranks} --set parallel.zero.stage=0"));
        assert!(bytes(&all, "optimizer") >= bytes(&one, "optimizer"));

        // The largest stage holds its layers and one of the two large ends.
        let stages = plan(&format!("--ranks {ranks} --set parallel.pipeline.size={ranks}"));
        assert_eq!((&stages["data"], &stages["pipeline"]), (&1.into(), &ranks.into()));
        let share = bytes(&stages, "parameters") as f64 / bytes(&one, "parameters") as f64;
        assert!(share < 1.0 / ranks as f64 + 0.06, "{ranks} stages: {share} of the parameters");
    }
}

/// "Memory is planned": what the process has in memory at most is the plan, and what a program needs anyway.
#[test]
fn the_plan_bounds_the_memory_of_a_run() {
    const ANYWAY: u64 = 64 << 20;
    let desk = Desk::new();
    let mut x = 1u32;
    let ids = (0..4096).flat_map(|_| {
        x = x.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        ((x >> 16) as u16 % 8000).to_le_bytes()
    });
    desk.write("ids.bin", ids.collect::<Vec<u8>>());
    let shape =
        Shape { name: "m34", hidden: 512, layers: 8, heads: 8, kv: 8, ffn: 1408, vocab: 8000, parameters: 33_890_816 };
    desk.write("run.toml", shape.toml());
    let set = "--set data.seq_len=128 --set train.steps=3 --set train.micro_batches=1";
    let plan = desk.json(&format!("plan run.toml {set} --json"));
    assert_eq!(plan["parameters"], shape.parameters);
    let total = plan["memory_bytes"]["total"].as_u64().unwrap();

    let mut running = desk.start(&format!("train run.toml {set}"));
    let status = format!("/proc/{}/status", running.child.id());
    let mut peak = 0;
    while running.child.try_wait().unwrap().is_none() {
        let text = std::fs::read_to_string(&status).unwrap_or_default();
        let line = text.lines().find_map(|l| l.strip_prefix("VmHWM:")?.trim().strip_suffix(" kB"));
        peak = line.map_or(peak, |kib| kib.parse::<u64>().unwrap() << 10);
        std::thread::sleep(Duration::from_millis(2));
    }
    let (code, said) = running.end();
    assert_eq!(code, Some(0), "{said}");
    let mib = |bytes: u64| bytes >> 20;
    println!("planned {} MiB, peak {} MiB", mib(total), mib(peak));
    assert!(peak <= total + ANYWAY, "peak {} MiB, planned {} MiB", mib(peak), mib(total));
    // It was this run that was measured: it touches all of its parameters, gradients and optimizer state.
    assert!(peak >= 16 * shape.parameters, "peak {} MiB", mib(peak));
    assert!(desk.metrics("m34").iter().all(|row| row["memory_bytes"] == total));
}
