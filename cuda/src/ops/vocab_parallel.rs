//! Cross-entropy of a vocabulary that is cut over ranks (Shoeybi et al. 2019, section 3), in three steps.
use super::cross_entropy::{THREADS, of_logits};
use super::{VOCAB_PARALLEL, stats};
use crate::work::{Arg, Lowering};
use backend::{Columns, DType, LogitLoss, View};

/// Numbers of a row.
const PARTS: usize = 4;

/// logits (T, V') capped in place -> parts (T, 4)
pub fn parts(l: &mut Lowering, [labels]: [View; 1], [logits, parts]: [View; 2], columns: Columns, cap: Option<f64>) {
    let Columns { first, filled, width } = columns;
    assert_eq!((logits.len, parts.len), (labels.len * width, labels.len * PARTS));
    let [width_of, first, filled] = [width, first, filled].map(Arg::small);
    let args = [labels.into(), logits.into(), parts.into(), width_of, first, filled, cap.unwrap_or(1.0).into()];
    let launch = l.launch(&VOCAB_PARALLEL, "logit_parts");
    of_logits(launch, logits, width, cap, true).grid(labels.len).block(THREADS).with(args);
}

/// parts (n, T, 4) -> stats
pub fn loss(
    l: &mut Lowering,
    [labels, types, parts]: [View; 3],
    [sums]: [View; 1],
    vocab: usize,
    smoothing: f64,
    acc: bool,
) {
    let (t, rows) = (labels.len, stats::rows(l, labels.len));
    let [t_of, ranks, vocab] = [t, parts.len / (t * PARTS), vocab].map(Arg::small);
    let args = [labels.into(), parts.into(), rows.into(), t_of, ranks, vocab, smoothing.into()];
    // There are no logits, so any type will do.
    let logits = View { dtype: DType::F32, ..labels };
    let launch = l.launch(&VOCAB_PARALLEL, "loss_of_parts");
    of_logits(launch, logits, 1, None, false).grid(t.div_ceil(64)).block(64).with(args);
    stats::add_up(l, rows, [types], [sums], acc);
}

/// parts (n, T, 4), logits (T, V') capped -> their gradient
pub fn gradient(
    l: &mut Lowering,
    [labels, count, scale, parts]: [View; 4],
    [logits]: [View; 1],
    columns: Columns,
    vocab: usize,
    with: LogitLoss,
) {
    let Columns { first, filled, width } = columns;
    assert_eq!(logits.len, labels.len * width);
    let ranks = parts.len / (labels.len * PARTS);
    let [ranks, width_of, first, filled, vocab] = [ranks, width, first, filled, vocab].map(Arg::small);
    let args = [
        labels.into(),
        count.into(),
        scale.into(),
        parts.into(),
        logits.into(),
        ranks,
        width_of,
        first,
        filled,
        vocab,
        with.cap.unwrap_or(1.0).into(),
        with.smoothing.into(),
    ];
    let launch = l.launch(&VOCAB_PARALLEL, "logit_gradient");
    of_logits(launch, logits, width, with.cap, true).grid(labels.len).block(THREADS).with(args);
}
