//! x + wo attention(rope(wqkv norm(x))), forward and backward.
use super::{GradTo, Half, MicroBatch, add_vectors, carve_tmp, enter_again, entered, late_dy, only, out_saved};
use crate::parts::{Out, linear, linear_backward_weight, norm, norm_backward};
use crate::tensor::{self, Dev, Work};
use crate::{AttentionBias, Decoder, Inputs, TensorMode};
use backend::{DType, Heads, Op, View};
use comm::CommError;

/// Parameters, or their gradients: norm, bo (D), norm behind it, qk_norm (2, H), wqkv ((N+2K) H, D), bqkv ((N+2K) H), wo (D, N H).
fn attention_weights(m: &Decoder, w: View) -> [View; 7] {
    let (d, qkv) = (m.hidden, m.heads.qkv());
    let bqkv = only(m.attention_bias != AttentionBias::None, qkv);
    let [norm, bo, behind, qk_norm] = attention_vectors(m);
    w.split([norm, bo, behind, qk_norm, qkv * d, bqkv, d * m.heads.out()])
}

/// Those of them that are vectors.
fn attention_vectors(m: &Decoder) -> [usize; 4] {
    let bo = only(m.attention_bias == AttentionBias::All, m.hidden);
    [m.norm_len(), bo, only(m.sandwich_norms, m.norm_len()), only(m.qk_norm, 2 * m.heads.dim)]
}

/// n (R, D), stats, gathered n (T, D), raw ((N+2K) H wide) before qk_norm, rstd of it, qkv (T, (N+2K) H) rotated, o (T, N H),
/// lse (N, T), o of all heads (R, N H) where heads were exchanged, and the three of `Out`.
pub fn attention_saved(c: &Work) -> [(DType, usize); 12] {
    let (m, h, rows, precise) = (c.model, c.attention_heads(), c.rows(), c.dtype.precise());
    let [a, behind, behind_stats] = out_saved(c);
    let raw = only(m.qk_norm, c.product_rows());
    [
        (c.dtype, rows * m.hidden),
        (precise, m.norm_stats(rows)),
        c.full(c.gathers() && c.tensor.mode == TensorMode::Msp),
        (c.dtype, raw * m.heads.qkv()),
        (precise, raw * (m.heads.n + m.heads.kv)),
        (c.dtype, c.t * h.qkv()),
        (c.dtype, c.t * h.out()),
        (precise, h.n * c.t),
        (c.dtype, only(c.tensor.exchanges_heads(), rows * m.heads.out())),
        a,
        behind,
        behind_stats,
    ]
}

/// dn (R, D), d_o (T, N H), dqkv (T, (N+2K) H), da (R, D) of sandwich norms; where tokens are gathered the product's output or its
/// gradient, the input and its gradient (T, D); where heads are exchanged qkv, what is sent of it, o and what is sent of that.
pub fn attention_tmp(c: &Work) -> [(DType, usize); 11] {
    let (m, h, rows) = (c.model, c.attention_heads(), c.rows());
    let piece = |len| (c.dtype, len);
    let exchanged = only(c.tensor.exchanges_heads(), 1);
    let sent = |heads: Heads| exchanged * c.t * heads.part(c.tensor.size).qkv();
    let values = Heads { kv: 0, ..m.heads };
    [
        piece(rows * m.hidden),
        piece(c.t * h.out()),
        piece(c.t * h.qkv()),
        piece(only(m.sandwich_norms, rows * m.hidden)),
        c.full(c.gathers()),
        c.full(c.gathers() && c.tensor.mode == TensorMode::Fsp),
        c.full(c.gathers()),
        piece(exchanged * rows * m.heads.qkv()),
        piece(sent(m.heads)),
        piece(exchanged * rows * m.heads.out()),
        piece(sent(values)),
    ]
}

