//! Cross-entropy of a softmax. A block for each row; what the rows add to the stats is in scratch, and added up in a second
//! launch.
use super::{CROSS_ENTROPY, stats};
use crate::work::{Arg, Launching, Lowering, vector};
use backend::{LogitLoss, View};

/// Threads of a row.
pub const THREADS: usize = 512;
/// Bytes of shared memory of a block that are not for the row.
const OTHERS: usize = 1 << 10;

/// The stats alone.
pub fn forward(
    l: &mut Lowering,
    [labels, types, logits]: [View; 3],
    [sums]: [View; 1],
    v: usize,
    cap: Option<f64>,
    acc: bool,
) {
    assert_eq!(logits.len, labels.len * v);
    let rows = stats::rows(l, labels.len);
    let args = [labels.into(), logits.into(), rows.into(), Arg::small(v), cap.unwrap_or(1.0).into()];
    let launch = l.launch(&CROSS_ENTROPY, "cross_entropy_loss");
    of_logits(launch, logits, v, cap, false).grid(labels.len).block(THREADS).with(args);
    stats::add_up(l, rows, [types], [sums], acc);
}

/// logits (T, V) become their gradient.
pub fn forward_backward(
    l: &mut Lowering,
    [labels, types, count, scale]: [View; 4],
    [logits, sums]: [View; 2],
    v: usize,
    with: LogitLoss,
    acc: bool,
) {
    assert_eq!(logits.len, labels.len * v);
    let rows = stats::rows(l, labels.len);
    // As much of the row as has room stays in shared memory, in packs.
    let element = logits.dtype.bytes();
    let kept = v.min((l.card.shared - OTHERS) / element / 8 * 8);
    let (cap, smoothing) = (with.cap.unwrap_or(1.0), with.smoothing);
    let args = [
        labels.into(),
        count.into(),
        scale.into(),
        logits.into(),
        rows.into(),
        Arg::small(v),
        Arg::small(kept),
        cap.into(),
        smoothing.into(),
    ];
    let launch = l.launch(&CROSS_ENTROPY, "cross_entropy");
    of_logits(launch, logits, v, with.cap, smoothing > 0.0)
        .shared(kept * element)
        .grid(labels.len)
        .block(THREADS)
        .with(args);
    stats::add_up(l, rows, [types], [sums], acc);
}

/// Macros of `logits.cuh`.
pub fn of_logits(launch: Launching, logits: View, v: usize, cap: Option<f64>, summed: bool) -> Launching {
    launch
        .real(logits)
        .types([("X_T", logits.dtype)])
        .define("VEC", vector(v, &[logits]))
        .define("CAPPED", u32::from(cap.is_some()))
        .define("SUMMED", u32::from(summed))
}
