//! `internevo doctor` and `internevo bench ops`: on any machine, and on the emulated card.
use serde_json::Value;
use std::process::{Command, Output};

fn internevo(command: &str) -> Command {
    let mut out = Command::new(env!("CARGO_BIN_EXE_internevo"));
    out.args(command.split_whitespace()).env_remove("INTERNEVO_DEVICE");
    out
}

/// Where the emulated card can be built. Compiled kernels are kept.
fn emulated(command: &str) -> Option<Command> {
    match emulator::build() {
        Ok(home) => {
            let mut out = internevo(command);
            out.env("INTERNEVO_CUDA_LIBRARIES", home).env("INTERNEVO_CACHE", env!("CARGO_TARGET_TMPDIR"));
            Some(out)
        }
        Err(why) => {
            println!("skipped: {why}");
            None
        }
    }
}

fn output(command: &mut Command) -> (String, String, Option<i32>) {
    let Output { status, stdout, stderr } = command.output().unwrap();
    let text = |bytes| String::from_utf8(bytes).unwrap();
    (text(stdout), text(stderr), status.code())
}

fn json(command: &mut Command) -> Value {
    let (out, err, code) = output(command);
    assert_eq!(code, Some(0), "{command:?}\n{err}");
    serde_json::from_str(&out).unwrap()
}

#[test]
fn what_is_missing_is_told_with_the_way_out() {
    let report = json(&mut internevo("doctor --json --device cpu"));
    assert_eq!(report["version"], env!("CARGO_PKG_VERSION"));
    assert!(report["cpu"]["cores"].as_u64().unwrap() > 0, "{report}");
    let libraries = report["libraries"].as_array().unwrap();
    let names: Vec<&str> = libraries.iter().map(|lib| lib["name"].as_str().unwrap()).collect();
    assert_eq!(names, ["CUDA driver", "NVRTC", "cuBLASLt", "cuDNN"]);
    for lib in libraries {
        let missing = lib["missing"].as_str();
        assert!(missing.is_none_or(|why| why.contains("INTERNEVO_CUDA_LIBRARIES")), "{lib}");
    }
    // Asked for the CPU, it leaves cards alone.
    assert!(report["cards"].as_array().unwrap().iter().all(|card| card["measured"].is_null()), "{report}");
}

#[test]
fn a_card_that_is_not_there_is_an_error_below_the_table() {
    let (out, err, code) = output(&mut internevo("doctor --quick --device cuda:4711"));
    assert_eq!(code, Some(1));
    assert!(out.starts_with("internevo") && out.contains("kernel cache"), "{out}");
    assert!(err.contains("device cuda:4711"), "{err}");
}

#[test]
fn a_card_is_measured() {
    let Some(mut command) = emulated("doctor --quick --json --device cuda:0") else { return };
    let report = json(&mut command);
    let card = &report["cards"][0];
    assert_eq!(card["arch"], 90, "{card}");
    for what in ["copy_bytes_per_s", "product_flops", "upload_bytes_per_s", "launch_s"] {
        assert!(card["measured"][what].as_f64().unwrap() > 0.0, "{what}: {card}");
    }
    let text = output(&mut emulated("doctor --quick").unwrap()).0;
    assert!(text.contains("card 0") && text.contains("TFLOP/s"), "{text}");
}

/// Every operation of a layer of a LLaMA has a time, and the calls are those of a step.
fn check(report: &Value) {
    let rows = report["operations"].as_array().unwrap();
    let calls = |name: &str| -> u64 {
        let of_kind = rows.iter().filter(|row| row["operation"] == name);
        of_kind.map(|row| row["calls"].as_u64().unwrap()).sum()
    };
    // q | k | v, o, gate | up, down, and the head's, by chunks of tokens.
    assert!(calls("linear") >= 5 && calls("linear") == calls("linear_backward_input"), "{report}");
    // Two of the layer and that of the head.
    assert_eq!([calls("rmsnorm"), calls("attention"), calls("attention_backward"), calls("gated")], [3, 1, 1, 1]);
    assert!(calls("adamw") > 0 && calls("cross_entropy") > 0, "{report}");
    for row in rows {
        assert!(row["us"].as_f64().unwrap() > 0.0 && row["rate"].as_f64().unwrap() > 0.0, "{row}");
        assert_eq!(row["goal"].is_null(), row["met"].is_null(), "{row}");
    }
}

#[test]
fn operations_of_a_layer_on_the_cpu() {
    check(&json(&mut internevo("bench ops --preset 15m --seq-len 32 --quick --json --device cpu --threads 1")));
}

#[test]
fn operations_of_a_layer_on_a_card() {
    let command = "bench ops --preset 15m --seq-len 16 --precision bf16 --quick --json --device cuda:0";
    let Some(mut command) = emulated(command) else { return };
    check(&json(&mut command));
}
