//! The one order of a sum over ranks: a balanced binary tree in group-rank order.
//!
//! The left side is the largest power of two that is smaller than the number of terms: ((0 1) (2 3)) 4 for five ranks.
//! So a sum inside contiguous groups of a power of two, then across the groups, is the same tree: the same bits.
use backend::Element;
use std::ops::Add;

/// The longest tile, in elements. Small enough for one on the stack at every level of the tree.
pub const TILE: usize = 4096;

/// terms R x (T), T <= `TILE` -> sum (T), element by element. Sums are in the type of the terms.
pub fn tree<E: Element + Add<Output = E>>(terms: &[&[E]], sum: &mut [E]) {
    match terms {
        [] => unreachable!("a group has a member"),
        [x] => sum.copy_from_slice(x),
        // The general case below would copy both first.
        [x, y] => sum.iter_mut().zip(*x).zip(*y).for_each(|((sum, x), y)| *sum = *x + *y),
        [..] => {
            let (left, right) = terms.split_at(terms.len().next_power_of_two() / 2);
            let mut tile = [E::zeroed(); TILE];
            let tile = &mut tile[..sum.len()];
            tree(left, sum);
            tree(right, tile);
            sum.iter_mut().zip(tile).for_each(|(sum, y)| *sum = *sum + *y);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Beside 2^25 an f32 keeps 4 and loses 2, so each order leaves its own result.
    #[test]
    fn order_of_the_terms() {
        const BIG: f32 = 33554432.0;
        let check = |terms: &[f32], want: f32| {
            let terms: Vec<_> = terms.iter().map(std::slice::from_ref).collect();
            let mut sum = [f32::NAN];
            tree(&terms, &mut sum);
            assert_eq!(sum, [want], "{terms:?}");
        };
        check(&[2.0], 2.0);
        check(&[BIG, 2.0], BIG);
        check(&[BIG, 2.0, -BIG], 0.0); // (0 1) 2, not 0 (1 2)
        check(&[BIG, 2.0, 2.0, -BIG], 2.0); // (0 1) (2 3), not ((0 1) 2) 3
        check(&[BIG, 0.0, 2.0, 2.0, -BIG], 4.0); // ((0 1) (2 3)) 4, not (((0 1) 2) 3) 4
        check(&[0.0, 0.0, 2.0, BIG, -BIG], 0.0); // nor ((0 1) 2) (3 4)
        check(&[BIG, 0.0, 0.0, 0.0, 2.0, 2.0], BIG + 4.0); // ((0 1) (2 3)) (4 5)
        check(&[0.0, 0.0, 0.0, 0.0, 2.0, BIG, -BIG], 0.0); // ... ((4 5) 6)
    }
}
