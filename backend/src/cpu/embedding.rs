//! Rows picked by index, and gradients added back to where they came from.
//!
//! ```text
//! y[t] = scale w[ids[t]]        dw[v] = scale Σ dy[t] over the tokens t with ids[t] = v
//! ```
use super::pool::{Pool, pieces, pieces_mut};
use super::real::Real;

/// Rows of y, or of dw, that one worker writes.
const TILE: usize = 128;

/// ids (T), w (V, D) -> y (T, D)
pub fn forward<E: Real>(pool: &Pool, ids: &[u32], w: &[E], y: &mut [E], d: usize, scale: f64, first: Option<usize>) {
    assert_eq!(y.len(), ids.len() * d);
    let (scale, rows) = (E::of(scale), w.len() / d);
    assert!(first.is_some() || ids.iter().all(|&id| (id as usize) < rows), "an id is outside the vocabulary");
    pool.over(
        (pieces(ids, TILE), pieces_mut(y, TILE * d)),
        #[inline(always)]
        |_, (ids, y)| {
            for (&id, y) in ids.iter().zip(y.chunks_exact_mut(d)) {
                let row = row_of(id, first);
                if row >= rows {
                    y.fill(E::ZERO);
                    continue;
                }
                let w = &w[row * d..][..d];
                for i in 0..d {
                    y[i] = scale * w[i];
                }
            }
        },
    );
}

/// Where a token's row is, in a vocabulary's rows from `first` on. Of a row before them it is a number beyond all.
#[inline(always)]
fn row_of(id: u32, first: Option<usize>) -> usize {
    (id as usize).wrapping_sub(first.unwrap_or(0))
}

/// ids (T), dy (T, D) -> dw (V, D) = or +=
///
/// A worker owns a range of the vocabulary and looks through all tokens for it: no two write the same row, and a row is
/// added to in token order.
pub fn backward<E: Real>(
    pool: &Pool,
    ids: &[u32],
    dy: &[E],
    dw: &mut [E],
    d: usize,
    scale: f64,
    first: Option<usize>,
    acc: bool,
) {
    assert_eq!(dy.len(), ids.len() * d);
    let inside = |&id: &u32| (id as usize) < dw.len() / d;
    assert!(first.is_some() || ids.iter().all(inside), "an id is outside the vocabulary");
    let scale = E::of(scale);
    pool.over(
        pieces_mut(dw, TILE * d),
        #[inline(always)]
        |tile, dw| {
            if !acc {
                dw.fill(E::ZERO);
            }
            let rows = dw.len() / d;
            for (token, &id) in ids.iter().enumerate() {
                let row = row_of(id, first).wrapping_sub(tile * TILE);
                if row < rows {
                    let (dw, dy) = (&mut dw[row * d..][..d], &dy[token * d..][..d]);
                    for i in 0..d {
                        dw[i] += scale * dy[i];
                    }
                }
            }
        },
    );
}
