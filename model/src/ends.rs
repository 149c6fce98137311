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

/// Bytes of logits that are held at once, unless a single row is longer.
const LOGITS: usize = 64 << 20;
/// The loss goes through the head by chunks of so many rows: no more logits than these are ever there. A number of the
/// shape alone, so that the bits of a gradient do not depend on who computes it.
fn chunk_rows(m: &Decoder, t: usize, dtype: DType) -> usize {
    (LOGITS / (m.vocab * dtype.bytes()) / 64 * 64).clamp(1, t)
}

fn chunks(m: &Decoder, t: usize, dtype: DType) -> impl Iterator<Item = (usize, usize)> {
    let rows = chunk_rows(m, t, dtype);
    (0..t).step_by(rows).map(move |at| (at, rows.min(t - at)))
}

/// x (R, D) of cached phases else empty, n (R, D), stats, logits (1, V) of cached phases and (chunk, V) of evaluation
/// else empty, where R is T or 1; then for a head with normalised rows, else empty: unit (V, D), norms (V).
pub fn head_saved(m: &Decoder, t: usize, phase: Phase, dtype: DType) -> [(DType, usize); 6] {
    let (r, v, d) = (head_rows(t, phase), m.vocab, m.hidden);
    let precise = dtype.precise();
    let picked = if phase.is_cached() { d } else { 0 };
    let unit_rows = if m.norm_head { v } else { 0 };
    let logits = match phase {
        Phase::Train => 0,
        Phase::Eval => chunk_rows(m, t, dtype),
        Phase::Prefill | Phase::Decode => 1,
    };
    [
        (dtype, picked),
        (dtype, r * d),
        (precise, m.norm_stats(r)),
        (dtype, logits * v),
        (dtype, unit_rows * d),
        (precise, unit_rows),
    ]
}

/// dn (T, D), logits (chunk, V), and for a head with normalised rows, else empty, dunit (V, D).
pub fn head_tmp(m: &Decoder, t: usize, dtype: DType) -> [(DType, usize); 3] {
    let dunit = if m.norm_head { m.vocab * m.hidden } else { 0 };
    [(dtype, t * m.hidden), (dtype, chunk_rows(m, t, dtype) * m.vocab), (dtype.precise(), dunit)]
}

/// What the forward of the head leaves behind.
#[derive(Clone, Copy)]
pub enum HeadOut {
    /// In training: nothing but what the backward needs. The loss comes with its gradient, from the same logits.
    Nothing,
    /// In evaluation: the stats of the micro-batch, (1 + 3 K) f64 as `Op::CrossEntropyLoss` writes them.
    Stats(View),
    /// (V), in cached phases.
    Logits(View),
}

/// What the backward of the head needs besides its tensors.
#[derive(Clone, Copy)]
pub struct LossOf {
    /// (1 + 3 K) f64 of the micro-batch, written.
    pub stats: View,
    /// (1) f64: labels of the whole step.
    pub count: View,
    /// (1) f64: what the loss is multiplied by.
    pub scale: View,
    /// As in `LogitLoss`.
    pub smoothing: f64,
}

/// norm, x (T, D), matrix (V, D) -> saved, and `out`
pub fn head_forward(
    dev: &mut dyn Backend,
    mb: &MicroBatch,
    norm_w: View,
    matrix: View,
    x: View,
    saved: View,
    out: HeadOut,
) {
    let (m, t, v, d) = (mb.model, mb.t, mb.model.vocab, mb.model.hidden);
    let [picked, n, norm_stats, logits, unit, norms] = saved.carve(head_saved(m, t, mb.phase, mb.dtype));
    let Inputs { labels, types, row, .. } = mb.inputs;

    let x = if mb.phase.is_cached() {
        dev.run(Op::TakeRows { rows: row, x, y: picked, d });
        picked
    } else {
        x
    };
    norm(dev, m, x, norm_w, n, norm_stats);
    let w = if m.norm_head {
        dev.run(Op::UnitRows { w: matrix, y: unit, norms, d });
        unit
    } else {
        matrix
    };
    match out {
        HeadOut::Nothing => {}
        HeadOut::Stats(stats) => {
            for (at, rows) in chunks(m, t, mb.dtype) {
                let (labels, types, logits) = (labels.sub(at, rows), types.sub(at, rows), logits.sub(0, rows * v));
                dev.run(Op::Linear { x: n.sub(at * d, rows * d), w, add: None, y: logits, dims: [rows, d, v] });
                dev.run(Op::CrossEntropyLoss { labels, types, logits, stats, v, cap: m.logit_cap, acc: at > 0 });
            }
        }
        HeadOut::Logits(y) => {
            dev.run(Op::Linear { x: n, w, add: None, y: logits, dims: [1, d, v] });
            dev.run(Op::Copy { x: logits, y });
            if let Some(cap) = m.logit_cap {
                dev.run(Op::SoftCap { z: y, cap });
            }
        }
    }
}

/// x (T, D) -> the loss, dx (T, D), written, and the gradients of norm and matrix (V, D).
pub fn head_backward(
    dev: &mut dyn Backend,
    mb: &MicroBatch,
    [norm_w, matrix]: [View; 2],
    [dnorm, dmatrix]: [GradTo; 2],
    x: View,
    dx: View,
    saved: View,
    tmp: View,
    LossOf { stats, count, scale, smoothing }: LossOf,
) {
    let (m, t, v, d) = (mb.model, mb.t, mb.model.vocab, mb.model.hidden);
    let [_, n, norm_stats, _, unit, norms] = saved.carve(head_saved(m, t, mb.phase, mb.dtype));
    let [dn, logits, dunit] = tmp.carve(head_tmp(m, t, mb.dtype));
    let Inputs { labels, types, .. } = mb.inputs;
    let with = LogitLoss { cap: m.logit_cap, smoothing };
    // With normalised rows, the product is with those, and its gradient goes on to the matrix.
    let (w, dw, by) = match m.norm_head {
        true => (unit, GradTo { view: dunit, acc: false }, 1.0),
        false => (matrix, dmatrix, m.embed_grad_scale),
    };

    for (at, rows) in chunks(m, t, mb.dtype) {
        let (labels, types, logits) = (labels.sub(at, rows), types.sub(at, rows), logits.sub(0, rows * v));
        let (n, dn, dims) = (n.sub(at * d, rows * d), dn.sub(at * d, rows * d), [rows, d, v]);
        let acc = at > 0;
        dev.run(Op::Linear { x: n, w, add: None, y: logits, dims });
        dev.run(Op::CrossEntropy { labels, types, count, scale, logits, stats, v, with, acc });
        dev.run(Op::LinearBackwardInput { dy: logits, w, dx: dn, dims });
        dev.run(Op::LinearBackwardWeight { dy: logits, x: n, dw: dw.view, dims, scale: by, acc: acc || dw.acc });
    }
    if m.norm_head {
        let (scale, GradTo { view: dw, acc }) = (m.embed_grad_scale, dmatrix);
        dev.run(Op::UnitRowsBackward { y: unit, norms, dy: dunit, dw, d, scale, acc });
    }
    dev.run(Op::Fill { y: dx, value: 0.0 });
    norm_backward(dev, m, x, norm_w, norm_stats, dn, dx, dnorm);
}
