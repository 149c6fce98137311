//! Cross-entropy of a softmax, summed over the labelled rows.
//!
//! ```text
//! z    <- cap tanh(z / cap), where logits are capped
//! nll  =  log Σ exp(z) - z[label]              loss = (1 - ε) nll + ε (log Σ exp(z) - mean(z))
//! dz   =  (softmax(z) - (1 - ε) onehot(label) - ε / V) scale / count, times 1 - (z / cap)² where logits are capped
//! ```
//! The sums over rows are added in f64, in row order. A label of `u32::MAX` is no label: its row costs nothing, and
//! nothing in it, not even a NaN, gets out.
use super::pool::{Pool, pieces, pieces_mut};
use super::real::Real;
use super::reduce::{exponentials, max, sum};
use crate::LogitLoss;

pub const NO_LABEL: u32 = u32::MAX;

/// Rows that are worth a worker's while.
const TILE: usize = 2;

/// What a row adds to the stats: loss, nll, labels and labels that are the largest logit. Zeros without a label.
pub type Row = [f64; 4];

/// labels (T) -> count (1) = or +=
pub fn count_labels(labels: &[u32], count: &mut [f64], acc: bool) {
    let n = labels.iter().filter(|&&label| label != NO_LABEL).count() as f64;
    count[0] = if acc { count[0] + n } else { n };
}

/// labels, types (T), logits (T, V) -> stats (1 + 3 K), the loss without smoothing
pub fn forward<E: Real>(
    pool: &Pool,
    labels: &[u32],
    types: &[u32],
    logits: &[E],
    stats: &mut [f64],
    v: usize,
    cap: Option<f64>,
    acc: bool,
) {
    assert_eq!(logits.len(), labels.len() * v);
    let mut rows = pool.scratch::<Row>(labels.len());
    pool.over(
        (pieces(labels, TILE), pieces(logits, TILE * v), pieces_mut(&mut rows, TILE)),
        #[inline(always)]
        |_, (labels, logits, rows)| {
            for ((&label, z), row) in labels.iter().zip(logits.chunks_exact(v)).zip(rows) {
                *row = match cap {
                    _ if label == NO_LABEL => Row::default(),
                    None => nll(z, label),
                    Some(cap) => {
                        let mut capped = pool.scratch(v);
                        capped.copy_from_slice(z);
                        soft_cap(&mut capped, cap);
                        nll(&capped, label)
                    }
                };
            }
        },
    );
    add_up(&rows, types, stats, acc);
}

#[inline(always)]
fn nll<E: Real>(z: &[E], label: u32) -> Row {
    let (max, picked) = (max(z), z[label as usize]);
    let total = sum([z], |[z]| (z - max).exp());
    let nll = total.f64().ln() - (picked - max).f64();
    [nll, nll, 1.0, f64::from(picked >= max)]
}

/// labels, types (T), count, scale (1) -> logits (T, V) become their gradient, stats (1 + 3 K)
pub fn forward_backward<E: Real>(
    pool: &Pool,
    labels: &[u32],
    types: &[u32],
    count: &[f64],
    scale: &[f64],
    logits: &mut [E],
    stats: &mut [f64],
    v: usize,
    with: LogitLoss,
    acc: bool,
) {
    assert_eq!(logits.len(), labels.len() * v);
    let (count, scale) = (count[0], scale[0] / count[0]);
    let mut rows = pool.scratch::<Row>(labels.len());
    pool.over(
        (pieces(labels, TILE), pieces_mut(logits, TILE * v), pieces_mut(&mut rows, TILE)),
        #[inline(always)]
        |_, (labels, logits, rows)| {
            for ((&label, z), row) in labels.iter().zip(logits.chunks_exact_mut(v)).zip(rows) {
                *row = match with.cap {
                    _ if label == NO_LABEL || count == 0.0 => {
                        z.fill(E::ZERO);
                        Row::default()
                    }
                    None => to_gradient(z, label, scale, with.smoothing),
                    Some(cap) => {
                        soft_cap(z, cap);
                        let mut capped = pool.scratch(v);
                        capped.copy_from_slice(z);
                        let row = to_gradient(z, label, scale, with.smoothing);
                        for (z, &capped) in z.iter_mut().zip(&*capped) {
                            let tanh = capped * E::of(1.0 / cap);
                            *z *= E::ONE - tanh * tanh;
                        }
                        row
                    }
                };
            }
        },
    );
    add_up(&rows, types, stats, acc);
}

#[inline(always)]
fn to_gradient<E: Real>(z: &mut [E], label: u32, scale: f64, smoothing: f64) -> Row {
    let (v, picked) = (z.len() as f64, z[label as usize]);
    let mean = if smoothing > 0.0 { sum([&*z], |[z]| z.f64()) / v } else { 0.0 };
    let (max, total) = exponentials(z);
    let log_total = total.f64().ln();
    let nll = log_total - (picked - max).f64();
    let loss = if smoothing > 0.0 { (1.0 - smoothing) * nll + smoothing * (log_total + max.f64() - mean) } else { nll };

    let (by, on_all) = (E::of(scale) / total, E::of(scale * smoothing / v));
    for z in z.iter_mut() {
        *z = *z * by - on_all;
    }
    z[label as usize] = z[label as usize] - E::of(scale * (1.0 - smoothing));
    [loss, nll, 1.0, f64::from(picked >= max)]
}

/// z <- cap tanh(z / cap)
#[inline(always)]
pub fn soft_cap<E: Real>(z: &mut [E], cap: f64) {
    let (cap, per_cap) = (E::of(cap), E::of(1.0 / cap));
    for z in z {
        *z = cap * (*z * per_cap).tanh();
    }
}

/// In the order of the rows: in how many calls the rows come does not change a bit.
pub fn add_up(rows: &[Row], types: &[u32], stats: &mut [f64], acc: bool) {
    assert_eq!((rows.len(), stats.len() % 3), (types.len(), 1));
    if !acc {
        stats.fill(0.0);
    }
    let (loss, by_type) = stats.split_at_mut(1);
    for ([row_loss, row @ ..], &kind) in rows.iter().zip(types) {
        if row[1] == 0.0 {
            continue;
        }
        loss[0] += row_loss;
        for (sum, x) in by_type[3 * kind as usize..][..3].iter_mut().zip(row) {
            *sum += x;
        }
    }
}
