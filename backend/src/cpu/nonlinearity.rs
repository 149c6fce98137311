//! The nonlinearities of an MLP and their slopes.
//!
//! ```text
//! silu(x)      = x σ(x)                                        slope  σ (1 + x (1 - σ))
//! gelu(x)      = x Φ(x),  Φ(x) = (1 + erf(x / √2)) / 2         slope  Φ + x exp(-x²/2) / √(2π)
//! gelu_tanh(x) = x (1 + tanh u) / 2,  u = √(2/π) (x + c x³)    slope  (1 + tanh u) / 2 + x (1 - tanh² u) u' / 2
//! ```
//! with c = 0.044715 (Hendrycks & Gimpel 2016, <https://arxiv.org/abs/1606.08415>).
use super::real::Real;
use std::f64::consts::{FRAC_1_SQRT_2, FRAC_2_SQRT_PI};

#[inline(always)]
pub fn silu<E: Real>(x: E) -> (E, E) {
    // Far below zero exp is infinite and σ zero, as it should be.
    let sig = E::ONE / (E::ONE + (-x).exp());
    (x * sig, sig * (E::ONE + x * (E::ONE - sig)))
}

#[inline(always)]
pub fn gelu<E: Real>(x: E) -> (E, E) {
    let half = E::of(0.5);
    let phi = half * (E::ONE + (x * E::of(FRAC_1_SQRT_2)).erf());
    let density = (-half * x * x).exp() * E::of(FRAC_2_SQRT_PI * FRAC_1_SQRT_2 * 0.5);
    (x * phi, phi + x * density)
}

#[inline(always)]
pub fn gelu_tanh<E: Real>(x: E) -> (E, E) {
    let (half, c, k) = (E::of(0.5), E::of(0.044715), E::of(FRAC_2_SQRT_PI * FRAC_1_SQRT_2));
    let tanh = (k * (x + c * x * x * x)).tanh();
    let slope_u = k * (E::ONE + E::of(3.0) * c * x * x);
    (half * x * (E::ONE + tanh), half * (E::ONE + tanh) + half * x * (E::ONE - tanh * tanh) * slope_u)
}
