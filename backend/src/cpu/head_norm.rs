//! Root mean square norm of every query head and every key head (QK-norm, as in Qwen 3); values pass.
//!
//! The formulas are those of `rmsnorm`, over the H numbers of a head, with one weight (H) for all query heads and one for
//! all key heads.
use super::real::Real;
use super::reduce::{add_tiles, sum};
use crate::Heads;
use rayon::prelude::*;

/// Tokens whose part of dw is summed by one worker.
const TILE: usize = 32;

/// x (T, (N+2K) H), w (2, H) -> y (T, (N+2K) H), rstd (T, N + K)
pub fn forward<E: Real>(x: &[E], w: &[E], y: &mut [E], rstd: &mut [E], heads: Heads, eps: f64) {
    let (dim, width, normed) = (heads.dim, heads.qkv(), heads.n + heads.kv);
    let t = x.len() / width;
    assert_eq!([x.len(), y.len(), rstd.len(), w.len()], [t * width, t * width, t * normed, 2 * dim]);
    let rows = (x.par_chunks(width), y.par_chunks_mut(width), rstd.par_chunks_mut(normed));
    rows.into_par_iter().with_min_len(TILE).for_each(|(x, y, rstd)| {
        for (head, rstd) in rstd.iter_mut().enumerate() {
            let (x, y) = (&x[head * dim..][..dim], &mut y[head * dim..][..dim]);
            let w = &w[which(heads, head) * dim..][..dim];
            let mean_square = sum([x], |[x]| x * x) / E::of(dim as f64);
            *rstd = E::ONE / (mean_square + E::of(eps)).sqrt();
            for i in 0..dim {
                y[i] = x[i] * *rstd * w[i];
            }
        }
        y[normed * dim..].copy_from_slice(&x[normed * dim..]);
    });
}

/// x (T, (N+2K) H), w (2, H), rstd (T, N + K) -> dqkv (T, (N+2K) H) in place, dw (2, H) = or +=
pub fn backward<E: Real>(x: &[E], w: &[E], rstd: &[E], dqkv: &mut [E], dw: &mut [E], heads: Heads, acc: bool) {
    let (dim, width, normed) = (heads.dim, heads.qkv(), heads.n + heads.kv);
    let t = x.len() / width;
    assert_eq!([x.len(), dqkv.len(), rstd.len()], [t * width, t * width, t * normed]);
    assert_eq!([w.len(), dw.len()], [2 * dim; 2]);
    let tiles = (x.par_chunks(TILE * width), rstd.par_chunks(TILE * normed), dqkv.par_chunks_mut(TILE * width));
    let tiles_dw: Vec<Vec<E>> = tiles
        .into_par_iter()
        .map(|(x, rstd, dqkv)| {
            let mut dw = vec![E::ZERO; 2 * dim];
            for ((x, rstd), dqkv) in x.chunks(width).zip(rstd.chunks(normed)).zip(dqkv.chunks_mut(width)) {
                for (head, &rstd) in rstd.iter().enumerate() {
                    let (x, dy) = (&x[head * dim..][..dim], &mut dqkv[head * dim..][..dim]);
                    let at = which(heads, head) * dim;
                    let (w, dw) = (&w[at..at + dim], &mut dw[at..at + dim]);
                    let mean = sum([x, w, &*dy], |[x, w, dy]| x * w * dy) * rstd / E::of(dim as f64);
                    for i in 0..dim {
                        let x_hat = x[i] * rstd;
                        dw[i] += x_hat * dy[i];
                        dy[i] = rstd * (w[i] * dy[i] - x_hat * mean);
                    }
                }
            }
            dw
        })
        .collect();
    add_tiles(&tiles_dw, dw, acc);
}

/// Row of w: queries have the first, keys the second.
fn which(heads: Heads, head: usize) -> usize {
    usize::from(head >= heads.n)
}
