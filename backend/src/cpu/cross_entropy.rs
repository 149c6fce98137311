//! Cross-entropy of a softmax, summed over the labelled rows.
//!
//! ```text
//! loss = Σ log Σ exp(z) - z[label]        dz = (softmax(z) - onehot(label)) / count
//! ```
//! The losses of rows are added in f64, in row order. A label of `u32::MAX` is no label: its row costs nothing, and
//! nothing in it, not even a NaN, gets out.
use super::real::Real;
use super::reduce::{exponentials, max, sum};
use rayon::prelude::*;

const NO_LABEL: u32 = u32::MAX;

/// labels (T) -> count (1) = or +=
pub fn count_labels(labels: &[u32], count: &mut [f64], acc: bool) {
    let n = labels.iter().filter(|&&label| label != NO_LABEL).count() as f64;
    count[0] = if acc { count[0] + n } else { n };
}

/// labels (T), logits (T, V) -> loss (1)
pub fn forward<E: Real>(labels: &[u32], logits: &[E], loss: &mut [f64], v: usize) {
    assert_eq!(logits.len(), labels.len() * v);
    let rows = logits.par_chunks(v).zip(labels).map(|(z, &label)| {
        if label == NO_LABEL {
            return 0.0;
        }
        let max = max(z);
        let total = sum([z], |[z]| (z - max).exp());
        total.f64().ln() - (z[label as usize] - max).f64()
    });
    loss[0] = rows.collect::<Vec<f64>>().iter().sum();
}

/// labels (T), count (1) -> logits (T, V) become their gradient, loss (1)
pub fn forward_backward<E: Real>(labels: &[u32], count: &[f64], logits: &mut [E], loss: &mut [f64], v: usize) {
    assert_eq!(logits.len(), labels.len() * v);
    let scale = E::of(1.0 / count[0]);
    let rows = logits.par_chunks_mut(v).zip(labels).map(|(z, &label)| {
        if label == NO_LABEL || count[0] == 0.0 {
            z.fill(E::ZERO);
            return 0.0;
        }
        let picked = z[label as usize];
        let (max, total) = exponentials(z);
        let to_gradient = scale / total;
        for z in z.iter_mut() {
            *z *= to_gradient;
        }
        z[label as usize] = z[label as usize] - scale;
        total.f64().ln() - (picked - max).f64()
    });
    loss[0] = rows.collect::<Vec<f64>>().iter().sum();
}
