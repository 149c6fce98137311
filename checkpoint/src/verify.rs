//! Whether a checkpoint is what was written, to the last bit.
use crate::error::{CheckpointError, Result};
use crate::lease::Lease;
use crate::manifest::Manifest;
use crate::reader::Reader;
use crate::sums::{RANGE, Sums};
use std::path::Path;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

/// All that is wrong with a checkpoint, each with its file, tensor and bytes. `progress` hears of bytes that were read, of
/// how many.
pub fn verify(dir: &Path, threads: usize, progress: &(dyn Fn(u64, u64) + Sync)) -> Vec<CheckpointError> {
    checked(dir, threads, progress).unwrap_or_else(|error| vec![error])
}

fn checked(dir: &Path, threads: usize, progress: &(dyn Fn(u64, u64) + Sync)) -> Result<Vec<CheckpointError>> {
    let _lease = Lease::take(dir)?;
    let manifest = Manifest::open(dir)?;
    let mut problems = manifest.problems(dir);
    // Of files whose header is whole.
    let mut readers = vec![];
    for file in manifest.tensor_files().map(|name| dir.join(name)) {
        match Reader::open(&file, std::slice::from_ref(&file)) {
            Ok(reader) => readers.push(reader),
            Err(_) if !problems.is_empty() => {}
            Err(error) => problems.push(error),
        }
    }
    let sums = sums(&readers, threads, &|done| progress(done, manifest.bytes()))?;
    problems.extend(manifest.damage(&sums, &readers.iter().collect::<Vec<_>>()));
    Ok(problems)
}

/// Of all tensors, read once by several threads.
fn sums(readers: &[Reader], threads: usize, progress: &(dyn Fn(u64) + Sync)) -> Result<Sums> {
    let of =
        |reader| Reader::elements(reader).flat_map(move |(tensor, len)| ranges(len).map(move |r| (reader, tensor, r)));
    let mut ranges: Vec<_> = readers.iter().flat_map(of).collect();
    ranges.sort_by_key(|(reader, tensor, range)| {
        let (path, bytes) = reader.bytes(tensor, range.clone());
        (path.to_owned(), bytes.start)
    });
    let (next, done, all) = (AtomicUsize::new(0), AtomicU64::new(0), Mutex::new(Sums::default()));
    let work = || -> Result<()> {
        let (mut own, mut buffer) = (Sums::default(), vec![0.0; RANGE]);
        while let Some((reader, tensor, range)) = ranges.get(next.fetch_add(1, Ordering::Relaxed)) {
            let buffer = &mut buffer[..range.len()];
            reader.read(tensor, range.start, buffer)?;
            own.add(tensor, range.start, buffer);
            let bytes = 4 * range.len() as u64;
            progress(done.fetch_add(bytes, Ordering::Relaxed) + bytes);
        }
        all.lock().expect("no thread panics").merge(own);
        Ok(())
    };
    std::thread::scope(|scope| {
        let threads: Vec<_> = (0..threads.max(1)).map(|_| scope.spawn(work)).collect();
        threads.into_iter().try_for_each(|thread| thread.join().expect("a thread does not panic"))
    })?;
    Ok(all.into_inner().expect("no thread panics"))
}

fn ranges(len: usize) -> impl Iterator<Item = std::ops::Range<usize>> {
    (0..len).step_by(RANGE).map(move |start| start..(start + RANGE).min(len))
}