/// What the second half of a split backward needs of the first: the gradients of both products, the one of the output as
/// [`late_dy`] has it, and those of the vectors.
pub fn attention_late(c: &Work) -> [(DType, usize); 5] {
    let [da, dy, full] = late_dy(c);
    let vectors = (c.dtype.precise(), attention_vectors(c.model).iter().sum());
    [da, dy, full, (c.dtype, c.product_rows() * c.model.heads.qkv()), vectors]
}

/// x (R, D) -> y (R, D) = x + wo attention(rope(wqkv norm(x))). `cache` is read and written in cached phases.
pub fn attention_forward(
    dev: &mut Dev,
    mb: &MicroBatch,
    layer: usize,
    w: View,
    x: View,
    y: View,
    saved: View,
    tmp: View,
    cache: Option<View>,
) -> Result<(), CommError> {
    attention_inner(dev, mb, layer, w, x, saved, tmp, cache)?;
    let [.., o, _, o_rows, _, _, _] = saved.carve(attention_saved(&mb.work));
    let s = if mb.work.tensor.exchanges_heads() { o_rows } else { o };
    let [_, _, _, _, full, ..] = carve_tmp(tmp, attention_tmp(&mb.work));
    attention_out(mb, w, saved, full).outer(dev, mb, x, s, y)
}

/// x (R, D) -> saved
pub fn attention_inner(
    dev: &mut Dev,
    mb: &MicroBatch,
    layer: usize,
    w: View,
    x: View,
    saved: View,
    tmp: View,
    cache: Option<View>,
) -> Result<(), CommError> {
    let (c, m, scores, exchanged) = (&mb.work, mb.work.model, mb.scores(layer), mb.work.tensor.exchanges_heads());
    let [norm_w, _, _, qk_norm, wqkv, bqkv, _] = attention_weights(m, w);
    let [n, stats, kept, raw, raw_rstd, qkv, o, lse, o_rows, ..] = saved.carve(attention_saved(c));
    let [.., full, gathered, _, qkv_rows, sent, _, o_sent] = carve_tmp(tmp, attention_tmp(c));
    let Inputs { cu_seqlens, span, .. } = mb.inputs;

    norm(dev, m, x, norm_w, n, stats);
    let n = tensor::enter(dev, c, n, if kept.len > 0 { kept } else { gathered })?;
    let normed = if exchanged { qkv_rows } else { qkv };
    let projected = if m.qk_norm { raw } else { normed };
    linear(dev, n, wqkv, bqkv, None, projected, [c.product_rows(), m.hidden, m.heads.qkv()]);
    if m.qk_norm {
        let (heads, eps) = (m.heads, m.norm_eps);
        dev.run(Op::HeadNorm { x: raw, w: qk_norm, y: normed, rstd: raw_rstd, heads, eps });
    }
    if exchanged {
        tensor::to_heads(dev, m.heads, c.tensor.size, [qkv_rows, sent, qkv])?;
    }
    let (rotation, heads) = (mb.rotation(), c.attention_heads());
    dev.run(match cache {
        None => Op::Attention { qkv, cu_seqlens, rotation, o, lse, heads, scores },
        Some(cache) => Op::AttentionCached { qkv, span, rotation, cache, o, heads, scores },
    });
    if exchanged {
        tensor::to_rows(dev, Heads { kv: 0, ..m.heads }, c.tensor.size, [o, o_sent, o_rows])?;
    }
    attention_out(mb, w, saved, full).inner(dev, mb, if exchanged { o_rows } else { o })
}

fn attention_out(mb: &MicroBatch, w: View, saved: View, full: View) -> Out {
    let m = mb.work.model;
    let [_, bo, behind, .., wo] = attention_weights(m, w);
    let [.., a, n, stats] = saved.carve(attention_saved(&mb.work));
    let dims = [mb.work.product_rows(), m.heads.out(), m.hidden];
    Out { w: [wo, bo, behind], saved: [a, n, stats], full, dims }
}

