//! Root mean square norm (Zhang & Sennrich 2019, <https://arxiv.org/abs/1910.07467>).
//!
//! ```text
//! rstd = 1 / sqrt(mean(x²) + eps)        x̂ = x rstd        y = x̂ w,  where w is what is stored plus `offset`
//! dx   = rstd (w dy - x̂ mean(x̂ w dy))                      dw = Σ over rows of x̂ dy
//! ```
//! rstd depends on every x of its row: that is where the second term of dx comes from.
use super::real::Real;
use super::reduce::{add_tiles, sum};
use rayon::prelude::*;
use std::borrow::Cow;

/// Rows whose part of dw is summed by one worker.
const TILE: usize = 32;

/// x (T, D), w (D) -> y (T, D), rstd (T)
pub fn forward<E: Real>(x: &[E], w: &[E], y: &mut [E], rstd: &mut [E], eps: f64, offset: f64) {
    let (d, w) = (w.len(), &*shifted(w, offset));
    assert_eq!([x.len(), y.len()], [rstd.len() * d; 2]);

    let rows = (x.par_chunks(d), y.par_chunks_mut(d), rstd);
    rows.into_par_iter().with_min_len(TILE).for_each(|(x, y, rstd)| {
        let mean_square = sum([x], |[x]| x * x) / E::of(d as f64);
        *rstd = E::ONE / (mean_square + E::of(eps)).sqrt();
        for i in 0..d {
            y[i] = x[i] * *rstd * w[i];
        }
    });
}

/// x, dy (T, D), w (D), rstd (T) -> dx (T, D) +=, dw (D) = or +=
pub fn backward<E: Real>(x: &[E], w: &[E], rstd: &[E], dy: &[E], dx: &mut [E], dw: &mut [E], offset: f64, acc: bool) {
    let (d, w) = (w.len(), &*shifted(w, offset));
    assert_eq!([x.len(), dy.len(), dx.len()], [rstd.len() * d; 3]);
    assert_eq!(dw.len(), d);

    let size = TILE * d;
    let tiles = (x.par_chunks(size), dy.par_chunks(size), rstd.par_chunks(TILE), dx.par_chunks_mut(size));
    let tiles_dw: Vec<Vec<E>> = tiles
        .into_par_iter()
        .map(|(x, dy, rstd, dx)| {
            let mut dw = vec![E::ZERO; d];
            let rows = x.chunks(d).zip(dy.chunks(d)).zip(rstd).zip(dx.chunks_mut(d));
            for (((x, dy), &rstd), dx) in rows {
                let mean = sum([x, w, dy], |[x, w, dy]| x * w * dy) * rstd / E::of(d as f64);
                for i in 0..d {
                    let x_hat = x[i] * rstd;
                    dx[i] += rstd * (w[i] * dy[i] - x_hat * mean);
                    dw[i] += x_hat * dy[i];
                }
            }
            dw
        })
        .collect();

    add_tiles(&tiles_dw, dw, acc);
}

/// What x̂ is multiplied by.
fn shifted<E: Real>(w: &[E], offset: f64) -> Cow<'_, [E]> {
    if offset == 0.0 { Cow::Borrowed(w) } else { w.iter().map(|&w| w + E::of(offset)).collect() }
}
