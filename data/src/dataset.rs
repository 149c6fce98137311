//! From an index to a micro-batch.
//!
//! A dataset is a number of *units*, each a row or already a whole micro-batch, and an endless order of them.

use crate::epochs::Epochs;
use crate::error::Result;
use crate::order::Permutation;
use crate::pack::{Batch, IGNORE, Stream};
use crate::packs::{Packs, Singles};

/// Micro-batches of one split, and the endless order in which training takes them. Threads share it by reference.
pub struct Dataset {
    pub(crate) content: Content,
    pub(crate) order: Order,
    pub(crate) seq_len: usize,
    pub(crate) micro_batch_size: usize,
}

pub(crate) enum Content {
    /// `count` rows, cut from documents that lie end to end.
    Rows { stream: Stream, count: u64 },
    /// Whole micro-batches, packed as InternEvo does.
    Packs(Packs),
    /// A sample in each row.
    Singles(Singles),
}

/// In which order epochs take the units.
pub(crate) enum Order {
    /// As they lie.
    Straight,
    /// Permuted anew in every epoch, by arithmetic on this seed.
    Keyed { seed: u64 },
    /// Shuffled as InternEvo does.
    Shuffled(Epochs),
}

impl Dataset {
    /// Rows in one epoch.
    pub fn rows(&self) -> u64 {
        self.content.units() * (self.micro_batch_size / self.units_of_a_batch()) as u64
    }

    /// Micro-batch `k` since the start of training: the next units of the endless order, one epoch after the other. A
    /// function of (dataset, k) alone. It fails where a file turns out not to be what it should.
    pub fn micro_batch(&self, k: u64) -> Result<Batch> {
        let n = self.units_of_a_batch() as u64;
        self.batch((k * n..).map(|place| Some(self.order.at(place, self.content.units()))))
    }

    /// Micro-batches in one pass over the split, for evaluation.
    pub fn eval_len(&self) -> u64 {
        self.content.units().div_ceil(self.units_of_a_batch() as u64)
    }

    /// Micro-batch `i` of one pass, in order and without shuffle. Past the last row come copies of row 0 whose
    /// labels are all [`IGNORE`], for any `i`: data-parallel ranks take equally many and nothing counts twice.
    pub fn eval_batch(&self, i: u64) -> Result<Batch> {
        let first = i * self.units_of_a_batch() as u64;
        self.batch((first..).map(|unit| (unit < self.content.units()).then_some(unit)))
    }

    /// One pass over the split.
    pub fn eval_batches(&self) -> impl Iterator<Item = Result<Batch>> + '_ {
        (0..self.eval_len()).map(|i| self.eval_batch(i))
    }

    /// The first of `units` that make a micro-batch; None is filler.
    fn batch(&self, units: impl Iterator<Item = Option<u64>>) -> Result<Batch> {
        let mut batch = Batch::with_capacity(self.seq_len * self.micro_batch_size);
        for unit in units.take(self.units_of_a_batch()) {
            let begin = batch.ids.len();
            self.push(unit.unwrap_or(0), &mut batch)?;
            if unit.is_none() {
                batch.labels[begin..].fill(IGNORE);
            }
        }
        Ok(batch)
    }

    fn push(&self, unit: u64, batch: &mut Batch) -> Result<()> {
        match &self.content {
            Content::Rows { stream, .. } => {
                let start = unit as usize * self.seq_len;
                batch.push(stream, start..start + self.seq_len);
                Ok(())
            }
            Content::Packs(packs) => packs.push(unit, batch),
            Content::Singles(singles) => singles.push(unit, batch),
        }
    }

    fn units_of_a_batch(&self) -> usize {
        match &self.content {
            Content::Rows { .. } | Content::Singles(_) => self.micro_batch_size,
            Content::Packs(_) => 1,
        }
    }
}

impl Content {
    pub fn units(&self) -> u64 {
        match self {
            Content::Rows { count, .. } => *count,
            Content::Packs(packs) => packs.len(),
            Content::Singles(singles) => singles.len(),
        }
    }
}

impl Order {
    fn at(&self, place: u64, units: u64) -> u64 {
        match self {
            Order::Straight => place % units,
            Order::Keyed { seed } => Permutation::new(units, *seed, place / units).at(place % units),
            Order::Shuffled(epochs) => epochs.at(place),
        }
    }
}
