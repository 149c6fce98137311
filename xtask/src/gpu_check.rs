//! `cargo xtask gpu-check`: all that wants to be seen on a card, in a folder that can be carried to a machine that has one.
use crate::cargo;
use crate::real_model::build;
use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// Pack what a card is checked with into target/gpu-check, and run it
///
/// The folder has the program, the tests that know cards, their goldens, a script of PyTorch's step and `run.sh`, which
/// needs neither sources nor Cargo nor a network. With INTERNEVO_TEST_CARD=emulator and --small it runs on the emulated card.
#[derive(clap::Args)]
pub struct Args {
    /// Pack only: carry the folder to a machine with a card and start its run.sh
    #[arg(long)]
    pack: bool,
    /// Small sizes, for a look at the script itself
    #[arg(long)]
    small: bool,
    /// Leave PyTorch out
    #[arg(long)]
    no_torch: bool,
}

/// Tests that know cards, by package.
const TESTS: [(&str, &[&str]); 2] = [("cuda", &["ops", "attention"]), ("exec", &["pytorch", "layouts", "table"])];

pub fn main(root: &Path, args: &Args) -> Result<()> {
    let folder = pack(root)?;
    println!("packed into {}", folder.display());
    if args.pack {
        return Ok(());
    }
    let mut run = Command::new(folder.join("run.sh"));
    run.args(args.small.then_some("--small")).args(args.no_torch.then_some("--no-torch"));
    if std::env::var("INTERNEVO_TEST_CARD").is_ok_and(|card| card == "emulator") {
        run.env("INTERNEVO_CUDA_LIBRARIES", emulator(root)?);
    }
    let status = run.status().context("run.sh does not start")?;
    ensure!(status.success(), "some checks failed; see {}", folder.join("results/summary.txt").display());
    Ok(())
}

fn pack(root: &Path) -> Result<PathBuf> {
    let folder = root.join("target/gpu-check");
    for part in ["bin", "goldens", "py"] {
        let part = folder.join(part);
        // Nothing of an earlier pack stays.
        if part.exists() {
            fs::remove_dir_all(&part).with_context(|| format!("cannot empty {}", part.display()))?;
        }
        fs::create_dir_all(&part).with_context(|| format!("cannot make {}", part.display()))?;
    }
    copy(&build(root)?, &folder.join("bin/internevo"))?;
    for (package, tests) in TESTS {
        for (name, binary) in binaries(root, package, tests)? {
            copy(&binary, &folder.join("bin").join(name))?;
        }
    }
    let bin = fs::read_dir(folder.join("bin"))?.collect::<std::io::Result<Vec<_>>>()?;
    // Names of functions are most of a binary. Without the tool it is only larger.
    let _ = Command::new("strip").args(bin.iter().map(fs::DirEntry::path)).stderr(Stdio::null()).status();
    for file in ["run.sh", "start.toml", "small.toml"] {
        copy(&root.join("xtask/gpu-check").join(file), &folder.join(file))?;
    }
    copy(&root.join("xtask/py/torch_step_cuda.py"), &folder.join("py/torch_step_cuda.py"))?;
    copy_all(&root.join("internevo/tests/goldens"), &folder.join("goldens"))?;
    Ok(folder)
}

fn copy(from: &Path, to: &Path) -> Result<()> {
    fs::copy(from, to).with_context(|| format!("cannot copy {} to {}", from.display(), to.display()))?;
    Ok(())
}

fn copy_all(from: &Path, to: &Path) -> Result<()> {
    for entry in fs::read_dir(from).with_context(|| format!("cannot list {}", from.display()))? {
        let (path, to) = (entry.as_ref().map(fs::DirEntry::path), to);
        let path = path.map_err(|e| anyhow::anyhow!("{}: {e}", from.display()))?;
        let to = to.join(path.file_name().context("an entry has a name")?);
        if path.is_dir() {
            fs::create_dir_all(&to).with_context(|| format!("cannot make {}", to.display()))?;
            copy_all(&path, &to)?;
        } else {
            copy(&path, &to)?;
        }
    }
    Ok(())
}

/// Test binaries by name, built.
fn binaries(root: &Path, package: &str, tests: &[&str]) -> Result<Vec<(String, PathBuf)>> {
    let mut command = cargo(root);
    command.args([
        "test",
        "--locked",
        "--release",
        "--no-run",
        "--message-format=json-render-diagnostics",
        "-p",
        package,
    ]);
    command.args(tests.iter().flat_map(|test| ["--test", test]));
    let out = command.stderr(Stdio::inherit()).output().context("cargo does not start")?;
    ensure!(out.status.success(), "the tests of {package} do not build");
    let text = String::from_utf8(out.stdout).context("cargo's messages are no text")?;
    let mut found = vec![];
    for line in text.lines() {
        let message: Value = serde_json::from_str(line).context("cargo's message is no JSON")?;
        let name = message["target"]["name"].as_str().filter(|name| tests.contains(name));
        if let (Some(name), Some(file)) = (name, message["executable"].as_str()) {
            found.push((name.to_string(), PathBuf::from(file)));
        }
    }
    if found.len() != tests.len() {
        bail!("cargo built {} of the tests {tests:?}", found.len());
    }
    Ok(found)
}

/// The newest of the emulated cards that tests have built.
fn emulator(root: &Path) -> Result<PathBuf> {
    let built = root.join("target/cuda-emulator");
    let missing = || format!("there is no emulated card in {}: cargo test -p emulator builds it", built.display());
    let entries = fs::read_dir(&built).with_context(missing)?.collect::<std::io::Result<Vec<_>>>()?;
    let homes = entries.into_iter().filter(|entry| entry.path().join("libcuda.so.1").exists());
    let newest = homes.max_by_key(|entry| entry.metadata().and_then(|data| data.modified()).ok());
    Ok(newest.with_context(missing)?.path())
}
