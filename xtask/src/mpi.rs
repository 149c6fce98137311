//! The suite of `comm` on processes that a real MPI starts: MPICH, as pip installs it without root.
use crate::cargo;
use crate::python::Python;
use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;
use std::fs::File;
use std::io::BufRead;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

/// What each run takes is seconds, where nobody else wants the cores.
const LIMIT: Duration = Duration::from_secs(540);

/// Without pip there is no MPI to be had. With it, this suite runs or fails.
pub fn skipped() -> Option<String> {
    let pip = Command::new("python3").args(["-m", "pip", "--version"]).output();
    (!pip.is_ok_and(|pip| pip.status.success())).then(|| "no pip".into())
}

pub fn main(root: &Path) -> Result<()> {
    let folder = root.join("target/mpi");
    Python::environment(&folder, &["mpich"])?;
    let suite = build(root)?;
    let mut version = String::new();
    for (n, what) in [(2, "properties"), (4, "properties"), (2, "faults"), (4, "faults"), (4, "missing")] {
        version = run(&folder, &suite, n, what).with_context(|| format!("{what} on {n} processes"))?;
    }
    println!("mpi: ran ({version}, 2 and 4 processes)");
    Ok(())
}

/// The version that all ranks name when they have passed.
fn run(folder: &Path, suite: &Path, n: usize, what: &str) -> Result<String> {
    let log = folder.join(format!("{what}-{n}.log"));
    let out = File::create(&log).with_context(|| format!("cannot write {}", log.display()))?;
    let mut child = Command::new(folder.join("bin/mpiexec"))
        .arg("-n")
        .arg(n.to_string())
        .arg(suite)
        .arg(what)
        .env("INTERNEVO_MPI_LIB", folder.join("lib/libmpi_abi.so.1"))
        .stdin(Stdio::null())
        .stderr(out.try_clone()?)
        .stdout(out)
        .spawn()
        .context("mpiexec does not start")?;
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
    let text = std::fs::read_to_string(&log).with_context(|| format!("cannot read {}", log.display()))?;
    let passed: Vec<&str> = text.lines().filter(|line| line.contains(" passed: ")).collect();
    // A world where something broke is ended by mpiexec: the ranks say whether all is as it should be.
    let good = passed.len() == n && (status.success() || what != "properties");
    ensure!(good, "{} of {n} ranks passed, {status}:\n{text}", passed.len());
    Ok(passed[0].rsplit(", ").next().unwrap_or_default().to_string())
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
