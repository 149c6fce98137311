//! A bucket: all parameters of one unit, one after another, cut into equal shards, one for each data-parallel rank. A
//! sharding group that is smaller cuts it into runs of them.
//!
//! The bucket is also laid under a grid of chunks, the terms of the gradient norm. Chunks depend on the bucket's length
//! only and a shard is whole chunks, so the norm is the same sum of the same terms in every layout.
use model::ParamSpec;
use std::ops::Range;

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Bucket {
    /// Elements that are parameters.
    pub len: usize,
    /// Elements with padding: a whole number of chunks for every shard.
    pub padded: usize,
    /// Elements of a chunk.
    pub chunk: usize,
    shards: usize,
}

/// A run of a bucket whose parameters all have weight decay, or all have none.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct DecayRun {
    pub range: Range<usize>,
    pub decay: bool,
}

impl Bucket {
    pub fn new(len: usize, shards: usize) -> Bucket {
        // Small enough that padding is cheap, large enough that a bucket has at most 32 K chunks.
        let chunk = len.div_ceil(32 << 10).next_power_of_two().max(256);
        Bucket { len, padded: len.next_multiple_of(chunk * shards), chunk, shards }
    }

    /// Chunks that hold parameters.
    pub fn chunks(&self) -> usize {
        self.len.div_ceil(self.chunk)
    }

    /// Elements of shard `i`.
    pub fn shard(&self, i: usize) -> Range<usize> {
        self.run(i..i + 1)
    }

    /// Elements of some shards that follow each other.
    pub fn run(&self, shards: Range<usize>) -> Range<usize> {
        let part = self.padded / self.shards;
        shards.start * part..shards.end * part
    }

    /// The part of a shard that is not padding.
    pub fn filled(&self, i: usize) -> Range<usize> {
        let shard = self.shard(i);
        shard.start.min(self.len)..shard.end.min(self.len)
    }
}

/// Cuts a unit's bucket where weight decay changes.
pub fn decay_runs(params: &[ParamSpec]) -> Vec<DecayRun> {
    let mut out: Vec<DecayRun> = vec![];
    for spec in params {
        let range = spec.offset..spec.offset + spec.len();
        match out.last_mut() {
            Some(last) if last.decay == spec.decay => last.range.end = range.end,
            _ => out.push(DecayRun { range, decay: spec.decay }),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shards_are_whole_chunks_and_cover_the_bucket() {
        for len in [1, 255, 256, 257, 10_000, 9_000_001] {
            let alone = Bucket::new(len, 1);
            for shards in [1, 2, 3, 4, 8] {
                let b = Bucket::new(len, shards);
                assert_eq!((b.chunk, b.chunks()), (alone.chunk, alone.chunks()), "the grid does not know about shards");
                assert!((0..shards).all(|i| b.shard(i).len().is_multiple_of(b.chunk)));
                assert_eq!((0..shards).map(|i| b.filled(i).len()).sum::<usize>(), len);
            }
        }
    }
}
