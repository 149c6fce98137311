//! Token ids as they come: a flat little-endian file, or a one-dimensional `.npy`.

use std::path::Path;

use crate::config::{Dtype, is_npy};
use crate::error::{DataError, Result};
use crate::ids::{TokenIds, Width, map};

/// Map the ids at `path`; every one is checked to be inside the vocabulary.
pub(crate) fn open(path: &Path, dtype: Option<Dtype>, vocab_size: usize) -> Result<TokenIds> {
    let map = map(path)?;
    let ids = if is_npy(path) {
        let npy = |problem| DataError::Npy { path: path.into(), problem };
        let (offset, width, len) = npy_layout(&map).map_err(npy)?;
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

/// Offset, type and number of the ids in a `.npy` file (numpy.lib.format, versions 1 to 3): a magic string,
/// the version, the length of a header, and the header, a Python dict of `descr`, `fortran_order`, `shape`.
fn npy_layout(bytes: &[u8]) -> std::result::Result<(usize, Width, usize), String> {
    let rest = bytes.strip_prefix(b"\x93NUMPY").ok_or("not a .npy file")?;
    let (header_start, header_len) = match *rest {
        [1, _, a, b, ..] => (10, u16::from_le_bytes([a, b]) as usize),
        [2 | 3, _, a, b, c, d, ..] => (12, u32::from_le_bytes([a, b, c, d]) as usize),
        _ => return Err("unknown .npy version".into()),
    };
    let offset = header_start + header_len;
    let header = bytes.get(header_start..offset).and_then(|header| str::from_utf8(header).ok());
    let header = header.ok_or("the header is damaged")?;

    let descr = npy_field(header, "descr", ',')?;
    let width = match descr.trim_matches(['\'', '"']) {
        "|u1" => Width::U8,
        "<u2" => Width::U16,
        "<i2" => Width::I16,
        "<u4" => Width::U32,
        "<i4" => Width::I32,
        "<i8" => Width::I64,
        other if other.starts_with('[') => return Err("a structured type, not ids".into()),
        other => return Err(format!("ids of type {other}, not |u1, <u2, <i2, <u4, <i4 or <i8")),
    };
    let shape = npy_field(header, "shape", ')')?;
    let len = shape.trim_start_matches('(').trim_end_matches(',');
    let len: usize = len.parse().map_err(|_| format!("shape {shape}), not one dimension"))?;

    let stored = (bytes.len() - offset) / width.bytes();
    if stored < len {
        return Err(format!("the header promises {len} ids and {stored} are there"));
    }
    Ok((offset, width, len))
}

/// The text of a field, up to `end`.
fn npy_field<'a>(header: &'a str, name: &str, end: char) -> std::result::Result<&'a str, String> {
    let (_, value) = header.split_once(&format!("'{name}':")).ok_or(format!("no '{name}' in the header"))?;
    let (value, _) = value.split_once(end).ok_or(format!("'{name}' is damaged"))?;
    Ok(value.trim())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn npy(version: u8, header: &str, data: &[u8]) -> Vec<u8> {
        let mut bytes = vec![0x93, b'N', b'U', b'M', b'P', b'Y', version, 0];
        match version {
            1 => bytes.extend((header.len() as u16).to_le_bytes()),
            _ => bytes.extend((header.len() as u32).to_le_bytes()),
        }
        [&bytes, header.as_bytes(), data].concat()
    }

    #[test]
    fn npy_types_and_versions() {
        for (version, descr, width) in [
            (1, "|u1", Width::U8),
            (1, "<u2", Width::U16),
            (2, "<i2", Width::I16),
            (1, "<u4", Width::U32),
            (3, "<i4", Width::I32),
            (1, "<i8", Width::I64),
        ] {
            let header = format!("{{'descr': '{descr}', 'fortran_order': False, 'shape': (2,), }}   \n");
            let start = if version == 1 { 10 } else { 12 } + header.len();
            let bytes = npy(version, &header, &vec![0; 2 * width.bytes()]);
            assert_eq!(npy_layout(&bytes), Ok((start, width, 2)), "{descr}");
        }
    }

    #[test]
    fn npy_problems() {
        let of = |descr: &str, shape: &str| {
            npy(1, &format!("{{'descr': {descr}, 'fortran_order': False, 'shape': {shape}, }}\n"), &[0; 8])
        };
        for (bytes, problem) in [
            (b"hello".to_vec(), "not a .npy file"),
            (npy(9, "", b""), "unknown .npy version"),
            (npy(1, "{}", b"")[..11].to_vec(), "the header is damaged"),
            (npy(1, "{'shape': (2,)}", b""), "no 'descr' in the header"),
            (npy(1, "{'descr': '<u2', }", b""), "no 'shape' in the header"),
            (of("'<f4'", "(2,)"), "ids of type <f4, not |u1"),
            (of("'>u2'", "(2,)"), "ids of type >u2, not |u1"),
            (of("[('a', '<i4')]", "(2,)"), "a structured type, not ids"),
            (of("'<u2'", "(2, 2)"), "shape (2, 2), not one dimension"),
            (of("'<u2'", "()"), "shape (), not one dimension"),
            (of("'<u2'", "(5,)"), "the header promises 5 ids and 4 are there"),
        ] {
            let error = npy_layout(&bytes).unwrap_err();
            assert!(error.starts_with(problem), "{error}");
        }
    }
}
