//! Packing as InternEvo does it, for samples whose tokens carry a sign.
//!
//! The samples of a file lie end to end, and a *pack* is the next T of their tokens: a whole micro-batch. Packs never
//! span files, and what is left of a file after its last pack is not used.
//!
//! ```text
//! samples           aaaaaaa bb cccccc         T = 8, seq_len = 4
//! pack              aaaaaaab | bcccccc.
//! segments          aaaa aaa b | b cccc cc .  cut where samples end, and every seq_len
//! cross_documents   aaaa aaab | bccc ccc.     cut every seq_len
//! ```
//!
//! For validation a sample is not packed: it has a row of its own.

use std::ops::Range;

use crate::error::Result;
use crate::pack::{Batch, IGNORE};
use crate::samples::Samples;

/// Packs of T tokens.
pub(crate) struct Packs {
    files: Files,
    tokens: usize,
    seq_len: usize,
    cross_documents: bool,
}

/// Rows of one sample each.
pub(crate) struct Singles {
    files: Files,
    seq_len: usize,
}

/// Files one after the other, and where the units (packs or samples) of each begin.
struct Files {
    samples: Vec<Samples>,
    firsts: Vec<u64>,
    units: u64,
}

impl Packs {
    pub fn new(samples: Vec<Samples>, tokens: usize, seq_len: usize, cross_documents: bool) -> Packs {
        let files = Files::new(samples, |file| file.tokens() / tokens as u64);
        Packs { files, tokens, seq_len, cross_documents }
    }

    pub fn len(&self) -> u64 {
        self.files.units
    }

    /// Append pack k.
    pub fn push(&self, k: u64, batch: &mut Batch) -> Result<()> {
        let (file, k) = self.files.of(k);
        let mut at = k * self.tokens as u64;
        let end = at + self.tokens as u64;
        let mut i = file.at(at);
        while at < end {
            let (tokens, start) = (file.read(i)?, file.start(i));
            let piece = (at - start) as usize..tokens.len().min((end - start) as usize);
            // Where a sample goes on in the next pack, that token is predicted here; with `cross_documents` it is not.
            let next = if self.cross_documents { None } else { tokens.get(piece.end) };
            push_tokens(batch, &tokens, piece.clone(), next, file.type_id);
            if !self.cross_documents {
                end_segments(batch, piece.len(), self.seq_len);
            }
            at = start + piece.end as u64;
            i += 1;
        }
        if self.cross_documents {
            end_segments(batch, self.tokens, self.seq_len);
        }
        Ok(())
    }
}

impl Singles {
    pub fn new(samples: Vec<Samples>, seq_len: usize) -> Singles {
        Singles { files: Files::new(samples, |file| file.len() as u64), seq_len }
    }

    pub fn len(&self) -> u64 {
        self.files.units
    }

    /// Append sample i: as much of it as fits a row, and filler.
    pub fn push(&self, i: u64, batch: &mut Batch) -> Result<()> {
        let (file, i) = self.files.of(i);
        let tokens = file.read(i as usize)?;
        let begin = batch.ids.len();
        push_tokens(batch, &tokens, 0..tokens.len().min(self.seq_len), None, file.type_id);
        for (column, filler) in [(&mut batch.ids, 0), (&mut batch.labels, IGNORE), (&mut batch.types, file.type_id)] {
            column.resize(begin + self.seq_len, filler);
        }
        batch.end_segment(self.seq_len);
        Ok(())
    }
}

impl Files {
    /// Files without a unit are let go.
    fn new(mut samples: Vec<Samples>, units_of: impl Fn(&Samples) -> u64) -> Files {
        samples.retain(|file| units_of(file) > 0);
        let mut units = 0;
        let mut firsts = Vec::with_capacity(samples.len());
        for file in &samples {
            firsts.push(units);
            units += units_of(file);
        }
        Files { samples, firsts, units }
    }

    /// The file of a unit, and which of its own that is.
    fn of(&self, unit: u64) -> (&Samples, u64) {
        assert!(unit < self.units, "unit {unit} of {}", self.units);
        let file = self.firsts.partition_point(|first| *first <= unit) - 1;
        (&self.samples[file], unit - self.firsts[file])
    }
}

/// Ids, labels and types of `tokens[piece]`; `next` is what its last token predicts.
fn push_tokens(batch: &mut Batch, tokens: &[i64], piece: Range<usize>, next: Option<&i64>, type_id: u32) {
    let labels = tokens[piece.start + 1..piece.end].iter().chain(next).map(|token| label(*token));
    batch.labels.extend(labels);
    batch.ids.extend(tokens[piece].iter().map(|token| token.unsigned_abs() as u32));
    batch.labels.resize(batch.ids.len(), IGNORE);
    batch.types.resize(batch.ids.len(), type_id);
}

fn end_segments(batch: &mut Batch, tokens: usize, seq_len: usize) {
    (0..tokens).step_by(seq_len).for_each(|start| batch.end_segment(seq_len.min(tokens - start)));
}

fn label(token: i64) -> u32 {
    if token > 0 { token as u32 } else { IGNORE }
}
