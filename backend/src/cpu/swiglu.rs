//! The gated unit of the MLP (Shazeer 2020, <https://arxiv.org/abs/2002.05202>), with silu(g) = g σ(g).
//!
//! ```text
//! s     = silu(gate) up
//! dgate = ds up σ(gate) (1 + gate (1 - σ(gate)))        dup = ds silu(gate)
//! ```
use super::real::Real;
use rayon::prelude::*;

/// Tokens that are worth a worker's while.
const TILE: usize = 8;

/// h (T, 2F) = gate | up -> s (T, F)
pub fn forward<E: Real>(h: &[E], s: &mut [E], f: usize) {
    assert_eq!(h.len(), 2 * s.len());
    s.par_chunks_mut(f).zip(h.par_chunks(2 * f)).with_min_len(TILE).for_each(|(s, h)| {
        let (gate, up) = h.split_at(f);
        for i in 0..f {
            s[i] = gate[i] * sigmoid(gate[i]) * up[i];
        }
    });
}

/// h (T, 2F), ds (T, F) -> dh (T, 2F)
pub fn backward<E: Real>(h: &[E], ds: &[E], dh: &mut [E], f: usize) {
    assert_eq!([h.len(), dh.len()], [2 * ds.len(); 2]);
    let rows = (dh.par_chunks_mut(2 * f), h.par_chunks(2 * f), ds.par_chunks(f));
    rows.into_par_iter().with_min_len(TILE).for_each(|(dh, h, ds)| {
        let (gate, up) = h.split_at(f);
        let (dgate, dup) = dh.split_at_mut(f);
        for i in 0..f {
            let sig = sigmoid(gate[i]);
            dgate[i] = ds[i] * up[i] * sig * (E::ONE + gate[i] * (E::ONE - sig));
            dup[i] = ds[i] * gate[i] * sig;
        }
    });
}

/// σ(x) = 1 / (1 + exp(-x)). Far below zero exp is infinite and σ zero, as it should be.
fn sigmoid<E: Real>(x: E) -> E {
    E::ONE / (E::ONE + (-x).exp())
}
