//! What becomes of the products of queries and keys. Everything is to base 2: queries are packed with scale · log₂e, so that
//! p = 2^(s - lse) costs no multiplication.
use crate::cpu::lanes::{LANES, Lanes, Vectors};
use crate::{Scores, Slopes};
use std::f64::consts::LOG2_E;

/// How products become scores; chosen before the loops, so that plain ones cost nothing.
pub trait Scoring<E: Vectors>: Copy + Sync {
    /// Whether the scores have a slope over the products, other than 1.
    const CAPPED: bool;
    /// ALiBi's slope of a head.
    fn slope(self, head: usize) -> E;
    /// The products of a query of that slope with 16 keys, of which the first is `distance` tokens behind it. Calls
    /// `capped` with the slope over the products.
    fn finish<L: Lanes<E>>(self, s: L, slope: E, distance: isize, capped: impl FnOnce(L)) -> L;
}

/// The products themselves.
#[derive(Clone, Copy)]
pub struct Plain;

impl<E: Vectors> Scoring<E> for Plain {
    const CAPPED: bool = false;
    #[inline(always)]
    fn slope(self, _: usize) -> E {
        E::ZERO
    }
    #[inline(always)]
    fn finish<L: Lanes<E>>(self, s: L, _: E, _: isize, _: impl FnOnce(L)) -> L {
        s
    }
}

/// Capped, or with slopes, or both.
#[derive(Clone, Copy)]
pub struct Finished<E> {
    /// cap log₂e, 1 / that
    cap: Option<[E; 2]>,
    alibi: Option<Slopes>,
}

impl<E: Vectors> Finished<E> {
    /// None: plain ones.
    pub fn new(scores: Scores) -> Option<Finished<E>> {
        let cap = scores.cap.map(|cap| [cap * LOG2_E, 1.0 / (cap * LOG2_E)].map(E::of));
        let alibi = scores.alibi;
        (cap.is_some() || alibi.is_some()).then_some(Finished { cap, alibi })
    }
}

impl<E: Vectors> Scoring<E> for Finished<E> {
    const CAPPED: bool = true;
    #[inline(always)]
    fn slope(self, head: usize) -> E {
        self.alibi.map_or(E::ZERO, |Slopes { first, of }| E::of(slope(first + head, of) * LOG2_E))
    }
    #[inline(always)]
    fn finish<L: Lanes<E>>(self, mut s: L, slope: E, distance: isize, capped: impl FnOnce(L)) -> L {
        let one = L::splat(E::ONE);
        let mut slope_of_cap = one;
        if let Some([cap, per_cap]) = self.cap {
            let tanh = s.mul(L::splat(per_cap)).tanh();
            slope_of_cap = one.sub(tanh.mul(tanh));
            s = tanh.mul(L::splat(cap));
        }
        capped(slope_of_cap);
        if self.alibi.is_some() {
            let mut nearer = [E::ZERO; LANES];
            for l in 0..LANES {
                nearer[l] = E::of((l as isize - distance) as f64);
            }
            s = L::splat(slope).mul_add(L::load(&nearer), s);
        }
        s
    }
}

/// ALiBi's slope of a head out of n: 2^(-8 (head + 1) / n) for a power of two; beyond the largest power of two in n, every
/// other slope of twice that many heads.
fn slope(head: usize, n: usize) -> f64 {
    let power = 1 << n.ilog2();
    let exponent = if head < power {
        8.0 * (head + 1) as f64 / power as f64
    } else {
        8.0 * (2 * (head - power) + 1) as f64 / (2 * power) as f64
    };
    (-exponent).exp2()
}
