//! Root mean square norm (Zhang & Sennrich 2019, <https://arxiv.org/abs/1910.07467>).
//!
//! ```text
//! rstd = 1 / sqrt(mean(x²) + eps)        x̂ = x rstd        y = x̂ w,  where w is what is stored plus `offset`
//! dx   = rstd (w dy - x̂ mean(x̂ w dy))                      dw = Σ over rows of x̂ dy
//! ```
//! rstd depends on every x of its row: that is where the second term of dx comes from.
use super::pool::{Pool, pieces, pieces_mut};
use super::real::Real;
use super::reduce::{add_tiles, sum};

/// Rows that one worker takes at a time, and whose part of dw it sums.
const TILE: usize = 32;

/// x (T, D), w (D) -> y (T, D), rstd (T)
pub fn forward<E: Real>(pool: &Pool, x: &[E], w: &[E], y: &mut [E], rstd: &mut [E], eps: f64, offset: f64) {
    let (d, offset) = (w.len(), E::of(offset));
    assert_eq!([x.len(), y.len()], [rstd.len() * d; 2]);
    let tiles = (pieces(x, TILE * d), pieces_mut(y, TILE * d), pieces_mut(rstd, TILE));
    pool.over(
        tiles,
        #[inline(always)]
        |_, (x, y, rstd)| {
            let w = &w[..d];
            for ((x, y), rstd) in x.chunks_exact(d).zip(y.chunks_exact_mut(d)).zip(rstd) {
                let mean_square = sum([x], |[x]| x * x) / E::of(d as f64);
                *rstd = E::ONE / (mean_square + E::of(eps)).sqrt();
                let rstd = *rstd;
                for i in 0..d {
                    y[i] = x[i] * rstd * (w[i] + offset);
                }
            }
        },
    );
}

/// x, dy (T, D), w (D), rstd (T) -> dx (T, D) +=, dw (D) = or +=
pub fn backward<E: Real>(
    pool: &Pool,
    x: &[E],
    w: &[E],
    rstd: &[E],
    dy: &[E],
    dx: &mut [E],
    dw: &mut [E],
    offset: f64,
    acc: bool,
) {
    let (d, offset) = (w.len(), E::of(offset));
    assert_eq!([x.len(), dy.len(), dx.len()], [rstd.len() * d; 3]);
    assert_eq!(dw.len(), d);

    let size = TILE * d;
    let mut tiles_dw = pool.scratch(rstd.len().div_ceil(TILE) * d);
    let tiles =
        (pieces(x, size), pieces(dy, size), pieces(rstd, TILE), pieces_mut(dx, size), pieces_mut(&mut tiles_dw, d));
    pool.over(
        tiles,
        #[inline(always)]
        |_, (x, dy, rstd, dx, dw)| {
            let (w, dw) = (&w[..d], &mut dw[..d]);
            dw.fill(E::ZERO);
            let rows = x.chunks_exact(d).zip(dy.chunks_exact(d)).zip(rstd).zip(dx.chunks_exact_mut(d));
            for (((x, dy), &rstd), dx) in rows {
                let along = sum([x, w, dy], |[x, w, dy]| x * (w + offset) * dy);
                let mean = along * rstd / E::of(d as f64);
                for i in 0..d {
                    let x_hat = x[i] * rstd;
                    dx[i] += rstd * ((w[i] + offset) * dy[i] - x_hat * mean);
                    dw[i] += x_hat * dy[i];
                }
            }
        },
    );
    add_tiles(pool, &tiles_dw, dw, acc);
}
