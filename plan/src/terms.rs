//! The terms of the gradient norm: sums of squares over the cells of a grid that is laid under every bucket.
//!
//! A cell is a chunk of the bucket, or as much of it as the rank counts: what several members of a tensor-parallel group have is
//! counted by the first of them. So the terms depend on the model and on the tensor-parallel size alone, and the norm is the same
//! sum of the same terms in every other layout.
use crate::{Plan, RankId, UnitBucket};
use model::{Decoder, ParamSpec, Tensor, Unit};
use std::ops::Range;

#[derive(Clone, PartialEq, Debug)]
pub(crate) struct Terms {
    /// By member of the tensor-parallel group, by unit.
    counted: Vec<Vec<Counted>>,
    total: usize,
}

/// What a member counts of a bucket.
#[derive(Clone, PartialEq, Debug)]
struct Counted {
    ranges: Vec<Range<usize>>,
    /// Number of the first term among those of all.
    first: usize,
}

/// Some terms that follow each other: elements, of which each chunk is one, and the number of the first.
pub struct Squares {
    pub elements: Range<usize>,
    pub first: usize,
}

fn cells(range: &Range<usize>, chunk: usize) -> usize {
    if range.is_empty() { 0 } else { range.end.div_ceil(chunk) - range.start / chunk }
}

impl Terms {
    pub fn new(part: &Decoder, tensor: Tensor, kv: usize, buckets: &[UnitBucket]) -> Terms {
        let mut total = 0;
        let mut counted = |index: usize, unit: Unit| {
            let cut = tensor.cuts(unit == Unit(0) || unit == part.head());
            let counts = |spec: &&ParamSpec| match cut {
                true => tensor.is_first_with(spec.split, kv, index),
                false => index == 0,
            };
            let mut ranges: Vec<Range<usize>> = vec![];
            for spec in part.params(unit).iter().filter(counts) {
                match ranges.last_mut() {
                    Some(last) if last.end == spec.offset => last.end += spec.len(),
                    _ => ranges.push(spec.offset..spec.offset + spec.len()),
                }
            }
            let first = total;
            total += ranges.iter().map(|range| cells(range, buckets[unit.0].bucket.chunk)).sum::<usize>();
            Counted { ranges, first }
        };
        let counted =
            (0..tensor.size).map(|index| part.unit_range().map(|unit| counted(index, unit)).collect()).collect();
        Terms { counted, total }
    }
}

impl Plan {
    /// Of the whole model.
    pub fn terms(&self) -> usize {
        self.terms.total
    }

    /// What a rank counts of a unit.
    pub fn squares(&self, unit: Unit, rank: RankId) -> impl Iterator<Item = Squares> + '_ {
        // A bucket that is not cut over the tensor-parallel group has its terms among those of the first member.
        let index = if self.is_cut(unit) { self.mesh.tensor_rank(rank) } else { 0 };
        let (own, chunk) = (self.squared(unit, rank), self.bucket(unit).chunk);
        let Counted { ranges, first } = &self.terms.counted[index][unit.0];
        let mut first = *first;
        ranges.iter().flat_map(move |range| {
            let mine = range.start.max(own.start)..range.end.min(own.end);
            // The grid is the bucket's: a range that begins inside a chunk begins with a short term.
            let aligned = mine.start.next_multiple_of(chunk).min(mine.end.max(mine.start));
            let of_range = first;
            first += cells(range, chunk);
            let pieces = [mine.start..aligned, aligned..mine.end].into_iter().filter(|piece| !piece.is_empty());
            pieces.map(move |elements| Squares {
                first: of_range + elements.start / chunk - range.start / chunk,
                elements,
            })
        })
    }
}
