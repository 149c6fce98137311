//! The samples of one file (or of a generator), which come as whole lists of tokens with signs.
//!
//! Only their places and lengths are in memory; a sample is read when a batch needs it.

use crate::error::Result;
use crate::numpy::RandomState;
use crate::source::internevo::{BinFile, Line};
use crate::source::random::Ramps;

pub(crate) struct Samples {
    source: Source,
    /// Where sample i ends, all of them laid end to end.
    ends: Vec<u64>,
    /// The type of all tokens in here.
    pub type_id: u32,
}

enum Source {
    /// Lines that begin at these bytes.
    File { file: BinFile, offsets: Vec<u64> },
    /// Made when they are asked for.
    Random { samples: Vec<Ramps>, seq_len: usize },
}

/// Of the generator that orders the samples of a file, whatever the seed of the run is: an order that a resumed run
/// finds again.
const SEED: u32 = 1024;

/// The order in which InternEvo lays the samples of a file end to end.
pub(crate) fn shuffled<T: Copy>(samples: &[T]) -> Vec<T> {
    RandomState::new(SEED).permutation(samples.len()).into_iter().map(|i| samples[i as usize]).collect()
}

impl Samples {
    /// Lines of a file, those without tokens left out.
    pub fn of_file(file: BinFile, mut lines: Vec<Line>, type_id: u32) -> Samples {
        lines.retain(|line| line.tokens > 0);
        let ends = ends(lines.iter().map(|line| line.tokens.into()));
        let offsets = lines.into_iter().map(|line| line.offset).collect();
        Samples { source: Source::File { file, offsets }, ends, type_id }
    }

    pub fn random(samples: Vec<Ramps>, seq_len: usize) -> Samples {
        let ends = ends(samples.iter().map(|sample| sample.len(seq_len) as u64));
        Samples { source: Source::Random { samples, seq_len }, ends, type_id: 0 }
    }

    pub fn len(&self) -> usize {
        self.ends.len()
    }

    /// Tokens of all.
    pub fn tokens(&self) -> u64 {
        self.ends.last().copied().unwrap_or(0)
    }

    /// The sample that holds a token of the whole.
    pub fn at(&self, token: u64) -> usize {
        self.ends.partition_point(|end| *end <= token)
    }

    /// Where a sample begins in the whole.
    pub fn start(&self, i: usize) -> u64 {
        if i == 0 { 0 } else { self.ends[i - 1] }
    }

    /// The tokens of a sample; an id with a minus is not to be predicted, and so is 0.
    pub fn read(&self, i: usize) -> Result<Vec<i64>> {
        match &self.source {
            Source::File { file, offsets } => {
                file.read(Line { offset: offsets[i], tokens: (self.ends[i] - self.start(i)) as u32 })
            }
            Source::Random { samples, seq_len } => Ok(samples[i].tokens(*seq_len)),
        }
    }
}

fn ends(lengths: impl Iterator<Item = u64>) -> Vec<u64> {
    let running = lengths.scan(0, |end, length| {
        *end += length;
        Some(*end)
    });
    running.collect()
}
