//! Safetensors files open for reading: any elements of any tensor, as f32.
//!
//! Files are read by position, not mapped: a disk error or a file that is cut while it is open becomes an error with a
//! name, where a map would end the process.
use crate::error::{CheckpointError, Result};
use half::{bf16, f16};
use rustix::fs::{Advice, fadvise};
use safetensors::Dtype;
use safetensors::tensor::Metadata;
use std::collections::HashMap;
use std::fs::File;
use std::num::NonZero;
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

/// What weights may be stored as.
pub(crate) const FLOATS: &[Dtype] = &[Dtype::F32, Dtype::F16, Dtype::BF16, Dtype::F64];

/// Elements converted, or bytes compared, at a time.
const PIECE: usize = 1 << 16;
/// Bytes read at once that are worth a word to the system about those that come next.
const AHEAD: usize = 1 << 18;
/// The format's own limit.
const HEADER_LIMIT: u64 = 100_000_000;

pub(crate) struct Reader {
    /// The file, or the index of the files: where a tensor would have been.
    origin: PathBuf,
    files: Vec<(PathBuf, File)>,
    entries: HashMap<String, Entry>,
}

struct Entry {
    file: usize,
    dtype: Dtype,
    shape: Vec<usize>,
    /// First byte in the file, and how many.
    at: u64,
    bytes: u64,
}

impl Reader {
    pub fn open(origin: &Path, paths: &[PathBuf]) -> Result<Reader> {
        let mut out = Reader { origin: origin.into(), files: vec![], entries: HashMap::new() };
        for path in paths {
            out.add(path)?;
        }
        Ok(out)
    }

    fn add(&mut self, path: &Path) -> Result<()> {
        let file = File::open(path).map_err(CheckpointError::io("open", path))?;
        let (metadata, data) = read_header(path, &file)?;
        for (name, info) in metadata.tensors() {
            let (from, to) = info.data_offsets;
            let entry = Entry {
                file: self.files.len(),
                dtype: info.dtype,
                shape: info.shape.clone(),
                at: data + from as u64,
                bytes: (to - from) as u64,
            };
            if let Some(other) = self.entries.insert(name.clone(), entry) {
                let other = self.files[other.file].0.display();
                let problem = format!("tensor {name} is in {other} and in {}", path.display());
                return Err(CheckpointError::Index { path: self.origin.clone(), problem });
            }
        }
        self.files.push((path.into(), file));
        Ok(())
    }

    /// The first bytes of a file, as far as its table of tensors goes.
    pub fn header(path: &Path) -> Result<Vec<u8>> {
        let file = File::open(path).map_err(CheckpointError::io("open", path))?;
        let (json, _) = header(path, &file)?;
        Ok([&(json.len() as u64).to_le_bytes()[..], &json].concat())
    }

    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Each tensor that can be read as f32, with the number of its elements.
    pub fn elements(&self) -> impl Iterator<Item = (&str, usize)> {
        let readable = self.entries.iter().filter(|(_, e)| FLOATS.contains(&e.dtype));
        readable.map(|(name, e)| (name.as_str(), e.shape.iter().product()))
    }

    /// Type, shape and place in its file.
    pub fn facts(&self, name: &str) -> (Dtype, &[usize], Range<u64>) {
        let entry = &self.entries[name];
        (entry.dtype, &entry.shape, entry.at..entry.at + entry.bytes)
    }

    /// Each tensor with its file.
    pub fn names(&self) -> impl Iterator<Item = (&str, &Path)> {
        self.entries.iter().map(|(name, e)| (name.as_str(), self.files[e.file].0.as_path()))
    }

    /// The file of a tensor.
    pub fn file(&self, name: &str) -> Option<&Path> {
        self.entries.get(name).map(|e| self.files[e.file].0.as_path())
    }

    /// Where elements of a tensor lie, as far as it has them.
    pub fn bytes(&self, name: &str, elements: Range<usize>) -> (&Path, Range<u64>) {
        let entry = &self.entries[name];
        let all: usize = entry.shape.iter().product();
        let width = entry.bytes / all.max(1) as u64;
        let at = |element: usize| entry.at + element.min(all) as u64 * width;
        (&self.files[entry.file].0, at(elements.start)..at(elements.end))
    }

    /// After this, [`Reader::read`] knows the tensor.
    pub fn check(&self, name: &str, shape: &[usize], readable: &'static [Dtype]) -> Result<()> {
        let tensor = name.to_string();
        let Some(entry) = self.entries.get(name) else {
            return Err(CheckpointError::Missing { path: self.origin.clone(), tensor });
        };
        let path = self.files[entry.file].0.clone();
        if entry.shape != shape {
            let (found, needed) = (entry.shape.clone(), shape.to_vec());
            return Err(CheckpointError::Shape { path, tensor, found, needed });
        }
        if !readable.contains(&entry.dtype) {
            return Err(CheckpointError::Dtype { path, tensor, found: entry.dtype, readable });
        }
        Ok(())
    }

