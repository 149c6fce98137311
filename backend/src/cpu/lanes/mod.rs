//! Vectors of 16 numbers, for the kernels that plain loops do not make fast: sums of products that stay in registers.
//!
//! A kernel is written once, over [`Lanes`]; [`Isa::lanes`](super::isa::Isa::lanes) calls it with those of the machine.
//! Unlike plain loops, which compute the same bits everywhere, these fuse a product and a sum where the machine can.
#[cfg(target_arch = "x86_64")]
mod x86;

use super::real::Real;
use std::f32::consts::{FRAC_1_SQRT_2, LOG2_E};

/// Numbers in a vector.
pub const LANES: usize = 16;

/// What is compiled for each kind of vectors. It and all that it calls must be `#[inline(always)]`.
pub trait Kernel<E> {
    fn run<L: Lanes<E>>(self);
}

/// Numbers that have vectors.
pub trait Vectors: Real {
    type Avx512: Lanes<Self>;
    type Avx2: Lanes<Self>;

    fn exp2(self) -> Self;
    /// Of a positive number that is not subnormal, without a branch.
    fn log2(self) -> Self;
    /// self · b + c, in one rounding where that costs nothing.
    fn mul_add(self, b: Self, c: Self) -> Self;
}

pub trait Lanes<E>: Copy {
    /// How many sums a kernel may keep in registers: rows, and vectors in each.
    const SUMS: [usize; 2];

    fn zero() -> Self;
    fn splat(x: E) -> Self;
    /// The first 16.
    fn load(x: &[E]) -> Self;
    fn store(self, y: &mut [E]);
    fn add(self, b: Self) -> Self;
    fn sub(self, b: Self) -> Self;
    fn mul(self, b: Self) -> Self;
    /// self · b + c
    fn mul_add(self, b: Self, c: Self) -> Self;
    fn max(self, b: Self) -> Self;
    /// In the lanes from .. to (at most 16) self, in the others `other`.
    fn keep(self, from: usize, to: usize, other: Self) -> Self;
    /// 2^self up to 2^127, with a relative error of 2e-7 in f32; of -∞ exactly 0, of 0 exactly 1.
    fn exp2(self) -> Self;
    fn tanh(self) -> Self;
    fn sum(self) -> E;
    fn largest(self) -> E;
    /// Of each vector.
    #[inline(always)]
    fn sums(x: [Self; 8]) -> [E; 8] {
        let [a, b, c, d, e, f, g, h] = x;
        [a.sum(), b.sum(), c.sum(), d.sum(), e.sum(), f.sum(), g.sum(), h.sum()]
    }
    /// Of each vector.
    #[inline(always)]
    fn largests(x: [Self; 8]) -> [E; 8] {
        let [a, b, c, d, e, f, g, h] = x;
        [a.largest(), b.largest(), c.largest(), d.largest(), e.largest(), f.largest(), g.largest(), h.largest()]
    }
    /// Lane i of vector j becomes lane j of vector i.
    fn transpose(x: [Self; LANES]) -> [Self; LANES];
}

/// c of 2^f = 1 + c₁ f + ... + c₅ f⁵ for 0 <= f <= 1, fitted for the smallest largest relative error, 8e-8.
const EXP2: [f32; 5] = [0.693_151_3, 0.240_164_45, 0.055_799_913, 0.009_017_03, 0.001_867_13];
/// 1.5 · 2²³: added to a small number, it leaves the nearest integer in the last bits of the sum.
const SHIFT: f32 = 12_582_912.0;
/// Below this, 2^x is taken for 0.
const LEAST: f32 = -126.0;

/// Loops that a compiler turns into the vectors that it has.
#[derive(Clone, Copy)]
pub struct Portable<E>([E; LANES]);

/// A loop, not a closure: a call that is not inlined would not become vectors.
macro_rules! each {
    ($l:ident => $x:expr) => {{
        let mut y = [E::ZERO; LANES];
        for $l in 0..LANES {
            y[$l] = $x;
        }
        Portable(y)
    }};
}

impl<E: Vectors> Lanes<E> for Portable<E> {
    const SUMS: [usize; 2] = [2, 1];

