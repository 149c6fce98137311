//! The linear layer: three products of the same three dimensions. `dims` is [T, D, F].
//!
//! ```text
//! y = x wᵀ        dx = dy w        dw = scale dyᵀ x
//! ```
use super::lanes::Vectors;
use super::matmul::{Mat, Start, matmul};
use super::one_row;
use super::outer;
use super::pool::Pool;

/// x (T, D), w (F, D) -> y (T, F)
pub fn forward<E: Vectors>(pool: &Pool, x: &[E], w: &[E], y: &mut [E], dims: [usize; 3]) {
    onto(pool, x, w, y, dims, Start::Zero);
}

/// x (T, D), w (F, D), add (T, F) -> y (T, F) = add + x wᵀ
pub fn forward_onto<E: Vectors>(pool: &Pool, x: &[E], w: &[E], add: &[E], y: &mut [E], dims: [usize; 3]) {
    onto(pool, x, w, y, dims, Start::From(add));
}

fn onto<E: Vectors>(pool: &Pool, x: &[E], w: &[E], y: &mut [E], [t, d, f]: [usize; 3], start: Start<E>) {
    if t == 1 {
        assert_eq!([x.len(), y.len()], [d, f]);
        one_row::product(pool, y, x, w, E::ONE, start);
    } else {
        matmul(pool, y, Mat::new(x, [t, d]), Mat::new(w, [f, d]).t(), E::ONE, start);
    }
}

/// dy (T, F), w (F, D) -> dx (T, D)
pub fn backward_input<E: Vectors>(pool: &Pool, dy: &[E], w: &[E], dx: &mut [E], [t, d, f]: [usize; 3]) {
    matmul(pool, dx, Mat::new(dy, [t, f]), Mat::new(w, [f, d]), E::ONE, Start::Zero);
}

/// dy (T, F), x (T, D) -> dw (F, D) = or +=
pub fn backward_weight<E: Vectors>(
    pool: &Pool,
    dy: &[E],
    x: &[E],
    dw: &mut [E],
    [t, d, f]: [usize; 3],
    scale: f64,
    acc: bool,
) {
    if pool.isa().sums::<E>() == outer::SUMS {
        return outer::outer(pool, dy, x, dw, [t, d, f], E::of(scale), acc);
    }
    let start = if acc { Start::Here } else { Start::Zero };
    matmul(pool, dw, Mat::new(dy, [t, f]).t(), Mat::new(x, [t, d]), E::of(scale), start);
}
