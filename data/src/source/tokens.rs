//! Token ids as they come: a flat little-endian file, or a one-dimensional `.npy`.

use std::path::Path;

use crate::config::{Dtype, is_npy};
use crate::error::{DataError, Result};
use crate::ids::{TokenIds, Width, map};
use crate::npy::Layout;

/// Map the ids at `path`; every one is checked to be inside the vocabulary.
pub(crate) fn open(path: &Path, dtype: Option<Dtype>, vocab_size: usize) -> Result<TokenIds> {
    let map = map(path)?;
    let ids = if is_npy(path) {
        let (offset, width, len) =
            one_dimension(&map).map_err(|problem| DataError::Npy { path: path.into(), problem })?;
        TokenIds::new(map, offset, width, len)
    } else {
        let width = flat_width(path, dtype);
        let (bytes, width_bytes) = (map.len(), width.bytes());
        if bytes % width_bytes != 0 {
            return Err(DataError::PartialId { path: path.into(), bytes, width: width_bytes });
        }
        TokenIds::new(map, 0, width, bytes / width_bytes)
    };
    match ids.first_outside(vocab_size) {
        Some((position, id)) => Err(DataError::OutsideVocabulary { path: path.into(), position, id, vocab_size }),
        None => Ok(ids),
    }
}

/// All ids of a file, each inside the vocabulary.
pub fn read_ids(path: &Path, vocab_size: usize) -> Result<Vec<u32>> {
    let ids = open(path, None, vocab_size)?;
    let mut out = Vec::with_capacity(ids.len());
    ids.append(0..ids.len(), &mut out);
    Ok(out)
}

/// What the config says, else what the name says (`.u32`), else u16 as nanoGPT and others write it.
fn flat_width(path: &Path, dtype: Option<Dtype>) -> Width {
    let by_name = if path.extension().is_some_and(|ending| ending == "u32") { Dtype::U32 } else { Dtype::U16 };
    match dtype.unwrap_or(by_name) {
        Dtype::U16 => Width::U16,
        Dtype::U32 => Width::U32,
    }
}

/// Offset, type and number of the ids in a `.npy` file.
fn one_dimension(bytes: &[u8]) -> std::result::Result<(usize, Width, usize), String> {
    let layout = Layout::of(bytes)?;
    match layout.shape[..] {
        [len] => Ok((layout.offset, layout.width, len)),
        _ => Err(format!("shape {}, not one dimension", layout.shape_text())),
    }
}
