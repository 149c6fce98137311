//! Cross-entropy of a vocabulary that is cut over ranks (Shoeybi et al. 2019, section 3): each rank has the logits of its
//! columns, and four numbers a row are all that travels.
//!
//! ```text
//! a rank     max, Σ exp(z - max), z[label] if it is here, Σ z
//! together   M = the largest max        Σ = Σ over ranks of sum exp(max - M), in rank order
//! loss and dz as in `cross_entropy`, with M and Σ
//! ```
use super::cross_entropy::{NO_LABEL, Row, add_up, soft_cap};
use super::pool::{Pool, pieces, pieces_mut};
use super::real::Real;
use super::reduce::{max, sum};
use crate::{Columns, LogitLoss};

/// Rows that are worth a worker's while.
const TILE: usize = 2;
/// Numbers of a row.
const PARTS: usize = 4;

/// labels (T), logits (T, V') capped in place -> parts (T, 4)
pub fn parts<E: Real>(
    pool: &Pool,
    labels: &[u32],
    logits: &mut [E],
    parts: &mut [f64],
    columns: Columns,
    cap: Option<f64>,
) {
    let Columns { first, filled, width } = columns;
    assert_eq!((logits.len(), parts.len()), (labels.len() * width, labels.len() * PARTS));
    pool.over(
        (pieces(labels, TILE), pieces_mut(logits, TILE * width), pieces_mut(parts, TILE * PARTS)),
        #[inline(always)]
        |_, (labels, logits, parts)| {
            let rows = logits.chunks_exact_mut(width).zip(parts.chunks_exact_mut(PARTS));
            for (&label, (z, parts)) in labels.iter().zip(rows) {
                // A rank may have nothing but padding.
                if label == NO_LABEL || filled == 0 {
                    parts.fill(0.0);
                    parts[0] = if label == NO_LABEL { 0.0 } else { f64::NEG_INFINITY };
                    continue;
                }
                let z = &mut z[..filled];
                if let Some(cap) = cap {
                    soft_cap(z, cap);
                }
                let (largest, here) = (max(z), (label as usize).wrapping_sub(first));
                parts[0] = largest.f64();
                parts[1] = sum([&*z], |[z]| (z - largest).exp()).f64();
                parts[2] = if here < filled { z[here].f64() } else { 0.0 };
                parts[3] = sum([&*z], |[z]| z.f64());
            }
        },
    );
}

/// What the parts of a row make together.
struct Joined {
    max: f64,
    /// Σ exp(z - max)
    total: f64,
    picked: f64,
    /// Σ z
    sum: f64,
}

/// `parts` (n, T, 4), of row `t`.
#[inline(always)]
fn join(parts: &[f64], rows: usize, t: usize) -> Joined {
    let row = |parts: &[f64]| -> [f64; PARTS] { parts[t * PARTS..][..PARTS].try_into().expect("four numbers") };
    let of = || parts.chunks_exact(rows * PARTS).map(row);
    let max = of().fold(f64::NEG_INFINITY, |max, [m, ..]| if m > max || m.is_nan() { m } else { max });
    of().fold(Joined { max, total: 0.0, picked: 0.0, sum: 0.0 }, |j, [m, total, picked, sum]| Joined {
        total: j.total + total * (m - max).exp(),
        picked: j.picked + picked,
        sum: j.sum + sum,
        ..j
    })
}

/// labels, types (T), parts (n, T, 4) -> stats (1 + 3 K)
pub fn loss(labels: &[u32], types: &[u32], parts: &[f64], stats: &mut [f64], vocab: usize, smoothing: f64, acc: bool) {
    let row = |(t, &label): (usize, &u32)| -> Row {
        if label == NO_LABEL {
            return Row::default();
        }
        let Joined { max, total, picked, sum } = join(parts, labels.len(), t);
        let (log_total, mean) = (total.ln(), sum / vocab as f64);
        let nll = log_total - (picked - max);
        let even = if smoothing > 0.0 { smoothing * (log_total + max - mean) } else { 0.0 };
        [(1.0 - smoothing) * nll + even, nll, 1.0, f64::from(picked >= max)]
    };
    let rows: Vec<Row> = labels.iter().enumerate().map(row).collect();
    add_up(&rows, types, stats, acc);
}

/// labels (T), count, scale (1), parts (n, T, 4), logits (T, V') capped -> their gradient; zeros in the padding
pub fn gradient<E: Real>(
    pool: &Pool,
    labels: &[u32],
    count: &[f64],
    scale: &[f64],
    parts: &[f64],
    logits: &mut [E],
    columns: Columns,
    vocab: usize,
    with: LogitLoss,
) {
    let Columns { first, filled, width } = columns;
    assert_eq!(logits.len(), labels.len() * width);
    let (count, scale) = (count[0], scale[0] / count[0]);
    pool.over(
        (pieces(labels, TILE), pieces_mut(logits, TILE * width)),
        #[inline(always)]
        |tile, (labels_here, logits)| {
            for (i, (&label, z)) in labels_here.iter().zip(logits.chunks_exact_mut(width)).enumerate() {
                let (z, padding) = z.split_at_mut(filled);
                padding.fill(E::ZERO);
                if label == NO_LABEL || count == 0.0 {
                    z.fill(E::ZERO);
                    continue;
                }
                let Joined { max, total, .. } = join(parts, labels.len(), tile * TILE + i);
                let (max, by) = (E::of(max), E::of(scale / total));
                let (on_all, on_label) =
                    (E::of(scale * with.smoothing / vocab as f64), E::of(scale * (1.0 - with.smoothing)));
                let here = (label as usize).wrapping_sub(first);
                for (column, z) in z.iter_mut().enumerate() {
                    let capped = *z;
                    *z = (capped - max).exp() * by - on_all;
                    if column == here {
                        *z = *z - on_label;
                    }
                    if let Some(cap) = with.cap {
                        let tanh = capped * E::of(1.0 / cap);
                        *z *= E::ONE - tanh * tanh;
                    }
                }
            }
        },
    );
}
