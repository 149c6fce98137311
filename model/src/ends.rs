//! The two ends of the model: embedding, and head with the loss. Same conventions as [`crate::block`].
use crate::block::{GradTo, MicroBatch};
use crate::parts::{norm, norm_backward};
use crate::{Decoder, Inputs, Phase};
use backend::{Backend, DType, LogitLoss, Op, View};

/// ids (T), w (V, D) -> y (T, D)
pub fn embedding_forward(dev: &mut dyn Backend, mb: &MicroBatch, w: View, y: View) {
    let m = mb.model;
    dev.run(Op::Embedding { ids: mb.inputs.ids, w, y, d: m.hidden, scale: m.embedding_scale(mb.dtype) });
}

/// dx (T, D) -> dw (V, D)
pub fn embedding_backward(dev: &mut dyn Backend, mb: &MicroBatch, dw: GradTo, dx: View) {
    let m = mb.model;
    let scale = m.embedding_scale(mb.dtype) * m.embed_grad_scale;
    dev.run(Op::EmbeddingBackward { ids: mb.inputs.ids, dy: dx, dw: dw.view, d: m.hidden, scale, acc: dw.acc });
}

/// Rows that reach the head: all tokens, or in cached phases the one whose logits are wanted.
fn head_rows(t: usize, phase: Phase) -> usize {
    if phase.is_cached() { 1 } else { t }
}

/// x (R, D) of cached phases else empty, n (R, D), stats, logits (R, V), where R is T or 1; then for a head with
/// normalised rows, else empty: unit (V, D), norms (V).
pub fn head_saved(m: &Decoder, t: usize, phase: Phase, dtype: DType) -> [(DType, usize); 6] {
    let (r, v, d) = (head_rows(t, phase), m.vocab, m.hidden);
    let precise = dtype.precise();
    let picked = if phase.is_cached() { d } else { 0 };
    let unit_rows = if m.norm_head { v } else { 0 };
    [
        (dtype, picked),
        (dtype, r * d),
        (precise, m.norm_stats(r)),
        (dtype, r * v),
        (dtype, unit_rows * d),
        (precise, unit_rows),
    ]
}

/// dn (T, D), and for a head with normalised rows, else empty, dunit (V, D).
pub fn head_tmp(m: &Decoder, t: usize, dtype: DType) -> [(DType, usize); 2] {
    let dunit = if m.norm_head { m.vocab * m.hidden } else { 0 };
    [(dtype, t * m.hidden), (dtype.precise(), dunit)]
}

/// What the head leaves behind.
#[derive(Clone, Copy)]
pub enum HeadOut {
    /// In training: stats (1 + 3 K) f64 of the micro-batch, as `Op::CrossEntropy` writes them. count (1) f64: labels of
    /// the whole step. scale (1) f64: what the loss is multiplied by. `smoothing` as in `LogitLoss`.
    Loss { stats: View, count: View, scale: View, smoothing: f64 },
    /// In evaluation: the stats.
    LossAlone { stats: View },
    /// (V), in cached phases.
    Logits(View),
}

/// norm, x (T, D), matrix (V, D) -> the loss and, in training, the gradient of the logits in their place; or logits.
pub fn head_forward(
    dev: &mut dyn Backend,
    mb: &MicroBatch,
    norm_w: View,
    matrix: View,
    x: View,
    saved: View,
    out: HeadOut,
) {
    let (m, r) = (mb.model, head_rows(mb.t, mb.phase));
    let [picked, n, norm_stats, logits, unit, norms] = saved.carve(head_saved(m, mb.t, mb.phase, mb.dtype));
    let Inputs { labels, types, row, .. } = mb.inputs;
    let (v, d, cap) = (m.vocab, m.hidden, m.logit_cap);

    let x = if mb.phase.is_cached() {
        dev.run(Op::TakeRows { rows: row, x, y: picked, d });
        picked
    } else {
        x
    };
    norm(dev, m, x, norm_w, n, norm_stats);
    let matrix = if m.norm_head {
        dev.run(Op::UnitRows { w: matrix, y: unit, norms, d });
        unit
    } else {
        matrix
    };
    dev.run(Op::Linear { x: n, w: matrix, y: logits, dims: [r, d, v], acc: false });
    match out {
        HeadOut::Loss { stats, count, scale, smoothing } => {
            let with = LogitLoss { cap, smoothing };
            dev.run(Op::CrossEntropy { labels, types, count, scale, logits, stats, v, with });
        }
        HeadOut::LossAlone { stats } => dev.run(Op::CrossEntropyLoss { labels, types, logits, stats, v, cap }),
        HeadOut::Logits(y) => {
            dev.run(Op::Copy { x: logits, y });
            if let Some(cap) = cap {
                dev.run(Op::SoftCap { z: y, cap });
            }
        }
    }
}

/// x (T, D) -> dx (T, D), written, and the gradients of norm and matrix (V, D).
pub fn head_backward(
    dev: &mut dyn Backend,
    mb: &MicroBatch,
    [norm_w, matrix]: [View; 2],
    [dnorm, dmatrix]: [GradTo; 2],
    x: View,
    dx: View,
    saved: View,
    tmp: View,
) {
    let (m, t) = (mb.model, mb.t);
    let [_, n, norm_stats, dlogits, unit, norms] = saved.carve(head_saved(m, t, mb.phase, mb.dtype));
    let [dn, dunit] = tmp.carve(head_tmp(m, t, mb.dtype));
    let (d, dims, scale) = (m.hidden, [t, m.hidden, m.vocab], m.embed_grad_scale);
    let GradTo { view: dw, acc } = dmatrix;

    if m.norm_head {
        dev.run(Op::LinearBackwardInput { dy: dlogits, w: unit, dx: dn, dims });
        dev.run(Op::LinearBackwardWeight { dy: dlogits, x: n, dw: dunit, dims, scale: 1.0, acc: false });
        dev.run(Op::UnitRowsBackward { y: unit, norms, dy: dunit, dw, d, scale, acc });
    } else {
        dev.run(Op::LinearBackwardInput { dy: dlogits, w: matrix, dx: dn, dims });
        dev.run(Op::LinearBackwardWeight { dy: dlogits, x: n, dw, dims, scale, acc });
    }
    dev.run(Op::Fill { y: dx, value: 0.0 });
    norm_backward(dev, m, x, norm_w, norm_stats, dn, dx, dnorm);
}