    /// Elements `start ..` of a checked tensor.
    pub fn read(&self, name: &str, start: usize, out: &mut [f32]) -> Result<()> {
        let entry = &self.entries[name];
        let elements: usize = entry.shape.iter().product();
        assert!(start + out.len() <= elements, "elements {start} + {} of {name}, which has {elements}", out.len());
        match entry.dtype {
            Dtype::F32 => self.fill(entry, start * 4, bytemuck::cast_slice_mut(out)),
            Dtype::F64 => self.convert(entry, start, out, |b| f64::from_le_bytes(b) as f32),
            Dtype::F16 => self.convert(entry, start, out, |b| f16::from_le_bytes(b).to_f32()),
            Dtype::BF16 => self.convert(entry, start, out, |b| bf16::from_le_bytes(b).to_f32()),
            other => unreachable!("{name} of {other} was not checked"),
        }
    }

    fn convert<const N: usize>(
        &self,
        entry: &Entry,
        start: usize,
        out: &mut [f32],
        f: impl Fn([u8; N]) -> f32,
    ) -> Result<()> {
        let mut bytes = vec![0; N * PIECE.min(out.len())];
        for (i, out) in out.chunks_mut(PIECE).enumerate() {
            let bytes = &mut bytes[..N * out.len()];
            self.fill(entry, (start + i * PIECE) * N, bytes)?;
            out.iter_mut().zip(bytes.as_chunks().0).for_each(|(x, b)| *x = f(*b));
        }
        Ok(())
    }

    /// Bytes `at ..` of a tensor.
    fn fill(&self, entry: &Entry, at: usize, out: &mut [u8]) -> Result<()> {
        let (path, file) = &self.files[entry.file];
        if out.len() >= AHEAD {
            // All at once, and what comes next while this is worked on: the system alone asks for 128 KiB, and waits. Where it
            // cannot be told it will.
            let (next, len) = ((at + out.len()) as u64, out.len() as u64);
            let following = if next < entry.bytes { len.min(entry.bytes - next) } else { len };
            let _ = fadvise(file, entry.at + at as u64, NonZero::new(len + following), Advice::WillNeed);
        }
        file.read_exact_at(out, entry.at + at as u64).map_err(CheckpointError::io("read", path))
    }

    /// Two tensors, of whatever type, hold the same.
    pub fn same(&self, a: &str, b: &str) -> Result<bool> {
        let (a, b) = (&self.entries[a], &self.entries[b]);
        if (a.dtype, &a.shape) != (b.dtype, &b.shape) {
            return Ok(false);
        }
        for at in (0..a.bytes as usize).step_by(PIECE) {
            let len = PIECE.min(a.bytes as usize - at);
            let (mut x, mut y) = (vec![0; len], vec![0; len]);
            self.fill(a, at, &mut x)?;
            self.fill(b, at, &mut y)?;
            if x != y {
                return Ok(false);
            }
        }
        Ok(true)
    }
}

/// The JSON of a file's header, and the bytes of the file.
fn header(path: &Path, file: &File) -> Result<(Vec<u8>, u64)> {
    let read = |at: u64, out: &mut [u8]| file.read_exact_at(out, at).map_err(CheckpointError::io("read", path));
    let bytes = file.metadata().map_err(CheckpointError::io("open", path))?.len();
    at_least(path, bytes, 8)?;
    let mut len = [0; 8];
    read(0, &mut len)?;
    let len = u64::from_le_bytes(len);
    if len > HEADER_LIMIT {
        let problem = format!("it begins with a header of {len} bytes, where {HEADER_LIMIT} are allowed");
        return Err(CheckpointError::Header { path: path.into(), problem });
    }
    at_least(path, bytes, 8 + len)?;
    let mut json = vec![0; len as usize];
    read(8, &mut json)?;
    Ok((json, bytes))
}

/// The table of a file's tensors and where their data begins. The file is as long as it should be.
fn read_header(path: &Path, file: &File) -> Result<(Metadata, u64)> {
    let invalid = |problem: String| CheckpointError::Header { path: path.into(), problem };
    let (json, bytes) = header(path, file)?;
    let data = 8 + json.len() as u64;
    let metadata: Metadata =
        serde_json::from_slice(&json).map_err(|e| invalid(format!("its header is damaged: {e}")))?;
    let end = data.saturating_add(metadata.data_len() as u64);
    at_least(path, bytes, end)?;
    if bytes > end {
        return Err(invalid(format!("{} bytes follow the last tensor", bytes - end)));
    }
    Ok((metadata, data))
}

fn at_least(path: &Path, bytes: u64, needed: u64) -> Result<()> {
    match bytes < needed {
        true => Err(CheckpointError::Truncated { path: path.into(), bytes, needed }),
        false => Ok(()),
    }
}
