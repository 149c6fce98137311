//! Kernels compiled by NVIDIA's own compiler, which pip has and which needs no card.
use crate::cargo;
use crate::python::{Python, json, succeed};
use anyhow::{Context, Result, ensure};
use std::path::{Path, PathBuf};
use std::process::Output;

const NEEDS: &[&str] = &["nvidia-cuda-nvrtc>=13"];

/// The tests of exec/tests/nvrtc. A process compiles one program at a time, so each has its own.
const ARCHITECTURES: [&str; 4] = ["sm_80", "sm_90a", "sm_100a", "sm_120"];
/// The oldest, and the one with instructions of its own that we use.
const FEW: usize = 2;

/// Prints the path of the compiler's library.
const LIBRARY: &str = "
import json
from importlib.metadata import files
paths = [file.locate() for file in files('nvidia-cuda-nvrtc') if file.name.startswith('libnvrtc.so')]
print(json.dumps(str(paths[0])))
";

/// Without Python, or where pip finds no package, there is no compiler to be had. With it, this suite runs or fails.
pub fn skipped(root: &Path) -> Option<String> {
    environment(root).err().map(|error| format!("no NVRTC: {error:#}"))
}

fn environment(root: &Path) -> Result<Python> {
    Python::environment(&root.join("target/nvrtc"), NEEDS)
}

pub fn main(root: &Path) -> Result<()> {
    compile(root, &ARCHITECTURES[..FEW])
}

pub fn all(root: &Path) -> Result<()> {
    compile(root, &ARCHITECTURES)
}

fn compile(root: &Path, architectures: &[&'static str]) -> Result<()> {
    let library = json(environment(root)?.program().args(["-c", LIBRARY]), "")?;
    let library = PathBuf::from(library.as_str().context("Python names no library")?);
    let folder = library.parent().context("a library lies in a folder")?;
    let test = ["test", "--release", "--locked", "-p", "exec", "--test", "nvrtc"];
    succeed(cargo(root).args(test).arg("--no-run"))?;
    let run = |name| {
        let process =
            cargo(root).args(test).args(["--", "--nocapture", "--exact", name]).env(LIBRARIES, folder).output();
        process.context("cargo does not start")
    };
    let outputs: Vec<Result<Output>> = std::thread::scope(|scope| {
        let run = &run;
        let started: Vec<_> = architectures.iter().map(|name| scope.spawn(move || run(name))).collect();
        started.into_iter().map(|process| process.join().expect("nothing panics")).collect()
    });
    for (name, output) in architectures.iter().zip(outputs) {
        let Output { status, stdout, stderr } = output?;
        let text = String::from_utf8_lossy(&stdout);
        ensure!(status.success(), "{name}: {status}\n{text}{}", String::from_utf8_lossy(&stderr));
        // The tests' own lines.
        text.lines()
            .filter(|line| line.starts_with("sm_") || line.starts_with("  "))
            .for_each(|line| println!("{line}"));
    }
    Ok(())
}

const LIBRARIES: &str = "INTERNEVO_CUDA_LIBRARIES";
