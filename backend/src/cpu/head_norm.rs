//! Root mean square norm of every query head and every key head (QK-norm, as in Qwen 3); values pass.
//!
//! The formulas are those of `rmsnorm`, over the H numbers of a head, with one weight (H) for all query heads and one for
//! all key heads.
use super::pool::{Pool, pieces, pieces_mut};
use super::real::Real;
use super::reduce::{add_tiles, sum};
use crate::Heads;

/// Tokens that one worker takes at a time, and whose part of dw it sums.
const TILE: usize = 32;

/// x (T, (N+2K) H), w (2, H) -> y (T, (N+2K) H), rstd (T, N + K)
pub fn forward<E: Real>(pool: &Pool, x: &[E], w: &[E], y: &mut [E], rstd: &mut [E], heads: Heads, eps: f64) {
    let (dim, width, normed) = (heads.dim, heads.qkv(), heads.n + heads.kv);
    let t = x.len() / width;
    assert_eq!([x.len(), y.len(), rstd.len(), w.len()], [t * width, t * width, t * normed, 2 * dim]);
    let tiles = (pieces(x, TILE * width), pieces_mut(y, TILE * width), pieces_mut(rstd, TILE * normed));
    pool.over(
        tiles,
        #[inline(always)]
        |_, (x, y, rstd)| {
            let rows = x.chunks_exact(width).zip(y.chunks_exact_mut(width)).zip(rstd.chunks_exact_mut(normed));
            for ((x, y), rstd) in rows {
                let normed = x.chunks_exact(dim).zip(y.chunks_exact_mut(dim)).zip(rstd);
                for (head, ((x, y), rstd)) in normed.enumerate() {
                    let w = &w[which(heads, head) * dim..][..dim];
                    let mean_square = sum([x], |[x]| x * x) / E::of(dim as f64);
                    let r = E::ONE / (mean_square + E::of(eps)).sqrt();
                    for i in 0..dim {
                        y[i] = x[i] * r * w[i];
                    }
                    *rstd = r;
                }
                let values = (heads.n + heads.kv) * dim..;
                y[values.clone()].copy_from_slice(&x[values]);
            }
        },
    );
}

/// x (T, (N+2K) H), w (2, H), rstd (T, N + K) -> dqkv (T, (N+2K) H) in place, dw (2, H) = or +=
pub fn backward<E: Real>(
    pool: &Pool,
    x: &[E],
    w: &[E],
    rstd: &[E],
    dqkv: &mut [E],
    dw: &mut [E],
    heads: Heads,
    acc: bool,
) {
    let (dim, width, normed) = (heads.dim, heads.qkv(), heads.n + heads.kv);
    let t = x.len() / width;
    assert_eq!([x.len(), dqkv.len(), rstd.len()], [t * width, t * width, t * normed]);
    assert_eq!([w.len(), dw.len()], [2 * dim; 2]);
    let mut tiles_dw = pool.scratch(t.div_ceil(TILE) * 2 * dim);
    let tiles = (
        pieces(x, TILE * width),
        pieces(rstd, TILE * normed),
        pieces_mut(dqkv, TILE * width),
        pieces_mut(&mut tiles_dw, 2 * dim),
    );
    pool.over(
        tiles,
        #[inline(always)]
        |_, (x, rstd, dqkv, dw)| {
            dw.fill(E::ZERO);
            let rows = x.chunks_exact(width).zip(rstd.chunks_exact(normed)).zip(dqkv.chunks_exact_mut(width));
            for ((x, rstd), dqkv) in rows {
                let heads_of_row = x.chunks_exact(dim).zip(dqkv.chunks_exact_mut(dim)).zip(rstd);
                for (head, ((x, dy), &rstd)) in heads_of_row.enumerate() {
                    let at = which(heads, head) * dim;
                    let (w, dw) = (&w[at..][..dim], &mut dw[at..][..dim]);
                    let mean = sum([x, w, &*dy], |[x, w, dy]| x * w * dy) * rstd / E::of(dim as f64);
                    for i in 0..dim {
                        let x_hat = x[i] * rstd;
                        dw[i] += x_hat * dy[i];
                        dy[i] = rstd * (w[i] * dy[i] - x_hat * mean);
                    }
                }
            }
        },
    );
    add_tiles(pool, &tiles_dw, dw, acc);
}

/// Row of w: queries have the first, keys the second.
#[inline(always)]
fn which(heads: Heads, head: usize) -> usize {
    usize::from(head >= heads.n)
}
