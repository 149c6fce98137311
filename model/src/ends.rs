//! The two ends of the model: embedding, and head with the loss. Same conventions as [`crate::block`].
use crate::block::{GradTo, MicroBatch};
use crate::{Decoder, Inputs, Phase};
use backend::{Backend, Op, View};

/// ids (T), w (V, D) -> y (T, D)
pub fn embedding_forward(dev: &mut dyn Backend, mb: &MicroBatch, w: View, y: View) {
    dev.run(Op::Embedding { ids: mb.inputs.ids, w, y, d: mb.model.hidden });
}

/// dx (T, D) -> dw (V, D)
pub fn embedding_backward(dev: &mut dyn Backend, mb: &MicroBatch, dw: GradTo, dx: View) {
    dev.run(Op::EmbeddingBackward { ids: mb.inputs.ids, dy: dx, dw: dw.view, d: mb.model.hidden, acc: dw.acc });
}

/// Rows that reach the head: all tokens, or in cached phases the one whose logits are wanted.
fn head_rows(t: usize, phase: Phase) -> usize {
    if phase.is_cached() { 1 } else { t }
}

/// x (R, D) of cached phases else nothing, n (R, D), rstd (R), logits (R, V), where R is T or 1.
pub fn head_saved(m: &Decoder, t: usize, phase: Phase) -> [usize; 4] {
    let r = head_rows(t, phase);
    let picked = if phase.is_cached() { m.hidden } else { 0 };
    [picked, r * m.hidden, r, r * m.vocab]
}

/// dn (T, D)
pub fn head_tmp(m: &Decoder, t: usize) -> [usize; 1] {
    [t * m.hidden]
}

/// What the head leaves behind.
#[derive(Clone, Copy)]
pub enum HeadOut {
    /// loss (1) f64: sum over the micro-batch's labels. count (1) f64: labels of the whole step.
    Loss { loss: View, count: View },
    /// (V), in cached phases.
    Logits(View),
}

/// norm (D), x (T, D), matrix (V, D) -> the loss and, in training, the gradient of the logits in their place; or logits.
pub fn head_forward(
    dev: &mut dyn Backend,
    mb: &MicroBatch,
    norm: View,
    matrix: View,
    x: View,
    saved: View,
    out: HeadOut,
) {
    let (m, r) = (mb.model, head_rows(mb.t, mb.phase));
    let [picked, n, rstd, logits] = saved.split(head_saved(m, mb.t, mb.phase));
    let Inputs { labels, row, .. } = mb.inputs;

    let x = if mb.phase.is_cached() {
        dev.run(Op::TakeRows { rows: row, x, y: picked, d: m.hidden });
        picked
    } else {
        x
    };
    dev.run(Op::RmsNorm { x, w: norm, y: n, rstd, eps: m.norm_eps });
    dev.run(Op::Linear { x: n, w: matrix, y: logits, dims: [r, m.hidden, m.vocab], acc: false });
    dev.run(match out {
        HeadOut::Loss { loss, count } if mb.phase == Phase::Train => {
            Op::CrossEntropy { labels, count, logits, loss, v: m.vocab }
        }
        HeadOut::Loss { loss, .. } => Op::CrossEntropyLoss { labels, logits, loss, v: m.vocab },
        HeadOut::Logits(y) => Op::Copy { x: logits, y },
    });
}

/// x (T, D) -> dx (T, D), written, and the gradients of norm (D) and matrix (V, D).
pub fn head_backward(
    dev: &mut dyn Backend,
    mb: &MicroBatch,
    [norm, matrix]: [View; 2],
    [dnorm, dmatrix]: [GradTo; 2],
    x: View,
    dx: View,
    saved: View,
    tmp: View,
) {
    let (m, t) = (mb.model, mb.t);
    let [_, n, rstd, dlogits] = saved.split(head_saved(m, t, mb.phase));
    let [dn] = tmp.split(head_tmp(m, t));

    let dims = [t, m.hidden, m.vocab];
    dev.run(Op::LinearBackwardInput { dy: dlogits, w: matrix, dx: dn, dims });
    dev.run(Op::LinearBackwardWeight { dy: dlogits, x: n, dw: dmatrix.view, dims, acc: dmatrix.acc });
    dev.run(Op::Fill { y: dx, value: 0.0 });
    dev.run(Op::RmsNormBackward { x, w: norm, rstd, dy: dn, dx, dw: dnorm.view, acc: dnorm.acc });
}
