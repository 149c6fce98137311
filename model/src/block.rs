//! The two half-blocks of a layer: x + attention(norm(x)) and x + mlp(norm(x)). Forward and backward stand together.
//!
//! Every tensor is a view that the caller has placed: `w` is the unit's bucket, `saved` what forward keeps for backward,
//! `tmp` what backward needs meanwhile. The gradient of the residual stream, `dx` (T, D), enters a backward as the
//! gradient of the output and leaves it as the gradient of the input, in place.
use crate::{Decoder, Inputs, Phase};
use backend::{Backend, Op, View};

/// A micro-batch of T tokens on its way through the model.
#[derive(Clone, Copy)]
pub struct MicroBatch<'a> {
    pub model: &'a Decoder,
    pub phase: Phase,
    pub t: usize,
    pub inputs: Inputs,
    /// (P, H) cosines and sines.
    pub rope_table: View,
}

/// Where a weight gradient goes: `acc` adds to what is there.
#[derive(Clone, Copy)]
pub struct GradTo {
    pub view: View,
    pub acc: bool,
}

// ---- attention -----------------------------------------------------------------------------------------------------

/// Parameters, or their gradients: norm (D), wqkv ((N+2K) H, D), wo (D, N H).
fn attention_weights(m: &Decoder, w: View) -> [View; 3] {
    let d = m.hidden;
    w.split([d, m.heads.qkv() * d, d * m.heads.out()])
}

/// n (T, D), rstd (T), qkv (T, (N+2K) H) rotated, o (T, N H), lse (N, T)
pub fn attention_saved(m: &Decoder, t: usize) -> [usize; 5] {
    [t * m.hidden, t, t * m.heads.qkv(), t * m.heads.out(), m.heads.n * t]
}

/// dn (T, D), dqkv (T, (N+2K) H), d_o (T, N H)
pub fn attention_tmp(m: &Decoder, t: usize) -> [usize; 3] {
    [t * m.hidden, t * m.heads.qkv(), t * m.heads.out()]
}

/// x (T, D) -> y (T, D) = x + wo attention(rope(wqkv norm(x))). `cache` is read and written in cached phases.
pub fn attention_forward(
    dev: &mut dyn Backend,
    mb: &MicroBatch,
    w: View,
    x: View,
    y: View,
    saved: View,
    cache: Option<View>,
) {
    let (m, t, heads) = (mb.model, mb.t, mb.model.heads);
    let [norm, wqkv, wo] = attention_weights(m, w);
    let [n, rstd, qkv, o, lse] = saved.split(attention_saved(m, t));
    let Inputs { positions, cu_seqlens, span, .. } = mb.inputs;

    dev.run(Op::RmsNorm { x, w: norm, y: n, rstd, eps: m.norm_eps });
    dev.run(Op::Linear { x: n, w: wqkv, y: qkv, dims: [t, m.hidden, heads.qkv()], acc: false });
    dev.run(Op::Rope { qkv, positions, table: mb.rope_table, heads, inverse: false });
    dev.run(match cache {
        None => Op::Attention { qkv, cu_seqlens, o, lse, heads },
        Some(cache) => Op::AttentionCached { qkv, span, cache, o, heads },
    });
    dev.run(Op::Copy { x, y });
    dev.run(Op::Linear { x: o, w: wo, y, dims: [t, heads.out(), m.hidden], acc: true });
}

