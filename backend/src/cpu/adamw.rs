//! AdamW (Loshchilov & Hutter 2019, <https://arxiv.org/abs/1711.05101>, algorithm 2), decay scaled by the learning rate.
//!
//! ```text
//! g <- clip g        m <- β₁ m + (1 - β₁) g        v <- β₂ v + (1 - β₂) g²
//! p <- (1 - lr λ) p - lr m̂ / (sqrt(v̂) + eps)      m̂ = m / (1 - β₁ᵗ), v̂ = v / (1 - β₂ᵗ)
//! ```
use super::pool::{Pool, pieces, pieces_mut};
use super::real::Real;

/// Elements that are worth a worker's while.
const TILE: usize = 1 << 12;

/// What does not change from step to step.
pub struct Config {
    pub beta1: f64,
    pub eps: f64,
    pub weight_decay: f64,
}

/// g, norm (3) as `grad_norm` wrote it, hyper (4) = [lr, 1 - β₁ᵗ, 1 - β₂ᵗ, β₂] -> p, m, v in place
pub fn step<E: Real>(
    pool: &Pool,
    g: &[E],
    norm: &[f64],
    hyper: &[f64],
    p: &mut [E],
    m: &mut [E],
    v: &mut [E],
    config: Config,
) {
    assert_eq!([p.len(), m.len(), v.len()], [g.len(); 3]);
    let (clip, take_step) = (E::of(norm[1]), norm[2] != 0.0);
    if !take_step {
        return;
    }
    let [lr, correction1, correction2, beta2] = *hyper else { panic!("hyper has {} numbers", hyper.len()) };
    let (beta1, rest1) = (E::of(config.beta1), E::of(1.0 - config.beta1));
    let (beta2, rest2) = (E::of(beta2), E::of(1.0 - beta2));
    let (decay, eps) = (E::of(1.0 - lr * config.weight_decay), E::of(config.eps));
    let (rate, root) = (E::of(lr / correction1), E::of(1.0 / correction2.sqrt()));

    let tiles = (pieces(g, TILE), pieces_mut(p, TILE), pieces_mut(m, TILE), pieces_mut(v, TILE));
    pool.over(
        tiles,
        #[inline(always)]
        |_, (g, p, m, v)| {
            let n = g.len();
            let (p, m, v) = (&mut p[..n], &mut m[..n], &mut v[..n]);
            for i in 0..n {
                let g = clip * g[i];
                m[i] = beta1 * m[i] + rest1 * g;
                v[i] = beta2 * v[i] + rest2 * g * g;
                p[i] = decay * p[i] - rate * m[i] / (v[i].sqrt() * root + eps);
            }
        },
    );
}

/// The same, and copy becomes p.
pub fn step_and_copy<E: Real>(
    pool: &Pool,
    g: &[E],
    norm: &[f64],
    hyper: &[f64],
    p: &mut [E],
    m: &mut [E],
    v: &mut [E],
    copy: &mut [E],
    config: Config,
) {
    step(pool, g, norm, hyper, p, m, v, config);
    if norm[2] != 0.0 {
        let tiles = (pieces(p, TILE), pieces_mut(copy, TILE));
        pool.over(tiles, |_, (p, copy)| copy.copy_from_slice(p));
    }
}