    #[inline(always)]
    fn zero() -> Self {
        Portable([E::ZERO; LANES])
    }
    #[inline(always)]
    fn splat(x: E) -> Self {
        Portable([x; LANES])
    }
    #[inline(always)]
    fn load(x: &[E]) -> Self {
        Portable(*x.first_chunk().expect("16 numbers"))
    }
    #[inline(always)]
    fn store(self, y: &mut [E]) {
        *y.first_chunk_mut().expect("room for 16 numbers") = self.0;
    }
    #[inline(always)]
    fn add(self, b: Self) -> Self {
        each!(l => self.0[l] + b.0[l])
    }
    #[inline(always)]
    fn sub(self, b: Self) -> Self {
        each!(l => self.0[l] - b.0[l])
    }
    #[inline(always)]
    fn mul(self, b: Self) -> Self {
        each!(l => self.0[l] * b.0[l])
    }
    #[inline(always)]
    fn mul_add(self, b: Self, c: Self) -> Self {
        each!(l => self.0[l].mul_add(b.0[l], c.0[l]))
    }
    #[inline(always)]
    fn max(self, b: Self) -> Self {
        each!(l => if self.0[l] > b.0[l] { self.0[l] } else { b.0[l] })
    }
    #[inline(always)]
    fn keep(self, from: usize, to: usize, other: Self) -> Self {
        each!(l => if from <= l && l < to { self.0[l] } else { other.0[l] })
    }
    #[inline(always)]
    fn exp2(self) -> Self {
        each!(l => self.0[l].exp2())
    }
    #[inline(always)]
    fn tanh(self) -> Self {
        each!(l => self.0[l].tanh())
    }
    #[inline(always)]
    fn sum(self) -> E {
        join(self.0, |a, b| a + b)
    }
    #[inline(always)]
    fn largest(self) -> E {
        join(self.0, |a, b| if a > b { a } else { b })
    }
    #[inline(always)]
    fn transpose(x: [Self; LANES]) -> [Self; LANES] {
        let mut out = x;
        for i in 0..LANES {
            out[i] = each!(j => x[j].0[i]);
        }
        out
    }
}

/// In pairs.
#[inline(always)]
fn join<E: Copy>(mut x: [E; LANES], of: impl Fn(E, E) -> E) -> E {
    for half in [8, 4, 2, 1] {
        for l in 0..half {
            x[l] = of(x[l], x[l + half]);
        }
    }
    x[0]
}

impl Vectors for f64 {
    type Avx512 = Portable<f64>;
    type Avx2 = Portable<f64>;

    #[inline(always)]
    fn exp2(self) -> f64 {
        f64::exp2(self)
    }
    #[inline(always)]
    fn log2(self) -> f64 {
        f64::log2(self)
    }
    #[inline(always)]
    fn mul_add(self, b: f64, c: f64) -> f64 {
        self * b + c
    }
}

impl Vectors for f32 {
    #[cfg(target_arch = "x86_64")]
    type Avx512 = x86::Avx512;
    #[cfg(target_arch = "x86_64")]
    type Avx2 = x86::Avx2;
    #[cfg(not(target_arch = "x86_64"))]
    type Avx512 = Portable<f32>;
    #[cfg(not(target_arch = "x86_64"))]
    type Avx2 = Portable<f32>;

    #[inline(always)]
    fn exp2(self) -> f32 {
        // Not `max`, which would hide a NaN.
        let x = if self < LEAST { LEAST } else { self };
        let shifted = (x - 0.5) + SHIFT;
        let f = x - (shifted - SHIFT);
        let p = EXP2.iter().rev().fold(0.0, |p, &c| f32_mul_add(p, f, c));
        let n = shifted.to_bits().wrapping_sub(SHIFT.to_bits());
        let y = f32_mul_add(p, f, 1.0) * f32::from_bits(n.wrapping_add(127) << 23);
        if self < LEAST { 0.0 } else { y }
    }
    /// ln((1 + t) / (1 - t)) = 2 (t + t³ / 3 + t⁵ / 5 + ...), for the fraction of self between √½ and √2.
    #[inline(always)]
    fn log2(self) -> f32 {
        let n = self.to_bits().wrapping_sub(FRAC_1_SQRT_2.to_bits()) as i32 >> 23;
        let fraction = f32::from_bits(self.to_bits().wrapping_sub((n << 23) as u32));
        let t = (fraction - 1.0) / (fraction + 1.0);
        let series = [1.0 / 9.0, 1.0 / 7.0, 1.0 / 5.0, 1.0 / 3.0, 1.0];
        let p = series.into_iter().fold(0.0, |p, c| f32_mul_add(p, t * t, c));
        // A NaN stays one.
        if self.is_nan() { self } else { n as f32 + 2.0 * LOG2_E * t * p }
    }
    #[inline(always)]
    fn mul_add(self, b: f32, c: f32) -> f32 {
        f32_mul_add(self, b, c)
    }
}

/// Every aarch64 has a fused instruction, not so every x86-64.
#[inline(always)]
fn f32_mul_add(a: f32, b: f32, c: f32) -> f32 {
    if cfg!(target_arch = "aarch64") { a.mul_add(b, c) } else { a * b + c }
}
