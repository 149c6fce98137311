//! The norm of the whole gradient, and what follows from it: the clipping factor, whether to step at all, and the next
//! loss scale.
use super::pool::{Pool, pieces, pieces_mut};
use super::real::Real;
use super::reduce::sum;
use crate::LossScale;

/// Elements that are worth a worker's while.
const TILE: usize = 1 << 14;

/// x -> sums (ceil(len / chunk)): Σ x² of each chunk, in f64
pub fn sum_squares<E: Real>(pool: &Pool, x: &[E], sums: &mut [f64], chunk: usize) {
    assert_eq!(sums.len(), x.len().div_ceil(chunk));
    let chunks = (TILE / chunk).max(1);
    pool.over(
        (pieces(x, chunks * chunk), pieces_mut(sums, chunks)),
        #[inline(always)]
        |_, (x, sums)| {
            for (x, total) in x.chunks(chunk).zip(sums) {
                *total = sum([x], |[x]| x.f64() * x.f64());
            }
        },
    );
}

/// sums (n), count (1), scale (3) = [S, ..] -> norm (3) = [‖g‖ / S, factor that clips and undoes S, 1 to step or 0]
pub fn grad_norm(sums: &[f64], count: &[f64], scale: &[f64], norm: &mut [f64], max_norm: f64) {
    let length = sums.iter().sum::<f64>().sqrt() / scale[0];
    let step = length.is_finite() && count[0] > 0.0;
    let clip = max_norm > 0.0 && length > max_norm;
    let factor = if clip { max_norm / length } else { 1.0 };
    norm.copy_from_slice(&if step { [length, factor / scale[0], 1.0] } else { [length, 0.0, 0.0] });
}

/// norm (3) as `grad_norm` wrote it -> scale (3) = [S, steps without overflow, overflows since S last grew]
pub fn loss_scale(norm: &[f64], scale: &mut [f64], rule: LossScale) {
    let [s, good, overflows] = scale else { panic!("scale has {} numbers", scale.len()) };
    let (overflow, taken) = (!norm[0].is_finite(), norm[2] != 0.0);
    if overflow {
        *good = 0.0;
        *overflows += 1.0;
        if *overflows >= rule.hysteresis as f64 {
            *s = (*s * rule.backoff).max(rule.min);
        }
    } else if taken {
        *good += 1.0;
        if *good >= rule.interval as f64 {
            (*good, *overflows) = (0.0, 0.0);
            *s = (*s * rule.growth).min(rule.max);
        }
    }
}
