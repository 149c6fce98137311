//! Cross-entropy of a softmax, summed over the labelled rows.
//!
//! ```text
//! z    <- cap tanh(z / cap), where logits are capped
//! nll  =  log Σ exp(z) - z[label]              loss = (1 - ε) nll + ε (log Σ exp(z) - mean(z))
//! dz   =  (softmax(z) - (1 - ε) onehot(label) - ε / V) scale / count, times 1 - (z / cap)² where logits are capped
//! ```
//! The sums over rows are added in f64, in row order. A label of `u32::MAX` is no label: its row costs nothing, and
//! nothing in it, not even a NaN, gets out.
use super::real::Real;
use super::reduce::{exponentials, max, sum};
use crate::LogitLoss;
use rayon::prelude::*;

const NO_LABEL: u32 = u32::MAX;

/// labels (T) -> count (1) = or +=
pub fn count_labels(labels: &[u32], count: &mut [f64], acc: bool) {
    let n = labels.iter().filter(|&&label| label != NO_LABEL).count() as f64;
    count[0] = if acc { count[0] + n } else { n };
}

/// labels, types (T), logits (T, V) -> stats (1 + 3 K), the loss without smoothing
pub fn forward<E: Real>(labels: &[u32], types: &[u32], logits: &[E], stats: &mut [f64], v: usize, cap: Option<f64>) {
    assert_eq!(logits.len(), labels.len() * v);
    let row = |z: &[E], label: u32| {
        let max = max(z);
        let picked = z[label as usize];
        let total = sum([z], |[z]| (z - max).exp());
        let nll = total.f64().ln() - (picked - max).f64();
        Row { loss: nll, nll, hit: picked >= max }
    };
    let rows = logits.par_chunks(v).zip(labels).map(|(z, &label)| match cap {
        _ if label == NO_LABEL => None,
        None => Some(row(z, label)),
        Some(cap) => {
            let mut z = z.to_vec();
            soft_cap(&mut z, cap);
            Some(row(&z, label))
        }
    });
    add_up(rows.collect(), types, stats);
}

/// labels, types (T), count, scale (1) -> logits (T, V) become their gradient, stats (1 + 3 K)
pub fn forward_backward<E: Real>(
    labels: &[u32],
    types: &[u32],
    count: &[f64],
    scale: &[f64],
    logits: &mut [E],
    stats: &mut [f64],
    v: usize,
    with: LogitLoss,
) {
    assert_eq!(logits.len(), labels.len() * v);
    let (scale, smoothing) = (scale[0] / count[0], with.smoothing);
    let (on_label, on_all) = (E::of(scale * (1.0 - smoothing)), E::of(scale * smoothing / v as f64));
    let rows = logits.par_chunks_mut(v).zip(labels).map(|(z, &label)| {
        if label == NO_LABEL || count[0] == 0.0 {
            z.fill(E::ZERO);
            return None;
        }
        let capped = with.cap.map(|cap| {
            soft_cap(z, cap);
            (E::of(1.0 / cap), z.to_vec())
        });
        let picked = z[label as usize];
        let mean = if smoothing > 0.0 { sum([&*z], |[z]| z.f64()) / v as f64 } else { 0.0 };
        let (max, total) = exponentials(z);
        let (log_total, picked_below) = (total.f64().ln(), (picked - max).f64());
        let nll = log_total - picked_below;
        let loss =
            if smoothing > 0.0 { (1.0 - smoothing) * nll + smoothing * (log_total + max.f64() - mean) } else { nll };

        let to_gradient = E::of(scale) / total;
        for z in z.iter_mut() {
            *z *= to_gradient;
        }
        z[label as usize] = z[label as usize] - on_label;
        if smoothing > 0.0 {
            for z in z.iter_mut() {
                *z = *z - on_all;
            }
        }
        if let Some((per_cap, capped)) = capped {
            for (z, capped) in z.iter_mut().zip(capped) {
                let tanh = capped * per_cap;
                *z *= E::ONE - tanh * tanh;
            }
        }
        Some(Row { loss, nll, hit: picked >= max })
    });
    add_up(rows.collect(), types, stats);
}

/// z <- cap tanh(z / cap)
pub fn soft_cap<E: Real>(z: &mut [E], cap: f64) {
    let (cap, per_cap) = (E::of(cap), E::of(1.0 / cap));
    for z in z {
        *z = cap * (*z * per_cap).tanh();
    }
}

/// What a labelled row contributes.
struct Row {
    loss: f64,
    nll: f64,
    /// The label has the largest logit.
    hit: bool,
}

fn add_up(rows: Vec<Option<Row>>, types: &[u32], stats: &mut [f64]) {
    assert_eq!((rows.len(), stats.len() % 3), (types.len(), 1));
    stats.fill(0.0);
    let (loss, by_type) = stats.split_at_mut(1);
    for (row, &kind) in rows.iter().zip(types) {
        let Some(row) = row else { continue };
        let sums = &mut by_type[3 * kind as usize..][..3];
        loss[0] += row.loss;
        sums[0] += row.nll;
        sums[1] += 1.0;
        sums[2] += f64::from(row.hit);
    }
}
