//! Who reads a directory and who removes it: a reader holds a shared lock of the folder, and a folder is removed under an
//! exclusive one. Files that are open stay readable in any case; the lock covers the time until all are.
use crate::error::{CheckpointError, Result};
use std::fs::{File, TryLockError};
use std::path::Path;

/// Held as long as this lives.
pub(crate) struct Lease(#[expect(dead_code, reason = "the lock goes with the file")] File);

impl Lease {
    /// For a reader. A folder that is being removed meanwhile is gone when this returns.
    pub fn take(dir: &Path) -> Result<Lease> {
        let folder = File::open(dir).map_err(CheckpointError::io("open", dir))?;
        // Some network file systems have no locks; there it is only files that are open which stay readable.
        let _ = folder.lock_shared();
        Ok(Lease(folder))
    }

    /// For whoever removes the folder; none while it is read.
    pub fn take_alone(dir: &Path) -> Result<Option<Lease>> {
        let folder = File::open(dir).map_err(CheckpointError::io("open", dir))?;
        match folder.try_lock() {
            Err(TryLockError::WouldBlock) => Ok(None),
            Ok(()) | Err(TryLockError::Error(_)) => Ok(Some(Lease(folder))),
        }
    }
}
