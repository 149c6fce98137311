//! Memory-mapped token ids, whatever integer they are stored as. The crate's one `unsafe` is here.

use std::fs::File;
use std::io::ErrorKind;
use std::ops::Range;
use std::path::Path;

use memmap2::Mmap;
use rayon::prelude::*;

use crate::error::{DataError, Result};

/// The little-endian integer one id is stored as.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Width {
    U8,
    U16,
    I16,
    U32,
    I32,
    I64,
}

impl Width {
    pub fn bytes(self) -> usize {
        match self {
            Width::U8 => 1,
            Width::U16 | Width::I16 => 2,
            Width::U32 | Width::I32 => 4,
            Width::I64 => 8,
        }
    }
}

/// Ids in a mapped file, from byte `offset` on.
pub(crate) struct TokenIds {
    map: Mmap,
    offset: usize,
    width: Width,
    len: usize,
}

impl TokenIds {
    pub fn new(map: Mmap, offset: usize, width: Width, len: usize) -> TokenIds {
        assert!(offset + len * width.bytes() <= map.len(), "{len} ids in a map of {} bytes", map.len());
        TokenIds { map, offset, width, len }
    }

    pub fn len(&self) -> usize {
        self.len
    }

    /// Append `ids[range]` to `out`. The ids were checked when the file was opened.
    pub fn append(&self, range: Range<usize>, out: &mut Vec<u32>) {
        self.each(range, |id| out.push(id as u32));
    }

    pub fn at(&self, i: usize) -> u32 {
        let mut one = 0;
        self.each(i..i + 1, |id| one = id as u32);
        one
    }

    /// The first id that is not in `0..vocab_size`, and its position.
    pub fn first_outside(&self, vocab_size: usize) -> Option<(usize, i64)> {
        const PIECE: usize = 1 << 18;
        (0..self.len.div_ceil(PIECE)).into_par_iter().find_map_first(|piece| {
            let mut position = piece * PIECE;
            let mut outside = None;
            self.each(position..self.len.min(position + PIECE), |id| {
                if outside.is_none() && !(0..vocab_size as i64).contains(&id) {
                    outside = Some((position, id));
                }
                position += 1;
            });
            outside
        })
    }

    /// All of `ids[range]` in order, as stored.
    pub fn each(&self, range: Range<usize>, mut f: impl FnMut(i64)) {
        let width = self.width.bytes();
        let bytes = &self.map[self.offset..][..self.len * width][range.start * width..range.end * width];
        match self.width {
            Width::U8 => bytes.iter().for_each(|b| f((*b).into())),
            Width::U16 => bytes.as_chunks().0.iter().for_each(|b| f(u16::from_le_bytes(*b).into())),
            Width::I16 => bytes.as_chunks().0.iter().for_each(|b| f(i16::from_le_bytes(*b).into())),
            Width::U32 => bytes.as_chunks().0.iter().for_each(|b| f(u32::from_le_bytes(*b).into())),
            Width::I32 => bytes.as_chunks().0.iter().for_each(|b| f(i32::from_le_bytes(*b).into())),
            Width::I64 => bytes.as_chunks().0.iter().for_each(|b| f(i64::from_le_bytes(*b))),
        }
    }
}

/// The whole file, read-only.
pub(crate) fn map(path: &Path) -> Result<Mmap> {
    let file = File::open(path).map_err(DataError::io("open", path))?;
    if file.metadata().map_err(DataError::io("open", path))?.is_dir() {
        return Err(DataError::io("map", path)(ErrorKind::IsADirectory.into()));
    }
    // SAFETY: a read-only map is sound as long as nobody changes the file under it. A cache is never written
    // after it was renamed into place. That data files stay as they are while they are read is asked of the
    // user, as by every memory-mapped loader; a text is mapped only while it is scanned or tokenised.
    unsafe { Mmap::map(&file) }.map_err(DataError::io("map", path))
}
