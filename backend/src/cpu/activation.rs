//! The inside of an MLP: a nonlinearity, alone or gating (Shazeer 2020, <https://arxiv.org/abs/2002.05202>).
//!
//! ```text
//! gated:    s = f(gate) up        dgate = ds up f'(gate)        dup = ds f(gate)
//! plain:    s = f(h)              dh    = ds f'(h)
//! ```
use super::nonlinearity::{gelu, gelu_tanh, silu};
use super::real::Real;
use crate::Nonlinearity;
use rayon::prelude::*;

/// Tokens that are worth a worker's while.
const TILE: usize = 8;
/// Elements that are.
const RUN: usize = 1 << 12;

/// h (T, 2F) = gate | up -> s (T, F)
pub fn gated<E: Real>(h: &[E], s: &mut [E], f: usize, by: Nonlinearity) {
    match by {
        Nonlinearity::Silu => gated_by(h, s, f, silu),
        Nonlinearity::Gelu => gated_by(h, s, f, gelu),
        Nonlinearity::GeluTanh => gated_by(h, s, f, gelu_tanh),
    }
}

/// h (T, 2F), ds (T, F) -> dh (T, 2F)
pub fn gated_backward<E: Real>(h: &[E], ds: &[E], dh: &mut [E], f: usize, by: Nonlinearity) {
    match by {
        Nonlinearity::Silu => gated_backward_by(h, ds, dh, f, silu),
        Nonlinearity::Gelu => gated_backward_by(h, ds, dh, f, gelu),
        Nonlinearity::GeluTanh => gated_backward_by(h, ds, dh, f, gelu_tanh),
    }
}

/// h -> s
pub fn plain<E: Real>(h: &[E], s: &mut [E], by: Nonlinearity) {
    match by {
        Nonlinearity::Silu => plain_by(h, s, silu),
        Nonlinearity::Gelu => plain_by(h, s, gelu),
        Nonlinearity::GeluTanh => plain_by(h, s, gelu_tanh),
    }
}

/// h, ds -> dh
pub fn plain_backward<E: Real>(h: &[E], ds: &[E], dh: &mut [E], by: Nonlinearity) {
    match by {
        Nonlinearity::Silu => plain_backward_by(h, ds, dh, silu),
        Nonlinearity::Gelu => plain_backward_by(h, ds, dh, gelu),
        Nonlinearity::GeluTanh => plain_backward_by(h, ds, dh, gelu_tanh),
    }
}

// Compiled once for each nonlinearity, `x -> (f(x), f'(x))`, so that the loops are free of the choice.

fn gated_by<E: Real>(h: &[E], s: &mut [E], f: usize, by: impl Fn(E) -> (E, E) + Sync) {
    assert_eq!(h.len(), 2 * s.len());
    s.par_chunks_mut(f).zip(h.par_chunks(2 * f)).with_min_len(TILE).for_each(|(s, h)| {
        let (gate, up) = h.split_at(f);
        for i in 0..f {
            s[i] = by(gate[i]).0 * up[i];
        }
    });
}

fn gated_backward_by<E: Real>(h: &[E], ds: &[E], dh: &mut [E], f: usize, by: impl Fn(E) -> (E, E) + Sync) {
    assert_eq!([h.len(), dh.len()], [2 * ds.len(); 2]);
    let rows = (dh.par_chunks_mut(2 * f), h.par_chunks(2 * f), ds.par_chunks(f));
    rows.into_par_iter().with_min_len(TILE).for_each(|(dh, h, ds)| {
        let (gate, up) = h.split_at(f);
        let (dgate, dup) = dh.split_at_mut(f);
        for i in 0..f {
            let (value, slope) = by(gate[i]);
            dgate[i] = ds[i] * up[i] * slope;
            dup[i] = ds[i] * value;
        }
    });
}

fn plain_by<E: Real>(h: &[E], s: &mut [E], by: impl Fn(E) -> (E, E) + Sync) {
    assert_eq!(h.len(), s.len());
    s.par_iter_mut().zip(h).with_min_len(RUN).for_each(|(s, &h)| *s = by(h).0);
}

fn plain_backward_by<E: Real>(h: &[E], ds: &[E], dh: &mut [E], by: impl Fn(E) -> (E, E) + Sync) {
    assert_eq!([h.len(), dh.len()], [ds.len(); 2]);
    dh.par_iter_mut().zip(h.par_iter().zip(ds)).with_min_len(RUN).for_each(|(dh, (&h, &ds))| *dh = ds * by(h).1);
}
