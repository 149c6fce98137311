//! Rows scaled to length one, as a head that compares directions only has its matrix (`norm_head`).
//!
//! ```text
//! y = w / n        n = max(‖w‖, 1e-12)        dw = (dy - y (y·dy)) / n
//! ```
use super::real::Real;
use super::reduce::sum;
use rayon::prelude::*;

/// Rows that are worth a worker's while.
const TILE: usize = 32;
/// A row that is shorter is not stretched to one.
const SHORTEST: f64 = 1e-12;

/// w (V, D) -> y (V, D), norms (V)
pub fn forward<E: Real>(w: &[E], y: &mut [E], norms: &mut [E], d: usize) {
    assert_eq!([w.len(), y.len()], [norms.len() * d; 2]);
    let rows = (w.par_chunks(d), y.par_chunks_mut(d), norms);
    rows.into_par_iter().with_min_len(TILE).for_each(|(w, y, norm)| {
        let length = sum([w], |[w]| w * w).sqrt();
        *norm = if length < E::of(SHORTEST) { E::of(SHORTEST) } else { length };
        for i in 0..d {
            y[i] = w[i] / *norm;
        }
    });
}

/// y, dy (V, D), norms (V) -> dw (V, D) = or += scale (dy - y (y·dy)) / norm
pub fn backward<E: Real>(y: &[E], norms: &[E], dy: &[E], dw: &mut [E], d: usize, scale: f64, acc: bool) {
    assert_eq!([y.len(), dy.len(), dw.len()], [norms.len() * d; 3]);
    let rows = (y.par_chunks(d), dy.par_chunks(d), norms, dw.par_chunks_mut(d));
    rows.into_par_iter().with_min_len(TILE).for_each(|(y, dy, &norm, dw)| {
        // Below the shortest length y is w divided by a constant.
        let along = if norm > E::of(SHORTEST) { sum([y, dy], |[y, dy]| y * dy) } else { E::ZERO };
        let factor = E::of(scale) / norm;
        for i in 0..d {
            let dx = factor * (dy[i] - y[i] * along);
            dw[i] = if acc { dw[i] + dx } else { dx };
        }
    });
}
