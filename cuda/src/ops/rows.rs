//! How rows lie over the threads of a block: see `rows.cuh`.
use crate::work::{Launching, vector};
use backend::View;

impl Launching<'_> {
    /// A block that has a row of `d` numbers of each tensor in registers.
    pub fn rows(self, d: usize, tensors: &[View]) -> Self {
        let vec = vector(d, tensors);
        let threads = threads(d.div_ceil(vec));
        self.define("VEC", vec).define("WIDTH", d).define("BLOCK", threads).block(threads)
    }
}

/// Threads for a row of so many packs: few have nothing to do, and about two packs of each are under way.
fn threads(packs: usize) -> usize {
    const MOST: usize = 512;
    let of = |each: usize| packs.div_ceil(each).next_multiple_of(32);
    let fewest = packs.div_ceil(MOST);
    let each = [2, 3, 4, 1].into_iter().filter(|each| *each >= fewest).min_by_key(|each| each * of(*each));
    of(each.unwrap_or(fewest))
}

/// Blocks that share out `t` rows of `d` numbers and each sum a gradient of weights over theirs.
///
/// Enough of them to keep an H100 busy, so short rows need more; and few enough that their sums are little beside the rows.
/// A constant, so that the bits of the gradient do not depend on the card.
pub fn partials(t: usize, d: usize) -> usize {
    const MULTIPROCESSORS: usize = 132;
    (MULTIPROCESSORS * (8192 / d).max(2)).min(t.div_ceil(4))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn threads_waste_little_and_hold_the_row() {
        assert_eq!([512, 96, 1024, 640, 2048].map(threads), [256, 32, 512, 320, 512]);
        for packs in 1..20_000 {
            let threads = threads(packs);
            assert!((32..=512).contains(&threads) && threads.is_multiple_of(32), "{packs} packs: {threads} threads");
        }
    }

    #[test]
    fn a_few_rows_have_few_partial_sums() {
        assert_eq!([partials(8192, 4096), partials(8192, 1024), partials(5, 64), partials(1, 4096)], [264, 1056, 2, 1]);
    }
}
