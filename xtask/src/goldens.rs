//! `cargo xtask goldens`: the golden data, written anew by the scripts that made it.
use crate::python::{Python, succeed};
use anyhow::{Context, Result, bail};
use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

/// Write the golden data of the tests anew, and fail if a byte of it changed
///
/// The numbers come from PyTorch and transformers in float64; with the versions that wrote the files, the bytes are the
/// same. After a change the new files are left in place: keep them if it was meant, or restore them with git.
#[derive(clap::Args)]
pub struct Args {
    /// An interpreter with torch, transformers 5, safetensors and numpy [default: $INTERNEVO_PYTHON, or python3]
    #[arg(long)]
    python: Option<PathBuf>,
}

const NEEDS: &[&str] = &["torch", "transformers>=5", "safetensors", "numpy"];
const SCRIPTS: [&str; 2] = ["op_goldens.py", "goldens.py"];
const FOLDERS: [&str; 3] = ["backend/tests/goldens", "internevo/tests/goldens", "model/tests/goldens"];

pub fn main(root: &Path, args: &Args) -> Result<()> {
    let python = Python::find(args.python.as_deref());
    python.require(NEEDS)?;
    let before = contents(root)?;
    for script in SCRIPTS {
        println!("{script}");
        succeed(&mut python.script(root, script))?;
    }
    let after = contents(root)?;
    let names: std::collections::BTreeSet<&PathBuf> = before.keys().chain(after.keys()).collect();
    let changed: Vec<String> =
        names.iter().filter(|n| before.get(**n) != after.get(**n)).map(|n| n.display().to_string()).collect();
    if !changed.is_empty() {
        bail!("{} of {} golden files changed: {}", changed.len(), names.len(), changed.join(", "));
    }
    println!("{} golden files are the same, byte for byte", names.len());
    Ok(())
}

/// Every file of the golden folders.
fn contents(root: &Path) -> Result<BTreeMap<PathBuf, Vec<u8>>> {
    let mut out = BTreeMap::new();
    let mut folders: Vec<PathBuf> = FOLDERS.map(PathBuf::from).into();
    while let Some(folder) = folders.pop() {
        let entries = fs::read_dir(root.join(&folder)).with_context(|| format!("cannot list {}", folder.display()))?;
        for entry in entries {
            let entry = entry?;
            let path = folder.join(entry.file_name());
            if entry.file_type()?.is_dir() {
                folders.push(path);
            } else {
                out.insert(path, fs::read(entry.path())?);
            }
        }
    }
    Ok(out)
}
