//! The two ends of the model: embedding, and head with the loss. Same conventions as [`crate::block`].
//!
//! A tensor-parallel group cuts both by the vocabulary (Shoeybi et al. 2019, section 3): a rank looks up the tokens that it has
//! and the group adds up; it multiplies by its columns, and four numbers a row make the loss of all of them.
use crate::block::{GradTo, MicroBatch};
use crate::parts::{norm, norm_backward};
use crate::tensor::{Dev, Work};
use crate::{Decoder, Inputs, Phase};
use backend::{DType, LogitLoss, Op, View};
use comm::{Coll, CommError};

/// (T, D) where the group shares the tokens, else empty.
pub fn embedding_tmp(c: &Work) -> [(DType, usize); 1] {
    [c.full(c.tensor.cuts_tokens())]
}

/// ids (T), w (V, D) -> y (R, D)
pub fn embedding_forward(dev: &mut Dev, mb: &MicroBatch, w: View, y: View, tmp: View) -> Result<(), CommError> {
    let (c, m, ids) = (&mb.work, mb.work.model, mb.inputs.ids);
    let (d, scale, first) = (m.hidden, m.embedding_scale(c.dtype), first_row(mb));
    if c.tensor.cuts_tokens() {
        dev.run(Op::Embedding { ids, w, y: tmp, d, scale, first });
        return dev.collect(Coll::ReduceScatter, Some(tmp), y);
    }
    dev.run(Op::Embedding { ids, w, y, d, scale, first });
    if c.tensor.size > 1 { dev.collect(Coll::AllReduce, None, y) } else { Ok(()) }
}

/// dx (R, D) -> dw (V, D)
pub fn embedding_backward(dev: &mut Dev, mb: &MicroBatch, dw: GradTo, dx: View, tmp: View) -> Result<(), CommError> {
    let (c, m, ids) = (&mb.work, mb.work.model, mb.inputs.ids);
    let dy = if c.tensor.cuts_tokens() {
        dev.collect(Coll::AllGather, Some(dx), tmp)?;
        tmp
    } else {
        dx
    };
    let scale = m.embedding_scale(c.dtype) * m.embed_grad_scale;
    let (dw, d, first, acc) = (dw.view, m.hidden, first_row(mb), dw.acc);
    dev.run(Op::EmbeddingBackward { ids, dy, dw, d, scale, first, acc });
    Ok(())
}

