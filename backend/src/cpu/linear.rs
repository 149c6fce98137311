//! The linear layer: three products of the same three dimensions. `dims` is [T, D, F].
//!
//! ```text
//! y = x wᵀ        dx = dy w        dw = scale dyᵀ x
//! ```
use super::matmul::{Mat, par_matmul};
use super::real::Real;

/// x (T, D), w (F, D) -> y (T, F) = or +=
pub fn forward<E: Real>(x: &[E], w: &[E], y: &mut [E], [t, d, f]: [usize; 3], acc: bool) {
    par_matmul(y, matrix(x, t, d), matrix(w, f, d).t(), E::ONE, acc);
}

/// dy (T, F), w (F, D) -> dx (T, D)
pub fn backward_input<E: Real>(dy: &[E], w: &[E], dx: &mut [E], [t, d, f]: [usize; 3]) {
    par_matmul(dx, matrix(dy, t, f), matrix(w, f, d), E::ONE, false);
}

/// dy (T, F), x (T, D) -> dw (F, D) = or +=
pub fn backward_weight<E: Real>(dy: &[E], x: &[E], dw: &mut [E], [t, d, f]: [usize; 3], scale: f64, acc: bool) {
    par_matmul(dw, matrix(dy, t, f).t(), matrix(x, t, d), E::of(scale), acc);
}

fn matrix<E>(data: &[E], rows: usize, cols: usize) -> Mat<'_, E> {
    assert_eq!(data.len(), rows * cols);
    Mat::new(data, [rows, cols], cols)
}
