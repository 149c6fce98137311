//! What a user can get wrong: one message that names the place, the reason and a way out; no panic, nothing half-written.
mod commands;
#[path = "../common/mod.rs"]
mod common;
mod contents;
mod run_file;

use common::Desk;

/// Runs each command; it must be refused with all that stands beside it, and leave no checkpoint or part of one.
#[track_caller]
fn refused(desk: &Desk, cases: &[(&str, &[&str])]) {
    for (command, needles) in cases {
        let before = desk.checkpoints();
        desk.run(command).refused(needles);
        assert_eq!(desk.checkpoints(), before, "{command}");
    }
}

/// The same for `train run.toml` with overrides.
#[track_caller]
fn overrides(desk: &Desk, cases: &[(&str, &[&str])]) {
    for (set, needles) in cases {
        refused(desk, &[(&format!("train run.toml {set}"), needles)]);
    }
}

/// The same for `train run.toml` with a line of run.toml changed.
#[track_caller]
fn edits(cases: &[(&str, &str, &[&str])]) {
    for (line, edited, needles) in cases {
        let desk = desk();
        let text = desk.text("run.toml");
        assert!(text.contains(line), "run.toml has `{line}`");
        desk.write("run.toml", text.replacen(line, edited, 1));
        refused(&desk, &[("train run.toml", needles)]);
    }
}

const RUN: &str = r#"name = "run"
[model]
family = "llama"
vocab_size = 32
hidden_size = 16
num_hidden_layers = 4
num_attention_heads = 4
intermediate_size = 32
[data]
kind = "tokens"
path = "ids.bin"
seq_len = 8
micro_batch_size = 2
[train]
steps = 4
[optimizer]
lr = 1e-3
[parallel]
pipeline = { size = 1, schedule = "1f1b" }
"#;

fn desk() -> Desk {
    let desk = Desk::new();
    desk.write("run.toml", RUN);
    desk.write("ids.bin", ids(400));
    desk
}

fn ids(n: u16) -> Vec<u8> {
    (0..n).flat_map(|i| (i * 7 % 32).to_le_bytes()).collect()
}