/// dx, x (T, D) -> dx (T, D) in place, and the gradients of the bucket.
pub fn attention_backward(
    dev: &mut dyn Backend,
    mb: &MicroBatch,
    w: View,
    dw: GradTo,
    x: View,
    dx: View,
    saved: View,
    tmp: View,
) {
    let (m, t, heads, acc) = (mb.model, mb.t, mb.model.heads, dw.acc);
    let [norm, wqkv, wo] = attention_weights(m, w);
    let [dnorm, dwqkv, dwo] = attention_weights(m, dw.view);
    let [n, rstd, qkv, o, lse] = saved.split(attention_saved(m, t));
    let [dn, dqkv, d_o] = tmp.split(attention_tmp(m, t));
    let Inputs { positions, cu_seqlens, .. } = mb.inputs;

    let dims = [t, heads.out(), m.hidden];
    dev.run(Op::LinearBackwardInput { dy: dx, w: wo, dx: d_o, dims });
    dev.run(Op::LinearBackwardWeight { dy: dx, x: o, dw: dwo, dims, acc });
    dev.run(Op::AttentionBackward { qkv, cu_seqlens, o, lse, d_o, dqkv, heads });
    dev.run(Op::Rope { qkv: dqkv, positions, table: mb.rope_table, heads, inverse: true });
    let dims = [t, m.hidden, heads.qkv()];
    dev.run(Op::LinearBackwardInput { dy: dqkv, w: wqkv, dx: dn, dims });
    dev.run(Op::LinearBackwardWeight { dy: dqkv, x: n, dw: dwqkv, dims, acc });
    dev.run(Op::RmsNormBackward { x, w: norm, rstd, dy: dn, dx, dw: dnorm, acc });
}

// ---- MLP -----------------------------------------------------------------------------------------------------------

/// Parameters, or their gradients: norm (D), wgu (2F, D) = gate | up, wdown (D, F).
fn mlp_weights(m: &Decoder, w: View) -> [View; 3] {
    let (d, f) = (m.hidden, m.ffn);
    w.split([d, 2 * f * d, d * f])
}

/// n (T, D), rstd (T), h (T, 2F), s (T, F)
pub fn mlp_saved(m: &Decoder, t: usize) -> [usize; 4] {
    [t * m.hidden, t, 2 * t * m.ffn, t * m.ffn]
}

/// dn (T, D), dh (T, 2F), ds (T, F)
pub fn mlp_tmp(m: &Decoder, t: usize) -> [usize; 3] {
    [t * m.hidden, 2 * t * m.ffn, t * m.ffn]
}

/// x (T, D) -> y (T, D) = x + wdown swiglu(wgu norm(x))
pub fn mlp_forward(dev: &mut dyn Backend, mb: &MicroBatch, w: View, x: View, y: View, saved: View) {
    let (m, t) = (mb.model, mb.t);
    let [norm, wgu, wdown] = mlp_weights(m, w);
    let [n, rstd, h, s] = saved.split(mlp_saved(m, t));

    dev.run(Op::RmsNorm { x, w: norm, y: n, rstd, eps: m.norm_eps });
    dev.run(Op::Linear { x: n, w: wgu, y: h, dims: [t, m.hidden, 2 * m.ffn], acc: false });
    dev.run(Op::SwiGlu { h, s, f: m.ffn });
    dev.run(Op::Copy { x, y });
    dev.run(Op::Linear { x: s, w: wdown, y, dims: [t, m.ffn, m.hidden], acc: true });
}

/// dx, x (T, D) -> dx (T, D) in place, and the gradients of the bucket.
pub fn mlp_backward(
    dev: &mut dyn Backend,
    mb: &MicroBatch,
    w: View,
    dw: GradTo,
    x: View,
    dx: View,
    saved: View,
    tmp: View,
) {
    let (m, t, acc) = (mb.model, mb.t, dw.acc);
    let [norm, wgu, wdown] = mlp_weights(m, w);
    let [dnorm, dwgu, dwdown] = mlp_weights(m, dw.view);
    let [n, rstd, h, s] = saved.split(mlp_saved(m, t));
    let [dn, dh, ds] = tmp.split(mlp_tmp(m, t));

    let dims = [t, m.ffn, m.hidden];
    dev.run(Op::LinearBackwardInput { dy: dx, w: wdown, dx: ds, dims });
    dev.run(Op::LinearBackwardWeight { dy: dx, x: s, dw: dwdown, dims, acc });
    dev.run(Op::SwiGluBackward { h, ds, dh, f: m.ffn });
    let dims = [t, m.hidden, 2 * m.ffn];
    dev.run(Op::LinearBackwardInput { dy: dh, w: wgu, dx: dn, dims });
    dev.run(Op::LinearBackwardWeight { dy: dh, x: n, dw: dwgu, dims, acc });
    dev.run(Op::RmsNormBackward { x, w: norm, rstd, dy: dn, dx, dw: dnorm, acc });
}
