//! Layer norm (Ba et al. 2016, <https://arxiv.org/abs/1607.06450>).
//!
//! ```text
//! rstd = 1 / sqrt(mean((x - μ)²) + eps)        x̂ = (x - μ) rstd        y = x̂ w + b
//! dx   = rstd (w dy - mean(w dy) - x̂ mean(x̂ w dy))                     dw = Σ over rows of x̂ dy        db = Σ dy
//! ```
use super::real::Real;
use super::reduce::{add_tiles, sum};
use rayon::prelude::*;

/// Rows whose part of dw and db is summed by one worker.
const TILE: usize = 32;

/// x (T, D), w, b (D) -> y (T, D), stats (2, T) = μ | rstd
pub fn forward<E: Real>(x: &[E], w: &[E], b: &[E], y: &mut [E], stats: &mut [E], eps: f64) {
    let (d, t) = (w.len(), stats.len() / 2);
    assert_eq!([x.len(), y.len(), b.len()], [t * d, t * d, d]);
    let (means, rstds) = stats.split_at_mut(t);
    let rows = (x.par_chunks(d), y.par_chunks_mut(d), means, rstds);
    rows.into_par_iter().with_min_len(TILE).for_each(|(x, y, mean, rstd)| {
        let n = E::of(d as f64);
        *mean = sum([x], |[x]| x) / n;
        let mu = *mean;
        let variance = sum([x], |[x]| (x - mu) * (x - mu)) / n;
        *rstd = E::ONE / (variance + E::of(eps)).sqrt();
        for i in 0..d {
            y[i] = (x[i] - mu) * *rstd * w[i] + b[i];
        }
    });
}

/// x, dy (T, D), w (D), stats (2, T) -> dx (T, D) +=, dw, db (D) = or +=
pub fn backward<E: Real>(x: &[E], w: &[E], stats: &[E], dy: &[E], dx: &mut [E], dw: &mut [E], db: &mut [E], acc: bool) {
    let (d, t) = (w.len(), stats.len() / 2);
    assert_eq!([x.len(), dy.len(), dx.len()], [t * d; 3]);
    assert_eq!([dw.len(), db.len()], [d; 2]);
    let (means, rstds) = stats.split_at(t);

    let size = TILE * d;
    let tiles = (
        x.par_chunks(size),
        dy.par_chunks(size),
        means.par_chunks(TILE),
        rstds.par_chunks(TILE),
        dx.par_chunks_mut(size),
    );
    let (tiles_dw, tiles_db): (Vec<Vec<E>>, Vec<Vec<E>>) = tiles
        .into_par_iter()
        .map(|(x, dy, means, rstds, dx)| {
            let (mut dw, mut db) = (vec![E::ZERO; d], vec![E::ZERO; d]);
            let n = E::of(d as f64);
            let rows = x.chunks(d).zip(dy.chunks(d)).zip(means.iter().zip(rstds)).zip(dx.chunks_mut(d));
            for (((x, dy), (&mean, &rstd)), dx) in rows {
                let mean_dy = sum([w, dy], |[w, dy]| w * dy) / n;
                let along = sum([x, w, dy], |[x, w, dy]| (x - mean) * rstd * w * dy) / n;
                for i in 0..d {
                    let x_hat = (x[i] - mean) * rstd;
                    dx[i] += rstd * (w[i] * dy[i] - mean_dy - x_hat * along);
                    dw[i] += x_hat * dy[i];
                    db[i] += dy[i];
                }
            }
            (dw, db)
        })
        .unzip();
    add_tiles(&tiles_dw, dw, acc);
    add_tiles(&tiles_db, db, acc);
}
