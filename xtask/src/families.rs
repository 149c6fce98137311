//! Every golden model, written as our checkpoints of it are, and opened by transformers.
use crate::cargo;
use crate::python::{Python, quietly, succeed};
use anyhow::{Context, Result};
use std::fs;
use std::path::Path;

/// What the script needs beside transformers.
pub const NEEDS: &[&str] = &["torch", "transformers>=5", "safetensors", "numpy"];

pub fn main(root: &Path, python: &Python) -> Result<()> {
    let (goldens, written) = (root.join("internevo/tests/goldens"), root.join("target/families"));
    if written.exists() {
        fs::remove_dir_all(&written).context("cannot remove target/families")?;
    }
    for entry in fs::read_dir(&goldens).context("cannot list the goldens")? {
        let entry = entry?;
        let run = ["run", "--release", "--package", "checkpoint", "--example", "rewrite"];
        quietly(cargo(root).args(run).arg(entry.path()).arg(written.join(entry.file_name())))?;
    }
    succeed(python.script(root, "open_families.py").arg(&written))
}
