//! What a disk does with files and nothing else: the measure for saves and loads.
use anyhow::{Context, Result};
use rustix::fs::{Advice, fadvise};
use std::fs::{self, File};
use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

const PIECE: usize = 4 << 20;

/// Writes so many bytes into a new file, until they are on the disk.
pub fn write(path: &Path, bytes: usize) -> Result<Duration> {
    // No disk makes less of it.
    let piece: Vec<u8> = (0..PIECE as u64).map(|i| (i.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 56) as u8).collect();
    let context = || format!("cannot write {}", path.display());
    let began = Instant::now();
    let mut file = File::create(path).with_context(context)?;
    for start in (0..bytes).step_by(PIECE) {
        file.write_all(&piece[..PIECE.min(bytes - start)]).with_context(context)?;
    }
    file.sync_all().with_context(context)?;
    let took = began.elapsed();
    fs::remove_file(path).with_context(context)?;
    Ok(took)
}

/// Reads files from the disk, one after the other.
pub fn read(files: &[PathBuf]) -> Result<Duration> {
    forget(files)?;
    let mut piece = vec![0; PIECE];
    let began = Instant::now();
    for path in files {
        let context = || format!("cannot read {}", path.display());
        let mut file = File::open(path).with_context(context)?;
        while file.read(&mut piece).with_context(context)? > 0 {}
    }
    Ok(began.elapsed())
}

/// So that the next read is one of the disk, and not of what the system remembers.
pub fn forget(files: &[PathBuf]) -> Result<()> {
    for path in files {
        let file = File::open(path).with_context(|| format!("cannot open {}", path.display()))?;
        fadvise(&file, 0, None, Advice::DontNeed).with_context(|| format!("cannot forget {}", path.display()))?;
    }
    Ok(())
}
