//! Rows scaled to length one, as a head that compares directions only has its matrix (`norm_head`).
//!
//! ```text
//! y = w / n        n = max(‖w‖, 1e-12)        dw = (dy - y (y·dy)) / n
//! ```
use super::pool::{Pool, pieces, pieces_mut};
use super::real::Real;
use super::reduce::sum;

/// Rows that are worth a worker's while.
const TILE: usize = 32;
/// A row that is shorter is not stretched to one.
const SHORTEST: f64 = 1e-12;

/// w (V, D) -> y (V, D), norms (V)
pub fn forward<E: Real>(pool: &Pool, w: &[E], y: &mut [E], norms: &mut [E], d: usize) {
    assert_eq!([w.len(), y.len()], [norms.len() * d; 2]);
    pool.over(
        (pieces(w, TILE * d), pieces_mut(y, TILE * d), pieces_mut(norms, TILE)),
        #[inline(always)]
        |_, (w, y, norms)| {
            for ((w, y), norm) in w.chunks_exact(d).zip(y.chunks_exact_mut(d)).zip(norms) {
                let square = sum([w], |[w]| w * w);
                let length = square.sqrt();
                let n = if length < E::of(SHORTEST) { E::of(SHORTEST) } else { length };
                for i in 0..d {
                    y[i] = w[i] / n;
                }
                *norm = n;
            }
        },
    );
}

/// y, dy (V, D), norms (V) -> dw (V, D) = or += scale (dy - y (y·dy)) / norm
pub fn backward<E: Real>(pool: &Pool, y: &[E], norms: &[E], dy: &[E], dw: &mut [E], d: usize, scale: f64, acc: bool) {
    assert_eq!([y.len(), dy.len(), dw.len()], [norms.len() * d; 3]);
    let size = TILE * d;
    pool.over(
        (pieces(y, size), pieces(dy, size), pieces(norms, TILE), pieces_mut(dw, size)),
        #[inline(always)]
        |_, (y, dy, norms, dw)| {
            let rows = y.chunks_exact(d).zip(dy.chunks_exact(d)).zip(norms).zip(dw.chunks_exact_mut(d));
            for (((y, dy), &norm), dw) in rows {
                let product = sum([y, dy], |[y, dy]| y * dy);
                // Below the shortest length y is w divided by a constant.
                let along = if norm > E::of(SHORTEST) { product } else { E::ZERO };
                let factor = E::of(scale) / norm;
                for i in 0..d {
                    let dx = factor * (dy[i] - y[i] * along);
                    dw[i] = if acc { dw[i] + dx } else { dx };
                }
            }
        },
    );
}
