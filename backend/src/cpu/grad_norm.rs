//! The norm of the whole gradient, and what follows from it: the clipping factor and whether to step at all.
use super::real::Real;
use super::reduce::sum;
use rayon::prelude::*;

/// x -> sums (ceil(len / chunk)): Σ x² of each chunk, in f64
pub fn sum_squares<E: Real>(x: &[E], sums: &mut [f64], chunk: usize) {
    assert_eq!(sums.len(), x.len().div_ceil(chunk));
    sums.par_iter_mut().zip(x.par_chunks(chunk)).for_each(|(total, x)| {
        *total = sum([x], |[x]| x.f64() * x.f64());
    });
}

/// sums (n), count (1) -> norm (3) = [‖g‖, clipping factor, 1 to step or 0]
pub fn grad_norm(sums: &[f64], count: &[f64], norm: &mut [f64], max_norm: f64) {
    let length = sums.iter().sum::<f64>().sqrt();
    let step = length.is_finite() && count[0] > 0.0;
    let clip = max_norm > 0.0 && length > max_norm;
    let factor = if clip { max_norm / length } else { 1.0 };
    norm.copy_from_slice(&if step { [length, factor, 1.0] } else { [length, 0.0, 0.0] });
}
