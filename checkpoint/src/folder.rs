//! The checkpoints of a run: folders `step_N`. There is no pointer to the latest that could be torn; it is the highest
//! step that opens.
use crate::disk;
use crate::error::{CheckpointError, Result};
use crate::training::Training;
use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

pub struct Found {
    pub step: u64,
    pub path: PathBuf,
    /// What is wrong with later ones, newest first.
    pub broken: Vec<CheckpointError>,
}

/// Steps in order. A folder that does not exist yet has none.
pub fn list(checkpoints: &Path) -> Result<Vec<(u64, PathBuf)>> {
    steps(checkpoints, "")
}

/// The highest step that a run can continue from; none if there are no checkpoints, an error if none of them opens.
pub fn newest(checkpoints: &Path) -> Result<Option<Found>> {
    let mut broken = vec![];
    for (step, path) in list(checkpoints)?.into_iter().rev() {
        match Training::load(&path) {
            Ok(_) => return Ok(Some(Found { step, path, broken })),
            Err(e) => broken.push(e),
        }
    }
    match broken.is_empty() {
        true => Ok(None),
        false => Err(CheckpointError::NoneOpens { checkpoints: checkpoints.into(), broken }),
    }
}

/// Makes way for a run that goes on from `step`, or from the beginning: later checkpoints, broken or of a history that is
/// given up, become `step_N.abandoned`, and what crashed saves left is removed.
pub fn rewind(checkpoints: &Path, step: Option<u64>) -> Result<()> {
    for (_, leftover) in steps(checkpoints, TMP)? {
        disk::remove(&leftover)?;
    }
    for (_, path) in list(checkpoints)?.into_iter().filter(|(later, _)| Some(*later) > step) {
        rename(&path, ".abandoned")?;
    }
    Ok(())
}

/// Removes all but the newest `keep_last`.
pub fn prune(checkpoints: &Path, keep_last: usize) -> Result<()> {
    assert!(keep_last > 0, "a prune that keeps nothing");
    let all = list(checkpoints)?;
    for (_, path) in &all[..all.len().saturating_sub(keep_last)] {
        // A crash half-way leaves no half checkpoint under its name.
        disk::remove(&rename(path, TMP)?)?;
    }
    Ok(())
}

/// What is written, or half removed.
pub(crate) const TMP: &str = ".tmp";

fn rename(path: &Path, suffix: &str) -> Result<PathBuf> {
    let to = disk::with_suffix(path, suffix);
    disk::remove(&to)?;
    disk::rename(path, &to)?;
    Ok(to)
}

/// Folders `step_N` with a suffix.
fn steps(checkpoints: &Path, suffix: &str) -> Result<Vec<(u64, PathBuf)>> {
    let io = |e| CheckpointError::io("list", checkpoints)(e);
    let entries = match fs::read_dir(checkpoints) {
        Err(e) if e.kind() == ErrorKind::NotFound => return Ok(vec![]),
        other => other.map_err(io)?,
    };
    let mut out = vec![];
    for entry in entries {
        let entry = entry.map_err(io)?;
        let name = entry.file_name();
        let step = name.to_str().and_then(|n| n.strip_suffix(suffix)?.strip_prefix("step_")?.parse().ok());
        if let Some(step) = step {
            out.push((step, entry.path()));
        }
    }
    out.sort();
    Ok(out)
}
