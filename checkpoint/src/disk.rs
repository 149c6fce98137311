//! Folders that survive a power cut: what `std::fs` does, with the flushes and with the path in every error.
use crate::error::{CheckpointError, Result};
use std::fs::{self, File};
use std::io::{ErrorKind, Write};
use std::path::{Path, PathBuf};

pub(crate) fn exists(path: &Path) -> Result<bool> {
    path.try_exists().map_err(CheckpointError::io("look for", path))
}

/// Bytes of a file, if it is there.
pub(crate) fn size(path: &Path) -> Result<Option<u64>> {
    match fs::metadata(path) {
        Err(e) if e.kind() == ErrorKind::NotFound => Ok(None),
        other => Ok(Some(other.map_err(CheckpointError::io("look at", path))?.len())),
    }
}

/// Paths of the files in a folder and its folders, in order, as seen from it.
pub(crate) fn files(dir: &Path) -> Result<Vec<String>> {
    let mut out = vec![];
    for entry in fs::read_dir(dir).map_err(CheckpointError::io("list", dir))? {
        let path = entry.map_err(CheckpointError::io("list", dir))?.path();
        let name = path.file_name().expect("an entry has a name").to_string_lossy().into_owned();
        match path.is_dir() {
            true => out.extend(files(&path)?.into_iter().map(|file| format!("{name}/{file}"))),
            false => out.push(name),
        }
    }
    out.sort();
    Ok(out)
}

/// Writes a file that is on the disk when this returns.
pub(crate) fn write(path: &Path, bytes: &[u8]) -> Result<()> {
    let write = || {
        let mut file = File::options().write(true).create_new(true).open(path)?;
        file.write_all(bytes)?;
        file.sync_all()
    };
    write().map_err(CheckpointError::io("write", path))
}

/// Makes a folder; one that is there is an error.
pub(crate) fn create(path: &Path) -> Result<()> {
    fs::create_dir(path).map_err(CheckpointError::io("create", path))
}

/// Makes a folder and those above it, as far as they are not there.
pub(crate) fn create_all(path: &Path) -> Result<()> {
    match fs::create_dir(path) {
        Ok(()) => sync(parent(path)),
        Err(_) if path.is_dir() => Ok(()),
        Err(e) if e.kind() == ErrorKind::NotFound && parent(path) != path => {
            create_all(parent(path))?;
            create(path)?;
            sync(parent(path))
        }
        Err(e) => Err(CheckpointError::io("create", path)(e)),
    }
}

/// Removes a folder, if there is one.
pub(crate) fn remove(path: &Path) -> Result<()> {
    match fs::remove_dir_all(path) {
        Err(e) if e.kind() == ErrorKind::NotFound => Ok(()),
        other => other.map_err(CheckpointError::io("remove", path)),
    }
}

/// Renames a folder inside its parent.
pub(crate) fn rename(from: &Path, to: &Path) -> Result<()> {
    fs::rename(from, to).map_err(CheckpointError::io("rename", from))?;
    sync(parent(to))
}

/// Bytes that a file system has left for this user.
pub(crate) fn free(dir: &Path) -> Result<u64> {
    let facts = rustix::fs::statvfs(dir).map_err(|e| CheckpointError::io("look at", dir)(e.into()))?;
    Ok(facts.f_bavail.saturating_mul(facts.f_frsize))
}

/// Flushes a folder with all that lies in it.
pub(crate) fn sync_tree(dir: &Path) -> Result<()> {
    for entry in fs::read_dir(dir).map_err(CheckpointError::io("list", dir))? {
        let path = entry.map_err(CheckpointError::io("list", dir))?.path();
        if path.is_dir() { sync_tree(&path)? } else { sync(&path)? }
    }
    sync(dir)
}

pub(crate) fn sync(path: &Path) -> Result<()> {
    File::open(path).and_then(|f| f.sync_all()).map_err(CheckpointError::io("flush", path))
}

pub(crate) fn parent(path: &Path) -> &Path {
    path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

pub(crate) fn with_suffix(path: &Path, suffix: &str) -> PathBuf {
    let mut path = path.as_os_str().to_owned();
    path.push(suffix);
    path.into()
}
