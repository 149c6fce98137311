//! Layer norm (Ba et al. 2016, <https://arxiv.org/abs/1607.06450>).
//!
//! ```text
//! rstd = 1 / sqrt(mean((x - μ)²) + eps)        x̂ = (x - μ) rstd        y = x̂ w + b
//! dx   = rstd (w dy - mean(w dy) - x̂ mean(x̂ w dy))                     dw = Σ over rows of x̂ dy        db = Σ dy
//! ```
use super::pool::{Pool, pieces, pieces_mut};
use super::real::Real;
use super::reduce::{add_tiles, sum};

/// Rows that one worker takes at a time, and whose part of dw and db it sums.
const TILE: usize = 32;

/// x (T, D), w, b (D) -> y (T, D), stats (2, T) = μ | rstd
pub fn forward<E: Real>(pool: &Pool, x: &[E], w: &[E], b: &[E], y: &mut [E], stats: &mut [E], eps: f64) {
    let (d, t) = (w.len(), stats.len() / 2);
    assert_eq!([x.len(), y.len(), b.len()], [t * d, t * d, d]);
    let (means, rstds) = stats.split_at_mut(t);
    let tiles = (pieces(x, TILE * d), pieces_mut(y, TILE * d), pieces_mut(means, TILE), pieces_mut(rstds, TILE));
    pool.over(
        tiles,
        #[inline(always)]
        |_, (x, y, means, rstds)| {
            let (w, b) = (&w[..d], &b[..d]);
            let n = E::of(d as f64);
            let rows = x.chunks_exact(d).zip(y.chunks_exact_mut(d)).zip(means.iter_mut().zip(rstds));
            for ((x, y), (mean, rstd)) in rows {
                let mu = sum([x], |[x]| x) / n;
                let variance = sum([x], |[x]| (x - mu) * (x - mu)) / n;
                let r = E::ONE / (variance + E::of(eps)).sqrt();
                for i in 0..d {
                    y[i] = (x[i] - mu) * r * w[i] + b[i];
                }
                (*mean, *rstd) = (mu, r);
            }
        },
    );
}

/// x, dy (T, D), w (D), stats (2, T) -> dx (T, D) +=, dw, db (D) = or +=
pub fn backward<E: Real>(
    pool: &Pool,
    x: &[E],
    w: &[E],
    stats: &[E],
    dy: &[E],
    dx: &mut [E],
    dw: &mut [E],
    db: &mut [E],
    acc: bool,
) {
    let (d, t) = (w.len(), stats.len() / 2);
    assert_eq!([x.len(), dy.len(), dx.len()], [t * d; 3]);
    assert_eq!([dw.len(), db.len()], [d; 2]);
    let (means, rstds) = stats.split_at(t);

    let size = TILE * d;
    let [mut tiles_dw, mut tiles_db] = [(); 2].map(|_| pool.scratch(t.div_ceil(TILE) * d));
    let tiles = (
        pieces(x, size),
        pieces(dy, size),
        pieces(means, TILE),
        pieces(rstds, TILE),
        pieces_mut(dx, size),
        pieces_mut(&mut tiles_dw, d),
        pieces_mut(&mut tiles_db, d),
    );
    pool.over(
        tiles,
        #[inline(always)]
        |_, (x, dy, means, rstds, dx, dw, db)| {
            let (w, dw, db) = (&w[..d], &mut dw[..d], &mut db[..d]);
            dw.fill(E::ZERO);
            db.fill(E::ZERO);
            let n = E::of(d as f64);
            let rows =
                x.chunks_exact(d).zip(dy.chunks_exact(d)).zip(means.iter().zip(rstds)).zip(dx.chunks_exact_mut(d));
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
        },
    );
    add_tiles(pool, &tiles_dw, dw, acc);
    add_tiles(pool, &tiles_db, db, acc);
}
