//! `training/manifest.json`: what a checkpoint consists of, with the checksum of everything. It is the last file that is
//! written, so a folder without it is no checkpoint.
//!
//! A tensor has a checksum for each range of 2^20 elements, a file of tensors one for its header, any other file one for
//! itself; the manifest's own stands in its last line. Ranks sum what they write, and what they read, whatever ranges
//! those are: the sums of all ranks are the same in every layout.
use crate::checksum::Sum;
use crate::contents::{Contents, Tensor};
use crate::disk;
use crate::error::{CheckpointError, Result};
use crate::reader::Reader;
use crate::sums::{RANGE, Sums};
use crate::training::MANIFEST;
use crate::writer::Header;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use std::collections::BTreeMap;
use std::fs::{self, File};
use std::path::{Component, Path};

/// Of the format of a checkpoint.
const VERSION: u64 = 2;

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Manifest {
    version: u64,
    /// What its writer tells of the run: step, layout.
    pub about: Value,
    /// By path inside the folder.
    files: BTreeMap<String, Entry>,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Entry {
    bytes: u64,
    /// Of the header, if the file has tensors.
    sum: Sum,
    /// In the order of their ranges.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    tensors: Option<BTreeMap<String, Vec<Sum>>>,
}

impl Manifest {
    /// Of a draft whose files are all there but this one.
    pub fn of(draft: &Path, contents: &[Contents], sums: &Sums, about: Value) -> Result<Manifest> {
        let mut files = BTreeMap::new();
        for Contents { file, tensors } in contents {
            let header = Header::new(tensors);
            let of = |t: &Tensor| (t.name.clone(), sums.of(&t.name, t.len()));
            let tensors = Some(tensors.iter().map(of).collect());
            files.insert(file.clone(), Entry { bytes: header.file_bytes, sum: Sum::of_bytes(&header.bytes), tensors });
        }
        for name in disk::files(draft)?.into_iter().filter(|name| !contents.iter().any(|c| c.file == *name)) {
            let path = draft.join(&name);
            let bytes = disk::size(&path)?.ok_or_else(|| CheckpointError::Lost { path: path.clone() })?;
            files.insert(name, Entry { bytes, sum: sum_of_file(&path)?, tensors: None });
        }
        Ok(Manifest { version: VERSION, about, files })
    }

    pub fn write(&self, draft: &Path) -> Result<()> {
        let body = serde_json::to_string_pretty(self).expect("plain data");
        let body = body.strip_suffix(END).expect("an object ends so");
        disk::write(&draft.join(MANIFEST), format!("{body}{}", last_line(body)).as_bytes())
    }

    /// The file itself is whole; of what it lists [`Manifest::problems`] tells.
    pub fn open(dir: &Path) -> Result<Manifest> {
        let path = dir.join(MANIFEST);
        let damaged = |problem: String| CheckpointError::Manifest { path: path.clone(), problem };
        if !disk::exists(&path)? {
            return Err(CheckpointError::NoManifest { dir: dir.into() });
        }
        let bytes = fs::read(&path).map_err(CheckpointError::io("read", &path))?;
        let text = String::from_utf8(bytes).map_err(|_| damaged("it is no text".into()))?;
        let whole = text.rsplit_once(SUM).filter(|(body, _)| text[body.len()..] == last_line(body));
        let (body, _) = whole.ok_or_else(|| damaged("its checksum is not that of its text".into()))?;
        let manifest: Manifest =
            serde_json::from_str(&format!("{body}{END}")).map_err(|e| damaged(format!("it cannot be read: {e}")))?;
        if manifest.version != VERSION {
            let found = manifest.version;
            return Err(damaged(format!("its format has version {found}, and this program reads version {VERSION}")));
        }
        let normal = |name: &str| Path::new(name).components().all(|c| matches!(c, Component::Normal(_)));
        let inside = |name: &str| !name.is_empty() && normal(name);
        match manifest.files.keys().find(|name| !inside(name)) {
            Some(outside) => Err(damaged(format!("{outside:?} is no file of this folder"))),
            None => Ok(manifest),
        }
    }

    /// Everything but the values of tensors is what was written: the files that are there, their sizes and headers.
    pub fn problems(&self, dir: &Path) -> Vec<CheckpointError> {
        let listed = self.files.iter().filter_map(|(name, entry)| entry.check(&dir.join(name)).err());
        listed.chain(self.foreign(dir).unwrap_or_else(|error| vec![error])).collect()
    }

    /// Files that this program or transformers would read, and that are not of the checkpoint.
    fn foreign(&self, dir: &Path) -> Result<Vec<CheckpointError>> {
        let read = |name: &str| {
            let suffix = Path::new(name).extension().and_then(|e| e.to_str());
            suffix.is_some_and(|suffix| ["json", "safetensors", "bin", "model"].contains(&suffix))
        };
        let foreign = |name: &String| name != MANIFEST && read(name) && !self.files.contains_key(name);
        let path = |name: String| CheckpointError::ForeignFile { path: dir.join(name) };
        Ok(disk::files(dir)?.into_iter().filter(foreign).map(path).collect())
    }

    /// Bytes of all files.
    pub fn bytes(&self) -> u64 {
        self.files.values().fold(0, |sum, entry| sum.saturating_add(entry.bytes))
    }

    /// Files with tensors.
    pub fn tensor_files(&self) -> impl Iterator<Item = &str> {
        self.files.iter().filter(|(_, entry)| entry.tensors.is_some()).map(|(name, _)| name.as_str())
    }

    /// Ranges of tensors that are not what was written, among the tensors that have been summed, each as a whole.
    pub fn damage(&self, sums: &Sums, readers: &[&Reader]) -> Vec<CheckpointError> {
        let mut out = vec![];
        let tensors = self.files.values().filter_map(|entry| entry.tensors.as_ref()).flatten();
        for (tensor, written) in tensors.filter(|(tensor, _)| sums.0.contains_key(*tensor)) {
            let read = &sums.0[tensor];
            for (number, _) in written.iter().enumerate().filter(|(n, sum)| read.get(n) != Some(sum)) {
                let reader = readers.iter().find(|r| r.file(tensor).is_some()).expect("who read it knows it");
                let (path, bytes) = reader.bytes(tensor, number * RANGE..(number + 1) * RANGE);
                out.push(CheckpointError::Damaged { path: path.into(), tensor: tensor.clone(), bytes });
            }
        }
        out
    }
}

impl Entry {
    fn check(&self, path: &Path) -> Result<()> {
        let bytes = disk::size(path)?.ok_or_else(|| CheckpointError::Lost { path: path.into() })?;
        if bytes != self.bytes {
            return Err(CheckpointError::Size { path: path.into(), bytes, needed: self.bytes });
        }
        let sum = match self.tensors {
            Some(_) => Sum::of_bytes(&Reader::header(path)?),
            None => sum_of_file(path)?,
        };
        match sum == self.sum {
            true => Ok(()),
            false => Err(CheckpointError::Changed { path: path.into(), header: self.tensors.is_some() }),
        }
    }
}

fn sum_of_file(path: &Path) -> Result<Sum> {
    File::open(path).and_then(Sum::of_reader).map_err(CheckpointError::io("read", path))
}

const END: &str = "\n}";
const SUM: &str = ",\n  \"sum\": ";

/// What follows the text that is summed; the whole is JSON.
fn last_line(body: &str) -> String {
    format!("{SUM}\"{:016x}\"{END}\n", Sum::of_bytes(body.as_bytes()).0)
}
