//! What lies in a directory, for whoever wants to see it.
use crate::disk;
use crate::error::Result;
use crate::hf::HfDir;
use crate::json;
use crate::manifest::Manifest;
use crate::reader::Reader;
use crate::training::{MANIFEST, OPTIMIZER, STATE};
use model::Decoder;
use serde_json::Value;
use std::ops::Range;
use std::path::Path;

pub struct Inspection {
    pub decoder: Decoder,
    /// What its writer told of the run; none of a directory that is no checkpoint.
    pub about: Option<Value>,
    /// What was given to [`crate::Save::commit`].
    pub state: Option<Value>,
    /// With their bytes, by path inside the directory.
    pub files: Vec<(String, u64)>,
    /// In the order of their files and bytes.
    pub tensors: Vec<TensorRow>,
}

pub struct TensorRow {
    pub name: String,
    pub dtype: String,
    pub shape: Vec<usize>,
    pub file: String,
    pub bytes: Range<u64>,
}

/// Of a checkpoint, or of any directory that a run can begin from. A checkpoint's files are compared with its manifest, but
/// for the values of tensors.
pub fn inspect(dir: &Path) -> Result<Inspection> {
    let (mut about, mut state) = (None, None);
    if disk::exists(&dir.join(MANIFEST))? {
        let manifest = Manifest::open(dir)?;
        if let Some(problem) = manifest.problems(dir).into_iter().next() {
            return Err(problem);
        }
        state = Some(json::read(&dir.join(STATE))?);
        about = Some(manifest.about);
    }
    let weights = HfDir::open(dir)?;
    let mut tensors = rows(dir, weights.tensors());
    let optimizer = dir.join(OPTIMIZER);
    if disk::exists(&optimizer)? {
        tensors.extend(rows(dir, &Reader::open(&optimizer, std::slice::from_ref(&optimizer))?));
    }
    tensors.sort_by(|a, b| (&a.file, a.bytes.start).cmp(&(&b.file, b.bytes.start)));
    let file = |name: String| Ok(disk::size(&dir.join(&name))?.map(|bytes| (name, bytes)));
    let files: Vec<Option<(String, u64)>> = disk::files(dir)?.into_iter().map(file).collect::<Result<_>>()?;
    let files = files.into_iter().flatten().collect();
    Ok(Inspection { decoder: weights.decoder().clone(), about, state, files, tensors })
}

fn rows(dir: &Path, reader: &Reader) -> Vec<TensorRow> {
    let row = |(name, path): (&str, &Path)| {
        let (dtype, shape, bytes) = reader.facts(name);
        let file = path.strip_prefix(dir).unwrap_or(path).display().to_string();
        TensorRow { name: name.into(), dtype: dtype.to_string(), shape: shape.to_vec(), file, bytes }
    };
    reader.names().map(row).collect()
}
