//! Safetensors files being written: any elements of any tensor, in any order, by any thread.
//!
//! The headers follow from the contents, so every file has its final size, reserved on the disk, and its header before
//! the first element is written.
use crate::contents::{Contents, Tensor};
use crate::error::{CheckpointError, Result};
use rustix::fs::{FallocateFlags, fallocate};
use rustix::io::Errno;
use safetensors::Dtype;
use safetensors::tensor::{Metadata, TensorInfo};
use std::collections::HashMap;
use std::fs::File;
use std::io::ErrorKind;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

pub(crate) struct Writer {
    /// Each opened when it is needed.
    files: Vec<(PathBuf, OnceLock<File>)>,
    /// By tensor.
    places: HashMap<String, Place>,
}

#[derive(Clone, Copy)]
struct Place {
    file: usize,
    /// First byte in it.
    at: u64,
}

impl Writer {
    /// Of all files.
    pub fn bytes(contents: &[Contents]) -> u64 {
        contents.iter().map(|c| Header::new(&c.tensors).file_bytes).sum()
    }

    pub fn create(dir: &Path, contents: &[Contents]) -> Result<Writer> {
        let total = Writer::bytes(contents);
        Writer::each(dir, contents, |path, header| {
            let bytes = header.file_bytes;
            let full = |cause| CheckpointError::NoSpace { path: path.into(), bytes, total, cause };
            let file = File::options().read(true).write(true).create_new(true).open(path);
            let file = file.map_err(CheckpointError::io("create", path))?;
            reserve(&file, bytes).map_err(full)?;
            file.write_all_at(&header.bytes, 0).map_err(CheckpointError::io("write", path))?;
            Ok(file.into())
        })
    }

    /// Files that another rank has created.
    pub fn of(dir: &Path, contents: &[Contents]) -> Writer {
        Writer::each(dir, contents, |_, _| Ok(OnceLock::new())).expect("nothing is opened")
    }

    fn each(
        dir: &Path,
        contents: &[Contents],
        file: impl Fn(&Path, &Header) -> Result<OnceLock<File>>,
    ) -> Result<Writer> {
        let mut out = Writer { files: vec![], places: HashMap::new() };
        for contents in contents {
            let (path, header) = (dir.join(&contents.file), Header::new(&contents.tensors));
            for (tensor, at) in contents.tensors.iter().zip(&header.starts) {
                out.places.insert(tensor.name.clone(), Place { file: out.files.len(), at: *at });
            }
            let file = file(&path, &header)?;
            out.files.push((path, file));
        }
        Ok(out)
    }

    fn file(&self, place: Place) -> Result<(&Path, &File)> {
        let (path, file) = &self.files[place.file];
        if file.get().is_none() {
            let opened = File::options().read(true).write(true).open(path);
            let opened = opened.map_err(|cause| match cause.kind() {
                ErrorKind::NotFound => CheckpointError::NotShared { path: path.into(), cause },
                _ => CheckpointError::io("open", path)(cause),
            })?;
            file.get_or_init(|| opened);
        }
        Ok((path, file.get().expect("it was opened")))
    }

    /// What was written here is on the disk.
    pub fn sync(&self) -> Result<()> {
        let opened = self.files.iter().filter_map(|(path, file)| Some((path, file.get()?)));
        opened.into_iter().try_for_each(|(path, file)| file.sync_data().map_err(CheckpointError::io("flush", path)))
    }

    /// Elements `start ..` of a tensor that were written.
    pub fn read(&self, tensor: &str, start: usize, out: &mut [f32]) -> Result<()> {
        let place = self.places[tensor];
        let (path, file) = self.file(place)?;
        let at = place.at + 4 * start as u64;
        file.read_exact_at(bytemuck::cast_slice_mut(out), at).map_err(CheckpointError::io("read", path))
    }

    /// Writes elements `start ..` of a tensor.
    pub fn write(&self, tensor: &str, start: usize, data: &[f32]) -> Result<()> {
        let place = self.places[tensor];
        let (path, file) = self.file(place)?;
        let at = place.at + 4 * start as u64;
        file.write_all_at(bytemuck::cast_slice(data), at).map_err(CheckpointError::io("write", path))
    }
}

fn reserve(file: &File, bytes: u64) -> std::io::Result<()> {
    match fallocate(file, FallocateFlags::empty(), 0, bytes) {
        // Some network file systems cannot reserve; there a full disk is found by a write.
        Err(Errno::OPNOTSUPP) => file.set_len(bytes),
        other => Ok(other?),
    }
}

pub(crate) struct Header {
    /// The first bytes of the file.
    pub bytes: Vec<u8>,
    /// First byte in the file of each tensor.
    starts: Vec<u64>,
    pub file_bytes: u64,
}

impl Header {
    pub fn new(tensors: &[Tensor]) -> Header {
        let mut end = 0;
        let mut infos = vec![];
        for t in tensors {
            let start = end;
            end += t.bytes() as usize;
            let info = TensorInfo { dtype: Dtype::F32, shape: t.shape.clone(), data_offsets: (start, end) };
            infos.push((t.name.clone(), info));
        }
        let offsets: Vec<usize> = infos.iter().map(|(_, info)| info.data_offsets.0).collect();
        // transformers refuses a file that does not name its framework.
        let format = [("format".to_string(), "pt".to_string())].into_iter().collect();
        let metadata = Metadata::new(Some(format), infos).expect("offsets follow one another");
        let mut json = serde_json::to_vec(&metadata).expect("plain data");
        // The format wants data to begin at a multiple of 8.
        json.resize(json.len().next_multiple_of(8), b' ');

        let data = 8 + json.len() as u64;
        Header {
            bytes: [&(json.len() as u64).to_le_bytes()[..], &json[..]].concat(),
            starts: offsets.iter().map(|offset| data + *offset as u64).collect(),
            file_bytes: data + end as u64,
        }
    }
}
