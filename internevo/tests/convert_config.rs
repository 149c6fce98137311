//! InternEvo's Python configs at the command line.
mod common;

use common::Desk;

const BASE: &str = r#"
model_type = "LLAMA2"
model = dict(
    dtype="torch.float32", vocab_size=64, hidden_size=16, num_layers=2, num_attention_heads=2, no_bias=True, adapt_hf=True
)
"#;

const CONFIG: &str = r#"
from internlm.utils.common import read_base

with read_base():
    from configs._base_.tiny import *

JOB_NAME = "tiny"
ckpt = dict(enable_save_ckpt=False, auto_resume=False, async_upload=True)
data = dict(seq_len=16, micro_bsz=2, micro_num=2, total_steps=3, train_folder=None)
hybrid_zero_optimizer = dict(clip_grad_norm=1.0)
adam = dict(lr=1e-3)
"#;

fn desk() -> Desk {
    let desk = Desk::new();
    desk.write("configs/tiny.py", CONFIG);
    desk.write("configs/_base_/tiny.py", BASE);
    desk
}

#[test]
fn convert_config_writes_a_run_file_once() {
    let desk = desk();
    let text = desk.ok("convert-config configs/tiny.py");
    assert!(text.starts_with("# Converted from configs/tiny.py.\n# - "), "{text}");
    assert!(text.contains("# - ckpt.async_upload (line 8): no effect"), "{text}");
    assert!(text.contains("\nname = \"tiny\"\n") && text.contains("\nfamily = \"llama\"\n"), "{text}");
    desk.ok("convert-config configs/tiny.py -o run.toml");
    assert_eq!(desk.text("run.toml"), text);
    desk.run("convert-config configs/tiny.py -o run.toml").refused(&["run.toml exists already"]);
    desk.run("convert-config configs/tiny.py -o no/such/run.toml").refused(&["cannot write no/such/run.toml"]);
}

/// Whatever a command says to a config, it says to the run file of it; overrides included.
#[test]
fn a_config_is_the_run_file_that_it_is_converted_to() {
    let desk = desk();
    desk.ok("convert-config configs/tiny.py -o run.toml");
    for rest in ["", "--set train.steps=7", "--set train.stepz=7"] {
        let [py, toml] = ["configs/tiny.py", "run.toml"].map(|file| desk.run(&format!("plan {file} --json {rest}")));
        assert_eq!(py.code, toml.code, "{}", py.err);
        assert_eq!(py.out, toml.out);
        let told = |err: &str| {
            let lines = err.lines().filter(|line| !line.starts_with("note: "));
            lines
                .map(|line| line.replace("configs/tiny.py, as `internevo convert-config` writes it", "run.toml"))
                .collect()
        };
        let (py_says, toml_says): (Vec<String>, Vec<String>) = (told(&py.err), told(&toml.err));
        assert_eq!(py_says, toml_says, "{rest}");
        assert!(py.err.contains("note: ckpt.async_upload (line 8): no effect"), "{}", py.err);
    }
}

#[test]
fn a_config_that_is_wrong_is_refused_at_its_line() {
    let desk = desk();
    desk.write("bad.py", format!("{CONFIG}model = dict(model, is_reward=True)\nimport os\n"));
    desk.write("binary.py", b"X = '\xff'");
    for command in ["train", "plan", "schedule", "convert-config"] {
        desk.run(&format!("{command} bad.py")).refused(&["bad.py:13: import os is not read"]);
        desk.run(&format!("{command} binary.py")).refused(&["binary.py:1: is not UTF-8"]);
        desk.run(&format!("{command} gone.py")).refused(&["gone.py: cannot be read"]);
        desk.run(&format!("{command} configs/_base_/tiny.py"))
            .refused(&["data.seq_len is missing", "adam.lr is missing"]);
    }
    desk.write("bad.py", format!("{CONFIG}model = dict(model, is_reward=True)\n"));
    desk.run("train bad.py").refused(&["bad.py:12: model.is_reward = True is not possible here"]);
}

/// The data are the original's random ones; nothing else is needed.
#[test]
fn a_config_trains_unchanged() {
    let desk = desk();
    desk.write("configs/_base_/tiny.py", BASE.replace("vocab_size=64", "vocab_size=256"));
    let config = CONFIG
        .replace("enable_save_ckpt=False", "enable_save_ckpt=True, checkpoint_every=3, save_ckpt_folder=\"runs\"");
    desk.write("configs/tiny.py", config);
    desk.ok("convert-config configs/tiny.py -o run.toml");
    desk.ok("train configs/tiny.py");
    desk.ok("train run.toml --set name=other");
    assert_eq!(desk.metrics("tiny").iter().filter(|r| r["loss"].is_f64()).count(), 3);
    assert_eq!(desk.results("tiny"), desk.results("other"));
    assert_eq!(desk.state("tiny", 3), desk.state("other", 3));
}
