//! `cargo xtask torch-step`: our training step beside PyTorch's, in turns.
use crate::python::{Python, succeed};
use crate::real_model::build;
use anyhow::{Context, Result, ensure};
use serde_json::Value;
use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

/// Time `internevo bench step` beside PyTorch, eager and compiled, in turns
///
/// Each round runs all three as processes of their own, one after the other; what counts are the medians over the rounds,
/// and the ratios inside them. PyTorch compiled also gets the malloc settings that spare it page faults. Takes some
/// minutes; the machine should do nothing else.
#[derive(clap::Args)]
pub struct Args {
    /// 15m or 125m
    #[arg(long, default_value = "15m")]
    preset: String,
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..))]
    rounds: u32,
    /// Steps of each kind that count
    #[arg(long, default_value_t = 10)]
    steps: u32,
    #[arg(long, default_value_t = 2)]
    threads: u32,
    /// An interpreter that has torch [default: what INTERNEVO_PYTHON names, or python3]
    #[arg(long)]
    python: Option<PathBuf>,
    /// Another script than xtask/py/torch_step.py, with the same options and keys
    #[arg(long)]
    script: Option<PathBuf>,
    /// Leave out `torch.compile`, which takes a minute to start
    #[arg(long)]
    no_compile: bool,
}

/// So that freed memory is kept instead of being given back and faulted in again.
const MALLOC: [(&str, &str); 3] = [
    ("MALLOC_MMAP_THRESHOLD_", "8589934592"),
    ("MALLOC_TRIM_THRESHOLD_", "17179869184"),
    ("MALLOC_TOP_PAD_", "268435456"),
];

/// What one process measured.
#[derive(Clone, Copy)]
struct Speed {
    tokens_per_s: f64,
    memory_mib: f64,
    over_products: Option<f64>,
}

pub fn main(root: &Path, args: &Args) -> Result<()> {
    let python = Python::find(args.python.as_deref());
    python.require(&["torch"])?;
    let internevo = build(root)?;
    let mut all: BTreeMap<&str, Vec<Speed>> = BTreeMap::new();
    for round in 1..=args.rounds {
        let mut turn = |name: &'static str, speed: Speed| {
            println!("round {round}: {name:8} {:8.0} tokens/s {:8.0} MiB", speed.tokens_per_s, speed.memory_mib);
            all.entry(name).or_default().push(speed);
        };
        turn("ours", ours(&internevo, args)?);
        turn("eager", theirs(root, &python, args, false)?);
        if !args.no_compile {
            turn("compile", theirs(root, &python, args, true)?);
        }
    }
    let ours = &all["ours"];
    println!("\n{:10} {:>10} {:>10} {:>12} {:>12}", args.preset, "tokens/s", "MiB", "ours over it", "our memory");
    for (name, speeds) in &all {
        let ratio = |of: fn(&Speed) -> f64| median(ours.iter().zip(speeds).map(|(o, t)| of(o) / of(t)));
        println!(
            "{name:10} {:>10.0} {:>10.0} {:>12.2} {:>12.2}",
            median(speeds.iter().map(|s| s.tokens_per_s)),
            median(speeds.iter().map(|s| s.memory_mib)),
            ratio(|s| s.tokens_per_s),
            ratio(|s| s.memory_mib)
        );
    }
    println!("our step over its matrix products alone: {:.2}", median(ours.iter().filter_map(|s| s.over_products)));
    Ok(())
}

fn ours(internevo: &Path, args: &Args) -> Result<Speed> {
    let numbers = ["--steps", &args.steps.to_string(), "--threads", &args.threads.to_string()].map(str::to_string);
    let out = Command::new(internevo)
        .args(["bench", "step", "--json", "--preset", &args.preset])
        .args(numbers)
        .output()
        .context("internevo does not start")?;
    ensure!(out.status.success(), "internevo bench fails: {}", String::from_utf8_lossy(&out.stderr));
    let row: Value = serde_json::from_slice(&out.stdout).context("internevo bench printed no JSON")?;
    let number = |key: &str| row[key].as_f64().with_context(|| format!("internevo bench printed no `{key}`"));
    Ok(Speed {
        tokens_per_s: number("tokens_per_s")?,
        memory_mib: number("peak_memory_bytes")? / (1 << 20) as f64,
        over_products: Some(number("step_over_products")?),
    })
}

fn theirs(root: &Path, python: &Python, args: &Args, compile: bool) -> Result<Speed> {
    let folder = root.join("target/torch-step");
    fs::create_dir_all(&folder).with_context(|| format!("cannot make {}", folder.display()))?;
    let result = folder.join("result.json");
    let mut command = python.script(root, "torch_step.py");
    if let Some(script) = &args.script {
        command = python.program();
        command.arg(script);
    }
    command.args(["--preset", &args.preset, "--steps", &(args.steps + 2).to_string()]);
    command.args(["--threads", &args.threads.to_string(), "--json"]).arg(&result);
    if compile {
        command.arg("--compile").envs(MALLOC);
    }
    succeed(command.stdout(std::process::Stdio::null()))?;
    let text = fs::read_to_string(&result).with_context(|| format!("cannot read {}", result.display()))?;
    let row: Value = serde_json::from_str(&text).context("the script wrote no JSON")?;
    let number = |key: &str| row[key].as_f64().with_context(|| format!("the script wrote no `{key}`"));
    Ok(Speed { tokens_per_s: number("tokens_per_s")?, memory_mib: number("rss_mib")?, over_products: None })
}

fn median(values: impl Iterator<Item = f64>) -> f64 {
    let mut values: Vec<f64> = values.collect();
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}