/// Of a rank that has a part of the vocabulary.
fn first_row(mb: &MicroBatch) -> Option<usize> {
    (mb.work.tensor.size > 1).then_some(mb.rank * mb.work.model.vocab)
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
/// else empty, where R is 1 in cached phases; then for a head with normalised rows, else empty: unit (V, D), norms (V).
pub fn head_saved(c: &Work) -> [(DType, usize); 6] {
    let (m, dtype, precise) = (c.model, c.dtype, c.dtype.precise());
    let (r, v, d) = (if c.phase.is_cached() { 1 } else { c.rows() }, m.vocab, m.hidden);
    let picked = if c.phase.is_cached() { d } else { 0 };
    let unit_rows = if m.norm_head { v } else { 0 };
    let logits = match c.phase {
        Phase::Train => 0,
        Phase::Eval => chunk_rows(m, c.t, dtype),
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

/// dn (R, D), logits (chunk, V), for a head with normalised rows, else empty, dunit (V, D); of a tensor-parallel group of n its
/// rows' parts of the loss (chunk, 4) f64 and those of all (n, chunk, 4) f64, and where it shares the tokens n and dn (T, D).
pub fn head_tmp(c: &Work) -> [(DType, usize); 7] {
    let (m, rows) = (c.model, chunk_rows(c.model, c.t, c.dtype));
    let dunit = if m.norm_head { m.vocab * m.hidden } else { 0 };
    let parts = if c.tensor.size > 1 { 4 * rows } else { 0 };
    [
        (c.dtype, c.rows() * m.hidden),
        (c.dtype, rows * m.vocab),
        (c.dtype.precise(), dunit),
        (DType::F64, parts),
        (DType::F64, c.tensor.size * parts),
        c.full(c.tensor.cuts_tokens()),
        c.full(c.tensor.cuts_tokens()),
    ]
}

/// What the forward of the head leaves behind.
#[derive(Clone, Copy)]
pub enum HeadOut {
    /// In training: nothing but what the backward needs. The loss comes with its gradient, from the same logits.
    Nothing,
    /// In evaluation: the stats of the micro-batch, (1 + 3 K) f64 as `Op::CrossEntropyLoss` writes them.
    Stats(View),
    /// (V), in cached phases; of a tensor-parallel group with what fills the vocabulary up.
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

/// norm, x (R, D), matrix (V, D) -> saved, and `out`
pub fn head_forward(
    dev: &mut Dev,
    mb: &MicroBatch,
    norm_w: View,
    matrix: View,
    x: View,
    saved: View,
    tmp: View,
    out: HeadOut,
) -> Result<(), CommError> {
    let (c, m) = (&mb.work, mb.work.model);
    let (t, v, d) = (c.t, m.vocab, m.hidden);
    let [picked, n, norm_stats, logits, unit, norms] = saved.carve(head_saved(c));
    let Inputs { labels, types, row, .. } = mb.inputs;

    let x = if c.phase.is_cached() {
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
            let loss = Loss { stats, smoothing: 0.0 };
            let n = if c.tensor.size > 1 { gather(dev, c, n, tmp)? } else { n };
            for (at, rows) in chunks(m, t, c.dtype) {
                let (labels, types, logits) = (labels.sub(at, rows), types.sub(at, rows), logits.sub(0, rows * v));
                dev.run(Op::Linear { x: n.sub(at * d, rows * d), w, add: None, y: logits, dims: [rows, d, v] });
                if c.tensor.size > 1 {
                    loss_of_parts(dev, mb, labels, types, logits, tmp, loss, at > 0)?;
                } else {
                    dev.run(Op::CrossEntropyLoss { labels, types, logits, stats, v, cap: m.logit_cap, acc: at > 0 });
                }
            }
            told_once(dev, mb, stats);
        }
        HeadOut::Logits(y) => {
            dev.run(Op::Linear { x: n, w, add: None, y: logits, dims: [1, d, v] });
            match c.tensor.size {
                1 => dev.run(Op::Copy { x: logits, y }),
                // One row: the columns of all ranks, one after the other.
                _ => dev.collect(Coll::AllGather, Some(logits), y)?,
            }
            if let Some(cap) = m.logit_cap {
                dev.run(Op::SoftCap { z: y, cap });
            }
        }
    }
    Ok(())
}

/// n (R, D) -> n (T, D), of the group where it shares the tokens.
fn gather(dev: &mut Dev, c: &Work, n: View, tmp: View) -> Result<View, CommError> {
    let [.., full, _] = tmp.carve(head_tmp(c));
    if !c.tensor.cuts_tokens() {
        return Ok(n);
    }
    dev.collect(Coll::AllGather, Some(n), full)?;
    Ok(full)
}

#[derive(Clone, Copy)]
struct Loss {
    stats: View,
    smoothing: f64,
}

/// Logits (rows, V/n), capped in place -> the loss of the group's whole vocabulary; the parts (n, rows, 4) that make it.
fn loss_of_parts(
    dev: &mut Dev,
    mb: &MicroBatch,
    labels: View,
    types: View,
    logits: View,
    tmp: View,
    Loss { stats, smoothing }: Loss,
    acc: bool,
) -> Result<View, CommError> {
    let [_, _, _, own, all, ..] = tmp.carve(head_tmp(&mb.work));
    let len = 4 * labels.len;
    let (own, parts) = (own.sub(0, len), all.sub(0, mb.work.tensor.size * len));
    let (columns, cap) = (mb.columns(), mb.work.model.logit_cap);
    dev.run(Op::LogitParts { labels, logits, parts: own, columns, cap });
    dev.collect(Coll::AllGather, Some(own), parts)?;
    dev.run(Op::LossOfParts { labels, types, parts, stats, vocab: mb.whole.vocab, smoothing, acc });
    Ok(parts)
}

/// All ranks of the group have the same stats; the sum over the world takes them once.
fn told_once(dev: &mut Dev, mb: &MicroBatch, stats: View) {
    if mb.rank > 0 {
        dev.run(Op::Fill { y: stats, value: 0.0 });
    }
}

/// x (R, D) -> the loss, dx (R, D), written, and the gradients of norm and matrix (V, D).
pub fn head_backward(
    dev: &mut Dev,
    mb: &MicroBatch,
    [norm_w, matrix]: [View; 2],
    [dnorm, dmatrix]: [GradTo; 2],
    x: View,
    dx: View,
    saved: View,
    tmp: View,
    LossOf { stats, count, scale, smoothing }: LossOf,
) -> Result<(), CommError> {
    let (c, m) = (&mb.work, mb.work.model);
    let (t, v, d) = (c.t, m.vocab, m.hidden);
    let [_, n, norm_stats, _, unit, norms] = saved.carve(head_saved(c));
    let [dn, logits, dunit, _, _, _, dn_full] = tmp.carve(head_tmp(c));
    let Inputs { labels, types, .. } = mb.inputs;
    let with = LogitLoss { cap: m.logit_cap, smoothing };
    // With normalised rows, the product is with those, and its gradient goes on to the matrix.
    let (w, dw, by) = match m.norm_head {
        true => (unit, GradTo { view: dunit, acc: false }, 1.0),
        false => (matrix, dmatrix, m.embed_grad_scale),
    };
    let n = gather(dev, c, n, tmp)?;
    let dn_of_product = if c.tensor.cuts_tokens() { dn_full } else { dn };

    for (at, rows) in chunks(m, t, c.dtype) {
        let (labels, types, logits) = (labels.sub(at, rows), types.sub(at, rows), logits.sub(0, rows * v));
        let (n, dn, dims) = (n.sub(at * d, rows * d), dn_of_product.sub(at * d, rows * d), [rows, d, v]);
        let acc = at > 0;
        dev.run(Op::Linear { x: n, w, add: None, y: logits, dims });
        if c.tensor.size > 1 {
            let parts = loss_of_parts(dev, mb, labels, types, logits, tmp, Loss { stats, smoothing }, acc)?;
            let (columns, vocab) = (mb.columns(), mb.whole.vocab);
            dev.run(Op::LogitGradient { labels, count, scale, parts, logits, columns, vocab, with });
        } else {
            dev.run(Op::CrossEntropy { labels, types, count, scale, logits, stats, v, with, acc });
        }
        dev.run(Op::LinearBackwardInput { dy: logits, w, dx: dn, dims });
        dev.run(Op::LinearBackwardWeight { dy: logits, x: n, dw: dw.view, dims, scale: by, acc: acc || dw.acc });
    }
    told_once(dev, mb, stats);
    if m.norm_head {
        let (scale, GradTo { view: dw, acc }) = (m.embed_grad_scale, dmatrix);
        dev.run(Op::UnitRowsBackward { y: unit, norms, dy: dunit, dw, d, scale, acc });
    }
    if c.tensor.cuts_tokens() {
        dev.collect(Coll::ReduceScatter, Some(dn_full), dn)?;
    } else if c.tensor.size > 1 {
        dev.collect(Coll::AllReduce, None, dn)?;
    }
    dev.run(Op::Fill { y: dx, value: 0.0 });
    norm_backward(dev, m, x, norm_w, norm_stats, dn, dx, dnorm);
    Ok(())
}
