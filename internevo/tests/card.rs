//! The program on a card, which is the emulator's: training, resuming, generating, and what it says where there is none.
mod common;
use common::{Desk, golden, golden_toml};
use cuda::{Lib, Search};
use std::path::Path;

/// Ten steps of a golden, in layouts of two ranks or one.
fn run_file() -> String {
    golden_toml("llama_gqa_tied")
        .replace("threads = 1", "threads = 2")
        .replace("micro_batch_size = 2", "micro_batch_size = 1")
}

/// A desk with the emulated card, or none, with the reason printed, where it cannot be built.
fn desk() -> Option<Desk> {
    let built = emulator::build().inspect_err(|reason| println!("skipped: {reason}"));
    let cache = Path::new(env!("CARGO_TARGET_TMPDIR")).join("card");
    let desk = Desk::new().with("INTERNEVO_CUDA_LIBRARIES", built.ok()?).with("INTERNEVO_CACHE", cache);
    desk.write("run.toml", run_file());
    Some(desk)
}

/// Losses and norms of a run, of which `more` says the rest.
fn train(desk: &Desk, name: &str, more: &str) -> Vec<[f64; 2]> {
    let schedule = "--set lr_schedule.kind=constant --set lr_schedule.warmup_steps=0";
    let outcome = desk.run(&format!("train run.toml {schedule} --set name={name} {more}"));
    assert_eq!(outcome.code, Some(0), "{name}: {}", outcome.err);
    let card = more.contains("--device cuda");
    assert_eq!(outcome.err.contains("on card 0, "), card, "{name}: {}", outcome.err);
    let rows = desk.metrics(name);
    rows.iter().map(|row| ["loss", "grad_norm"].map(|key| row[key].as_f64().unwrap())).collect()
}

#[track_caller]
fn near(got: &[[f64; 2]], want: &[[f64; 2]], tolerance: f64) {
    assert!(got.len() == want.len() && !want.is_empty());
    for (step, ([loss, norm], [of_loss, of_norm])) in got.iter().zip(want).enumerate() {
        let off = |a: &f64, b: &f64| ((a - b) / b).abs();
        assert!(off(loss, of_loss) <= tolerance, "loss of step {step}: {loss}, on the CPU {of_loss}");
        assert!(off(norm, of_norm) <= 10.0 * tolerance, "norm of step {step}: {norm}, on the CPU {of_norm}");
    }
}

/// From scratch and from checkpoints, which either device leaves to either.
#[test]
fn a_card_trains_as_the_cpu_does() {
    let Some(desk) = desk() else { return };
    let cpu = train(&desk, "cpu", "");
    let card = train(&desk, "card", "--device cuda");
    near(&card, &cpu, 1e-5);

    let half = "--set train.steps=5 --device cuda";
    train(&desk, "halves", half);
    let halves = train(&desk, "halves", "--device cuda --resume");
    assert_eq!(halves, card, "resumed on the card");
    assert!(desk.state("halves", 10) == desk.state("card", 10), "resumed on the card");
    train(&desk, "moved", half);
    near(&train(&desk, "moved", "--device cpu --resume"), &cpu, 1e-5);

    let bf16 = "--set precision.params=bf16";
    let want = train(&desk, "cpu_bf16", bf16);
    near(&train(&desk, "card_bf16", &format!("{bf16} --device cuda")), &want, 2e-2);
}

#[test]
fn ranks_share_a_card() {
    let Some(desk) = desk() else { return };
    for (name, layout) in [("zero", "parallel.zero.stage=1"), ("tensor", "parallel.tensor.size=2")] {
        let layout = format!("--ranks 2 --set {layout}");
        let cpu = train(&desk, &format!("{name}_cpu"), &layout);
        near(&train(&desk, &format!("{name}_card"), &format!("{layout} --device cuda")), &cpu, 1e-5);
    }
}

#[test]
fn a_card_generates_the_tokens_of_the_cpu() {
    let Some(desk) = desk() else { return };
    let dir = golden("llama_gqa_tied").display().to_string();
    let generate = |device: &str| {
        let command = "--prompt-tokens 5,9,14 --max-new-tokens 16 --json";
        desk.json(&format!("generate {dir} {command} --device {device}"))["tokens"].clone()
    };
    assert_eq!(generate("cuda"), generate("cpu"));
}

#[test]
fn devices_that_are_not_there_or_not_known() {
    let desk = Desk::new();
    desk.write("run.toml", run_file());
    desk.run("train run.toml --set precision.params=tf32").refused(&["precision.params = \"tf32\"", "card"]);
    desk.run("train run.toml --device gpu").refused(&["--device", "gpu", "cuda:1"]);
    desk.write("gpu.toml", format!("device = \"gpu\"\n{}", run_file()));
    desk.run("train gpu.toml").refused(&["gpu.toml: line 1: device", "\"gpu\"", "cuda:1"]);

    let outcome = desk.run("train run.toml --device cuda");
    match Search::default().load(Lib::Driver) {
        Ok(driver) => println!("not looked at: no driver is told, as {} is there", driver.path.display()),
        Err(_) => {
            outcome.refused(&["CUDA driver (libcuda.so.1)", "install NVIDIA's driver", "INTERNEVO_CUDA_LIBRARIES"]);
            assert_eq!(outcome.code, Some(1));
        }
    }
    assert!(desk.path("runs").exists() == (outcome.code == Some(0)), "nothing was begun");
}
