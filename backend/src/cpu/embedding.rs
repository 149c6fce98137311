//! Rows picked by index, and gradients added back to where they came from.
//!
//! ```text
//! y[t] = scale w[ids[t]]        dw[v] = scale Σ dy[t] over the tokens t with ids[t] = v
//! ```
use super::real::Real;
use rayon::prelude::*;

/// Rows of y, or of dw, that one worker writes.
const TILE: usize = 128;

/// ids (T), w (V, D) -> y (T, D)
pub fn forward<E: Real>(ids: &[u32], w: &[E], y: &mut [E], d: usize, scale: f64) {
    assert_eq!(y.len(), ids.len() * d);
    let scale = E::of(scale);
    y.par_chunks_mut(d).zip(ids).with_min_len(TILE).for_each(|(y, &id)| {
        let w = &w[id as usize * d..][..d];
        for i in 0..d {
            y[i] = scale * w[i];
        }
    });
}

/// ids (T), dy (T, D) -> dw (V, D) = or +=
///
/// A worker owns a range of the vocabulary and looks through all tokens for it: no two write the same row, and a row is
/// added to in token order.
pub fn backward<E: Real>(ids: &[u32], dy: &[E], dw: &mut [E], d: usize, scale: f64, acc: bool) {
    assert_eq!(dy.len(), ids.len() * d);
    assert!(ids.iter().all(|&id| (id as usize) < dw.len() / d), "an id is outside the vocabulary");
    let scale = E::of(scale);
    dw.par_chunks_mut(TILE * d).enumerate().for_each(|(tile, dw)| {
        if !acc {
            dw.fill(E::ZERO);
        }
        for (&id, dy) in ids.iter().zip(dy.chunks(d)) {
            let row = (id as usize).wrapping_sub(tile * TILE);
            if let Some(dw) = dw.chunks_mut(d).nth(row) {
                for i in 0..d {
                    dw[i] += scale * dy[i];
                }
            }
        }
    });
}
