//! The inside of an MLP: a nonlinearity, alone or gating (Shazeer 2020, <https://arxiv.org/abs/2002.05202>).
//!
//! ```text
//! gated:    s = f(gate) up        dgate = ds up f'(gate)        dup = ds f(gate)
//! plain:    s = f(h)              dh    = ds f'(h)
//! ```
use super::nonlinearity::{gelu, gelu_tanh, silu};
use super::pool::{Pool, pieces, pieces_mut};
use super::real::Real;
use crate::Nonlinearity;

/// Tokens that are worth a worker's while.
const TILE: usize = 8;
/// Elements that are.
const RUN: usize = 1 << 12;

/// h (T, 2F) = gate | up -> s (T, F)
pub fn gated<E: Real>(pool: &Pool, h: &[E], s: &mut [E], f: usize, by: Nonlinearity) {
    match by {
        Nonlinearity::Silu => gated_by(pool, h, s, f, silu),
        Nonlinearity::Gelu => gated_by(pool, h, s, f, gelu),
        Nonlinearity::GeluTanh => gated_by(pool, h, s, f, gelu_tanh),
    }
}

/// ds (T, F) -> h (T, 2F) becomes its gradient
pub fn gated_backward<E: Real>(pool: &Pool, ds: &[E], h: &mut [E], f: usize, by: Nonlinearity) {
    match by {
        Nonlinearity::Silu => gated_backward_by(pool, ds, h, f, silu),
        Nonlinearity::Gelu => gated_backward_by(pool, ds, h, f, gelu),
        Nonlinearity::GeluTanh => gated_backward_by(pool, ds, h, f, gelu_tanh),
    }
}

/// h -> s
pub fn plain<E: Real>(pool: &Pool, h: &[E], s: &mut [E], by: Nonlinearity) {
    match by {
        Nonlinearity::Silu => plain_by(pool, h, s, silu),
        Nonlinearity::Gelu => plain_by(pool, h, s, gelu),
        Nonlinearity::GeluTanh => plain_by(pool, h, s, gelu_tanh),
    }
}

/// ds -> h becomes its gradient
pub fn plain_backward<E: Real>(pool: &Pool, ds: &[E], h: &mut [E], by: Nonlinearity) {
    match by {
        Nonlinearity::Silu => plain_backward_by(pool, ds, h, silu),
        Nonlinearity::Gelu => plain_backward_by(pool, ds, h, gelu),
        Nonlinearity::GeluTanh => plain_backward_by(pool, ds, h, gelu_tanh),
    }
}

// Compiled once for each nonlinearity, `x -> (f(x), f'(x))`, so that the loops are free of the choice.

fn gated_by<E: Real>(pool: &Pool, h: &[E], s: &mut [E], f: usize, by: impl Fn(E) -> (E, E) + Sync) {
    assert_eq!(h.len(), 2 * s.len());
    let tiles = (pieces(h, TILE * 2 * f), pieces_mut(s, TILE * f));
    pool.over(
        tiles,
        #[inline(always)]
        |_, (h, s)| {
            for (h, s) in h.chunks(2 * f).zip(s.chunks_mut(f)) {
                let (gate, up) = h.split_at(f);
                for i in 0..f {
                    s[i] = by(gate[i]).0 * up[i];
                }
            }
        },
    );
}

fn gated_backward_by<E: Real>(pool: &Pool, ds: &[E], h: &mut [E], f: usize, by: impl Fn(E) -> (E, E) + Sync) {
    assert_eq!(h.len(), 2 * ds.len());
    let tiles = (pieces(ds, TILE * f), pieces_mut(h, TILE * 2 * f));
    pool.over(
        tiles,
        #[inline(always)]
        |_, (ds, h)| {
            for (ds, h) in ds.chunks(f).zip(h.chunks_mut(2 * f)) {
                let (gate, up) = h.split_at_mut(f);
                for i in 0..f {
                    let (value, slope) = by(gate[i]);
                    gate[i] = ds[i] * up[i] * slope;
                    up[i] = ds[i] * value;
                }
            }
        },
    );
}

fn plain_by<E: Real>(pool: &Pool, h: &[E], s: &mut [E], by: impl Fn(E) -> (E, E) + Sync) {
    assert_eq!(h.len(), s.len());
    pool.over(
        (pieces(h, RUN), pieces_mut(s, RUN)),
        #[inline(always)]
        |_, (h, s)| {
            for i in 0..s.len() {
                s[i] = by(h[i]).0;
            }
        },
    );
}

fn plain_backward_by<E: Real>(pool: &Pool, ds: &[E], h: &mut [E], by: impl Fn(E) -> (E, E) + Sync) {
    assert_eq!(h.len(), ds.len());
    pool.over(
        (pieces(ds, RUN), pieces_mut(h, RUN)),
        #[inline(always)]
        |_, (ds, h)| {
            for i in 0..ds.len() {
                h[i] = ds[i] * by(h[i]).1;
            }
        },
    );
}