/// dx, x (R, D) -> dx (R, D) in place, and the gradients of the bucket.
pub fn attention_backward(
    dev: &mut Dev,
    mb: &MicroBatch,
    layer: usize,
    w: View,
    dw: GradTo,
    x: View,
    dx: View,
    saved: View,
    tmp: View,
    half: Half,
    late: Option<View>,
) -> Result<(), CommError> {
    let (c, m, acc) = (&mb.work, mb.work.model, dw.acc);
    let (exchanged, parts) = (c.tensor.exchanges_heads(), c.tensor.size);
    let [norm_w, _, _, qk_norm, wqkv, ..] = attention_weights(m, w);
    let [_, _, _, _, dwqkv, dbqkv, dwo] = attention_weights(m, dw.view);
    let [n, stats, kept, raw, raw_rstd, qkv, o, lse, o_rows, ..] = saved.carve(attention_saved(c));
    let [dn, d_o, dqkv, da, full, again, dn_full, dqkv_rows, sent, d_o_rows, o_sent] = carve_tmp(tmp, attention_tmp(c));
    let [da, dy_kept, full, dprojected, vectors] = match late {
        None => [da, da.sub(0, 0), full, if exchanged { dqkv_rows } else { dqkv }, dw.view],
        Some(late) => late.carve(attention_late(c)),
    };
    let [dnorm, dbo, dbehind, dqk_norm] = vectors.split(attention_vectors(m));
    let vectors_acc = acc && late.is_none();
    let dqkv = if exchanged { dqkv } else { dprojected };
    let Inputs { cu_seqlens, .. } = mb.inputs;
    let (out, places) = (attention_out(mb, w, saved, full), [da, dy_kept]);
    let (s, ds) = if exchanged { (o_rows, d_o_rows) } else { (o, d_o) };
    let dims = [c.product_rows(), m.hidden, m.heads.qkv()];

    let (mut underway, mut regathered) = (None, None);
    if half.input() {
        out.backward_input(dev, mb, [dbo, dbehind], vectors_acc, dx, ds, places)?;
        if exchanged {
            tensor::to_heads(dev, Heads { kv: 0, ..m.heads }, parts, [d_o_rows, o_sent, d_o])?;
        }
        let (rotation, scores, heads) = (mb.rotation(), mb.scores(layer), c.attention_heads());
        dev.run(Op::AttentionBackward { qkv, cu_seqlens, rotation, o, lse, d_o, dqkv, heads, scores });
        if exchanged {
            tensor::to_rows(dev, m.heads, parts, [dqkv, sent, dprojected])?;
        }
        if m.qk_norm {
            let (heads, dqkv, acc) = (m.heads, dprojected, vectors_acc);
            dev.run(Op::HeadNormBackward { x: raw, w: qk_norm, rstd: raw_rstd, dqkv, dw: dqk_norm, heads, acc });
        }
        if half.weight() {
            regathered = enter_again(dev, c, n, kept, again)?;
        }
        let dx = tensor::before_enter(c, dn, dn_full);
        dev.run(Op::LinearBackwardInput { dy: dprojected, w: wqkv, dx, dims });
        underway = tensor::enter_backward(dev, c, dn, dn_full)?;
    }
    if half.weight() {
        if !half.input() {
            regathered = enter_again(dev, c, n, kept, again)?;
        }
        out.backward_weight(dev, mb, dwo, acc, dx, s, places);
        let n = entered(dev, n, kept, again, regathered)?;
        linear_backward_weight(dev, dprojected, n, [dwqkv, dbqkv], dims, acc);
        if late.is_some() {
            add_vectors(dev, vectors, dw);
        }
    }
    if let Some(underway) = underway {
        dev.finish(underway)?;
    }
    if half.input() {
        norm_backward(dev, m, x, norm_w, stats, dn, dx, GradTo { view: dnorm, acc: vectors_acc });
    }
    Ok(())
}
