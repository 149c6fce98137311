//! The one order of a sum over ranks: a balanced binary tree in group-rank order.
//!
//! The left side is the largest power of two that is smaller than the number of terms: ((0 1) (2 3)) 4 for five ranks.
//! So a sum inside contiguous groups of a power of two, then across the groups, is the same tree: the same bits.
//!
//! bf16 and f16 travel as they are stored, are widened where they are summed, and are rounded once, at the end.
use backend::Element;
use half::{bf16, f16};
use std::ops::Add;

/// The longest tile, in elements. Small enough for one on the stack at every level of the tree.
pub const TILE: usize = 4096;

/// What can be summed.
pub trait Term: Element {
    /// In what it is summed.
    type Sum: Copy + Default + Add<Output = Self::Sum>;
    fn widen(self) -> Self::Sum;
    /// To nearest, ties to even.
    fn round(sum: Self::Sum) -> Self;
}
impl Term for f32 {
    type Sum = f32;
    fn widen(self) -> f32 {
        self
    }
    fn round(sum: f32) -> f32 {
        sum
    }
}
impl Term for f64 {
    type Sum = f64;
    fn widen(self) -> f64 {
        self
    }
    fn round(sum: f64) -> f64 {
        sum
    }
}
impl Term for bf16 {
    type Sum = f32;
    fn widen(self) -> f32 {
        self.to_f32()
    }
    fn round(sum: f32) -> bf16 {
        bf16::from_f32(sum)
    }
}
impl Term for f16 {
    type Sum = f32;
    fn widen(self) -> f32 {
        self.to_f32()
    }
    fn round(sum: f32) -> f16 {
        f16::from_f32(sum)
    }
}

/// terms R x (T), T <= `TILE` -> sum (T), element by element, as `Term::round` leaves it.
pub fn sum<E: Term>(terms: &[&[E]], sum: &mut [E]) {
    let mut wide = [E::Sum::default(); TILE];
    let wide = &mut wide[..sum.len()];
    tree(terms, wide);
    sum.iter_mut().zip(wide).for_each(|(sum, wide)| *sum = E::round(*wide));
}

fn tree<E: Term>(terms: &[&[E]], sum: &mut [E::Sum]) {
    match terms {
        [] => unreachable!("a group has a member"),
        [x] => sum.iter_mut().zip(*x).for_each(|(sum, x)| *sum = x.widen()),
        // The general case below would copy both first.
        [x, y] => sum.iter_mut().zip(*x).zip(*y).for_each(|((sum, x), y)| *sum = x.widen() + y.widen()),
        [..] => {
            let (left, right) = terms.split_at(terms.len().next_power_of_two() / 2);
            let mut tile = [E::Sum::default(); TILE];
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
            let mut total = [f32::NAN];
            sum(&terms, &mut total);
            assert_eq!(total, [want], "{terms:?}");
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

    /// Beside 256 a bf16 loses 1, and 256 + 1 + 1 in bf16 steps would stay 256; the f32 sum is 258, which bf16 has.
    #[test]
    fn half_widths_are_rounded_once() {
        let terms = [256.0, 1.0, 1.0].map(bf16::from_f32);
        let terms: Vec<_> = terms.iter().map(std::slice::from_ref).collect();
        let mut total = [bf16::NAN];
        sum(&terms, &mut total);
        assert_eq!(total, [bf16::from_f32(258.0)]);
    }
}
