//! Processes that a real MPI starts, MPICH as pip installs it without root: the suite of `comm`, and a training with the
//! bits of one in threads.
use crate::python::Python;
use crate::{cargo, real_model};
use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;
use std::fs::{self, File};
use std::io::BufRead;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

/// What each run takes is seconds, where nobody else wants the cores.
const LIMIT: Duration = Duration::from_secs(540);

/// Without pip there is no MPI to be had. With it, this suite runs or fails.
pub fn skipped() -> Option<String> {
    let pip = Command::new("python3").args(["-m", "pip", "--version"]).output();
    (!pip.is_ok_and(|pip| pip.status.success())).then(|| "no pip".into())
}

pub fn main(root: &Path) -> Result<()> {
    let folder = environment(root)?;
    let suite = build(root)?;
    let mut version = String::new();
    for (n, what) in [(2, "properties"), (4, "properties"), (2, "faults"), (4, "faults"), (4, "missing")] {
        version = run(&folder, &suite, n, what).with_context(|| format!("{what} on {n} processes"))?;
    }
    println!("mpi: ran ({version}, 2 and 4 processes)");
    Ok(())
}

fn environment(root: &Path) -> Result<PathBuf> {
    let folder = root.join("target/mpi");
    Python::environment(&folder, &["mpich"])?;
    Ok(folder)
}

/// A tiny model, for which each layout says how it is cut.
const RUN: &str = r#"
name = "run"
threads = 1
[model]
family = "llama"
vocab_size = 211
hidden_size = 16
num_hidden_layers = 4
num_attention_heads = 2
intermediate_size = 24
[data]
kind = "random"
seq_len = 16
micro_batch_size = 1
[train]
steps = 5
micro_batches = 4
"#;

/// The same training under `mpiexec` and in threads: its losses and its checkpoints.
pub fn training(root: &Path) -> Result<()> {
    let (folder, internevo) = (environment(root)?, real_model::build(root)?);
    let desk = folder.join("training");
    if desk.exists() {
        fs::remove_dir_all(&desk)?;
    }
    fs::create_dir_all(&desk)?;
    fs::write(desk.join("run.toml"), RUN)?;
    for (n, layout) in [
        (2, "parallel.zero.stage=1"),
        (2, "parallel.pipeline.size=2"),
        (2, "parallel.tensor.size=2"),
        (4, "parallel.zero.stage=3"),
    ] {
        let mut files = vec![];
        for name in ["threads", "mpi"] {
            let set = [format!("name=\"{name}-{n}-{layout}\""), layout.into()];
            let mut process = match name {
                "threads" => Command::new(&internevo),
                _ => mpiexec(&folder, n, &internevo),
            };
            process.current_dir(&desk).args(["train", "run.toml"]).args(set.iter().flat_map(|set| ["--set", set]));
            if name == "threads" {
                process.args(["--ranks", &n.to_string()]);
            }
            let (status, text) = ended(process, &desk.join("log"))?;
            ensure!(status.success(), "{layout} in {n} {name}: {status}\n{text}");
            files.push(results(&desk.join(format!("runs/{name}-{n}-{layout}")))?);
        }
        ensure!(
            files[0] == files[1],
            "{layout}: {n} processes have other bits than {n} threads; see {}",
            desk.display()
        );
        println!("mpi-training: {layout} on {n} processes has the bits of threads");
    }
    Ok(())
}

/// What a run leaves, without times.
fn results(run: &Path) -> Result<(Vec<String>, Vec<Vec<u8>>)> {
    let read = |name: &str| fs::read(run.join(name)).with_context(|| format!("{}: no {name}", run.display()));
    let mut rows = vec![];
    for row in String::from_utf8(read("metrics.jsonl")?)?.lines() {
        let row: Value = serde_json::from_str(row)?;
        rows.push(format!("{} {} {}", row["step"], row["loss"], row["grad_norm"]));
    }
    let step = Path::new("checkpoints/step_5");
    let files = ["model.safetensors", "training/optimizer.safetensors", "training/state.json"];
    let files = files.map(|file| read(&step.join(file).display().to_string()));
    Ok((rows, files.into_iter().collect::<Result<_>>()?))
}

/// The version that all ranks name when they have passed.
fn run(folder: &Path, suite: &Path, n: usize, what: &str) -> Result<String> {
    let mut process = mpiexec(folder, n, suite);
    process.arg(what);
    let (status, text) = ended(process, &folder.join(format!("{what}-{n}.log")))?;
    let passed: Vec<&str> = text.lines().filter(|line| line.contains(" passed: ")).collect();
    // A world where something broke is ended by mpiexec: the ranks say whether all is as it should be.
    let good = passed.len() == n && (status.success() || what != "properties");
    ensure!(good, "{} of {n} ranks passed, {status}:\n{text}", passed.len());
    Ok(passed[0].rsplit(", ").next().unwrap_or_default().to_string())
}

fn mpiexec(folder: &Path, n: usize, program: &Path) -> Command {
    let mut process = Command::new(folder.join("bin/mpiexec"));
    process.arg("-n").arg(n.to_string()).arg(program).env("INTERNEVO_MPI_LIB", folder.join("lib/libmpi_abi.so.1"));
    process
}

/// How a process ended and what it said, which lies in `log`. None may hang.
fn ended(mut process: Command, log: &Path) -> Result<(ExitStatus, String)> {
    let out = File::create(log).with_context(|| format!("cannot write {}", log.display()))?;
    let what = format!("{} does not start", process.get_program().display());
    let mut child = process.stdin(Stdio::null()).stderr(out.try_clone()?).stdout(out).spawn().context(what)?;
    let began = Instant::now();
    let status = loop {
        if let Some(status) = child.try_wait()? {
            break status;
        }
        if began.elapsed() > LIMIT {
            child.kill()?;
            bail!("no end after {LIMIT:?}: {}", log.display());
        }
        std::thread::sleep(Duration::from_millis(50));
    };
    let text = fs::read_to_string(log).with_context(|| format!("cannot read {}", log.display()))?;
    Ok((status, text))
}

fn build(root: &Path) -> Result<PathBuf> {
    let args = ["test", "--release", "--locked", "-p", "comm", "--test", "processes", "--no-run"];
    let out = cargo(root).args(args).arg("--message-format=json").stderr(Stdio::inherit()).output()?;
    ensure!(out.status.success(), "the suite of comm does not build");
    let built = |line: std::io::Result<String>| {
        let line: Value = serde_json::from_str(&line.ok()?).ok()?;
        let named = line["target"]["name"] == "processes";
        line["executable"].as_str().filter(|_| named).map(PathBuf::from)
    };
    out.stdout.lines().find_map(built).context("cargo names no executable")
}
