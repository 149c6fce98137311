//! The checkpoints of a run: folders `step_N`, and the snapshots between them, `snapshot_N`. There is no pointer to the
//! latest that could be torn; it is the highest step that verifies.
use crate::disk;
use crate::error::{CheckpointError, Result};
use crate::lease::Lease;
use crate::training::Training;
use serde::{Deserialize, Serialize};
use std::fs;
use std::hash::{BuildHasher, RandomState};
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

/// The earlier one is that of a snapshot, where both are of one step.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Kind {
    /// Of which two are kept, the newest.
    Snapshot,
    Step,
}

const KINDS: [(Kind, &str); 2] = [(Kind::Snapshot, "snapshot_"), (Kind::Step, "step_")];

impl Kind {
    /// The folder of a step among the checkpoints of a run.
    pub fn folder(self, checkpoints: &Path, step: u64) -> PathBuf {
        let (_, prefix) = KINDS.into_iter().find(|(kind, _)| *kind == self).expect("all are there");
        checkpoints.join(format!("{prefix}{step}"))
    }
}

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Found {
    pub step: u64,
    pub kind: Kind,
    pub path: PathBuf,
}

/// Makes a folder and those above it that are not there; they survive a power cut.
pub fn create_folder(path: &Path) -> Result<()> {
    disk::create_all(path)
}

/// In the order of steps. A folder that does not exist yet has none.
pub fn list(checkpoints: &Path) -> Result<Vec<Found>> {
    named(checkpoints, |rest| rest.is_empty())
}

/// The highest step that opens, with what is wrong with later ones, newest first; none if there are no checkpoints, an
/// error if none of them opens. Values of tensors are not read.
pub fn newest(checkpoints: &Path) -> Result<Option<(Found, Vec<CheckpointError>)>> {
    let mut broken = vec![];
    for found in list(checkpoints)?.into_iter().rev() {
        match Training::load(&found.path) {
            Ok(_) => return Ok(Some((found, broken))),
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
    for leftover in named(checkpoints, |rest| rest.starts_with(".tmp"))? {
        disk::remove(&leftover.path)?;
    }
    for later in list(checkpoints)?.into_iter().filter(|found| Some(found.step) > step) {
        let to = disk::with_suffix(&later.path, ".abandoned");
        disk::remove(&to)?;
        disk::rename(&later.path, &to)?;
    }
    Ok(())
}

/// Which checkpoints stay.
#[derive(Clone, Copy, Debug)]
pub struct Keep {
    /// The newest of each kind.
    pub steps: usize,
    pub snapshots: usize,
    /// And each whose step is a multiple of this; 0: none.
    pub every: u64,
}

/// Removes all others. What is being read stays until the next time.
pub fn prune(checkpoints: &Path, keep: &Keep) -> Result<()> {
    assert!(keep.steps > 0, "a prune that keeps nothing");
    let all = list(checkpoints)?;
    for (kind, newest) in [(Kind::Step, keep.steps), (Kind::Snapshot, keep.snapshots)] {
        let of_kind: Vec<&Found> = all.iter().filter(|found| found.kind == kind).collect();
        let older = &of_kind[..of_kind.len().saturating_sub(newest)];
        let kept = |found: &Found| kind == Kind::Step && keep.every > 0 && found.step.is_multiple_of(keep.every);
        for found in older.iter().filter(|found| !kept(found)) {
            if let Some(_alone) = Lease::take_alone(&found.path)? {
                // A crash half-way leaves no half checkpoint under its name.
                let draft = draft_of(&found.path);
                disk::rename(&found.path, &draft)?;
                disk::remove(&draft)?;
            }
        }
    }
    Ok(())
}

/// What is written, or half removed, is called `step_N.tmp-X`.
const TMP: &str = ".tmp-";

/// Nobody else has this name, not even a process that was given up for dead.
pub(crate) fn draft_of(dir: &Path) -> PathBuf {
    let random = RandomState::new().hash_one(std::process::id());
    disk::with_suffix(dir, &format!("{TMP}{random:016x}"))
}

/// Folders of a kind and a step with something after it.
fn named(checkpoints: &Path, rest: impl Fn(&str) -> bool) -> Result<Vec<Found>> {
    let io = |e| CheckpointError::io("list", checkpoints)(e);
    let entries = match fs::read_dir(checkpoints) {
        Err(e) if e.kind() == ErrorKind::NotFound => return Ok(vec![]),
        other => other.map_err(io)?,
    };
    let of = |name: &str| {
        let (kind, name) = KINDS.into_iter().find_map(|(kind, prefix)| Some((kind, name.strip_prefix(prefix)?)))?;
        let digits = name.find(|c: char| !c.is_ascii_digit()).unwrap_or(name.len());
        Some((name[..digits].parse().ok()?, kind)).filter(|_| rest(&name[digits..]))
    };
    let mut out = vec![];
    for entry in entries {
        let entry = entry.map_err(io)?;
        if let Some((step, kind)) = entry.file_name().to_str().and_then(of) {
            out.push(Found { step, kind, path: entry.path() });
        }
    }
    out.sort();
    Ok(out)
}
