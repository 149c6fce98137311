//! The two half-blocks of a layer: x + attention(norm(x)) and x + mlp(norm(x)). Forward and backward stand together.
//!
//! Every tensor is a view that the caller has placed: `w` is the unit's bucket, `saved` what forward keeps for backward,
//! `tmp` what backward needs meanwhile. A piece that the model does not need is empty. The gradient of the residual
//! stream, `dx` (T, D), enters a backward as the gradient of the output and leaves it as the gradient of the input, in
//! place.
//!
//! A forward has two parts. The inner one fills `saved` and is all that a recomputation needs; the outer one makes the
//! output of it.
use crate::parts::{Out, linear, linear_backward, norm, norm_backward};
use crate::{AttentionBias, Decoder, Inputs, Phase, Position, Rope};
use backend::{Backend, DType, Op, Rotation, View};

/// A micro-batch of T tokens on its way through the model.
#[derive(Clone, Copy)]
pub struct MicroBatch<'a> {
    pub model: &'a Decoder,
    pub phase: Phase,
    pub t: usize,
    /// Of the activations.
    pub dtype: DType,
    pub inputs: Inputs,
    /// (P, H) cosines and sines; empty without RoPE.
    pub rope_table: View,
}

impl MicroBatch<'_> {
    fn rotation(&self) -> Option<Rotation> {
        match self.model.position {
            Position::Rope(Rope { pairs, .. }) => {
                Some(Rotation { positions: self.inputs.positions, table: self.rope_table, pairs })
            }
            Position::Alibi => None,
        }
    }
}

/// Where a weight gradient goes: `acc` adds to what is there.
#[derive(Clone, Copy)]
pub struct GradTo {
    pub view: View,
    pub acc: bool,
}

/// Elements of a piece that not every model has.
fn only(needed: bool, len: usize) -> usize {
    if needed { len } else { 0 }
}

/// What a half-block keeps for its `Out`: a (T, D), n (T, D), stats.
fn out_saved(m: &Decoder, t: usize, dtype: DType) -> [(DType, usize); 3] {
    let (td, stats) = (only(m.sandwich_norms, t * m.hidden), only(m.sandwich_norms, m.norm_stats(t)));
    [(dtype, td), (dtype, td), (dtype.precise(), stats)]
}

// ---- attention -----------------------------------------------------------------------------------------------------

/// Parameters, or their gradients: norm, wqkv ((N+2K) H, D), bqkv ((N+2K) H), qk_norm (2, H), wo (D, N H), bo (D), norm
/// behind it.
fn attention_weights(m: &Decoder, w: View) -> [View; 7] {
    let (d, qkv) = (m.hidden, m.heads.qkv());
    let (bqkv, bo) = match m.attention_bias {
        AttentionBias::None => (0, 0),
        AttentionBias::Qkv => (qkv, 0),
        AttentionBias::All => (qkv, d),
    };
    let (qk_norm, behind) = (only(m.qk_norm, 2 * m.heads.dim), only(m.sandwich_norms, m.norm_len()));
    w.split([m.norm_len(), qkv * d, bqkv, qk_norm, d * m.heads.out(), bo, behind])
}

/// n (T, D), stats, raw (T, (N+2K) H) before qk_norm, rstd (T, N+K) of it, qkv (T, (N+2K) H) rotated, o (T, N H),
/// lse (N, T), and the three of `Out`.
pub fn attention_saved(m: &Decoder, t: usize, dtype: DType) -> [(DType, usize); 10] {
    let (h, precise) = (m.heads, dtype.precise());
    let [a, behind, behind_stats] = out_saved(m, t, dtype);
    [
        (dtype, t * m.hidden),
        (precise, m.norm_stats(t)),
        (dtype, only(m.qk_norm, t * h.qkv())),
        (precise, only(m.qk_norm, t * (h.n + h.kv))),
        (dtype, t * h.qkv()),
        (dtype, t * h.out()),
        (precise, h.n * t),
        a,
        behind,
        behind_stats,
    ]
}

/// dn (T, D), dqkv (T, (N+2K) H), d_o (T, N H)
pub fn attention_tmp(m: &Decoder, t: usize, dtype: DType) -> [(DType, usize); 3] {
    [t * m.hidden, t * m.heads.qkv(), t * m.heads.out()].map(|len| (dtype, len))
}

/// x (T, D) -> y (T, D) = x + wo attention(rope(wqkv norm(x))). `cache` is read and written in cached phases.
pub fn attention_forward(
    dev: &mut dyn Backend,
    mb: &MicroBatch,
    layer: usize,
    w: View,
    x: View,
    y: View,
    saved: View,
    cache: Option<View>,
) {
    attention_inner(dev, mb, layer, w, x, saved, cache);
    attention_outer(dev, mb, w, x, y, saved);
}

/// x (T, D) -> saved
pub fn attention_inner(
    dev: &mut dyn Backend,
    mb: &MicroBatch,
    layer: usize,
    w: View,
    x: View,
    saved: View,
    cache: Option<View>,
) {
    let (m, t, heads, scores) = (mb.model, mb.t, mb.model.heads, mb.model.scores(layer));
    let [norm_w, wqkv, bqkv, qk_norm, ..] = attention_weights(m, w);
    let [n, stats, raw, raw_rstd, qkv, o, lse, ..] = saved.carve(attention_saved(m, t, mb.dtype));
    let Inputs { cu_seqlens, span, .. } = mb.inputs;

    norm(dev, m, x, norm_w, n, stats);
    let raw = if m.qk_norm { raw } else { qkv };
    linear(dev, n, wqkv, bqkv, None, raw, [t, m.hidden, heads.qkv()]);
    if m.qk_norm {
        dev.run(Op::HeadNorm { x: raw, w: qk_norm, y: qkv, rstd: raw_rstd, heads, eps: m.norm_eps });
    }
    let rotation = mb.rotation();
    dev.run(match cache {
        None => Op::Attention { qkv, cu_seqlens, rotation, o, lse, heads, scores },
        Some(cache) => Op::AttentionCached { qkv, span, rotation, cache, o, heads, scores },
    });
    attention_out(mb, w, saved).inner(dev, m, o);
}

/// x (T, D), saved -> y (T, D)
pub fn attention_outer(dev: &mut dyn Backend, mb: &MicroBatch, w: View, x: View, y: View, saved: View) {
    let [_, _, _, _, _, o, ..] = saved.carve(attention_saved(mb.model, mb.t, mb.dtype));
    attention_out(mb, w, saved).outer(dev, mb.model, x, o, y);
}

fn attention_out(mb: &MicroBatch, w: View, saved: View) -> Out {
    let (m, t) = (mb.model, mb.t);
    let [.., wo, bo, behind] = attention_weights(m, w);
    let [.., a, n, stats] = saved.carve(attention_saved(m, t, mb.dtype));
    Out { w: [wo, bo, behind], saved: [a, n, stats], dims: [t, m.heads.out(), m.hidden] }
}

/// dx, x (T, D) -> dx (T, D) in place, and the gradients of the bucket.
pub fn attention_backward(
    dev: &mut dyn Backend,
    mb: &MicroBatch,
    layer: usize,
    w: View,
    dw: GradTo,
    x: View,
    dx: View,
    saved: View,
    tmp: View,
) {
    let (m, t, acc) = (mb.model, mb.t, dw.acc);
    let (heads, scores) = (m.heads, m.scores(layer));
    let [norm_w, wqkv, _, qk_norm, ..] = attention_weights(m, w);
    let [dnorm, dwqkv, dbqkv, dqk_norm, dwo, dbo, dbehind] = attention_weights(m, dw.view);
    let [n, stats, raw, raw_rstd, qkv, o, lse, ..] = saved.carve(attention_saved(m, t, mb.dtype));
    let [dn, dqkv, d_o] = tmp.carve(attention_tmp(m, t, mb.dtype));
    let Inputs { cu_seqlens, .. } = mb.inputs;

    attention_out(mb, w, saved).backward(dev, m, [dwo, dbo, dbehind], acc, dx, o, d_o, dn);
    let rotation = mb.rotation();
    dev.run(Op::AttentionBackward { qkv, cu_seqlens, rotation, o, lse, d_o, dqkv, heads, scores });
    if m.qk_norm {
        dev.run(Op::HeadNormBackward { x: raw, w: qk_norm, rstd: raw_rstd, dqkv, dw: dqk_norm, heads, acc });
    }
    linear_backward(dev, dqkv, n, wqkv, dn, [dwqkv, dbqkv], [t, m.hidden, heads.qkv()], acc);
    norm_backward(dev, m, x, norm_w, stats, dn, dx, GradTo { view: dnorm, acc });
}

// ---- MLP -----------------------------------------------------------------------------------------------------------
// G is 2F with a gate, else F.

/// Parameters, or their gradients: norm, win (G, D) = gate | up or up, bin (G), wdown (D, F), bdown (D), norm behind it.
fn mlp_weights(m: &Decoder, w: View) -> [View; 6] {
    let (d, f, g) = (m.hidden, m.ffn, m.mlp_in());
    let behind = only(m.sandwich_norms, m.norm_len());
    w.split([m.norm_len(), g * d, only(m.mlp.bias, g), d * f, only(m.mlp.bias, d), behind])
}

/// n (T, D), stats, h (T, G), s (T, F), and the three of `Out`.
pub fn mlp_saved(m: &Decoder, t: usize, dtype: DType) -> [(DType, usize); 7] {
    let [a, behind, behind_stats] = out_saved(m, t, dtype);
    [
        (dtype, t * m.hidden),
        (dtype.precise(), m.norm_stats(t)),
        (dtype, t * m.mlp_in()),
        (dtype, t * m.ffn),
        a,
        behind,
        behind_stats,
    ]
}

/// dn (T, D), ds (T, F)
pub fn mlp_tmp(m: &Decoder, t: usize, dtype: DType) -> [(DType, usize); 2] {
    [t * m.hidden, t * m.ffn].map(|len| (dtype, len))
}

/// x (T, D) -> y (T, D) = x + wdown f(win norm(x))
pub fn mlp_forward(dev: &mut dyn Backend, mb: &MicroBatch, w: View, x: View, y: View, saved: View) {
    mlp_inner(dev, mb, w, x, saved);
    mlp_outer(dev, mb, w, x, y, saved);
}

/// x (T, D) -> saved
pub fn mlp_inner(dev: &mut dyn Backend, mb: &MicroBatch, w: View, x: View, saved: View) {
    let (m, t) = (mb.model, mb.t);
    let [norm_w, win, bin, ..] = mlp_weights(m, w);
    let [n, stats, h, s, ..] = saved.carve(mlp_saved(m, t, mb.dtype));

    norm(dev, m, x, norm_w, n, stats);
    linear(dev, n, win, bin, None, h, [t, m.hidden, m.mlp_in()]);
    dev.run(match m.mlp.gated {
        true => Op::Gated { h, s, f: m.ffn, by: m.mlp.by },
        false => Op::Activation { h, s, by: m.mlp.by },
    });
    mlp_out(mb, w, saved).inner(dev, m, s);
}

/// x (T, D), saved -> y (T, D)
pub fn mlp_outer(dev: &mut dyn Backend, mb: &MicroBatch, w: View, x: View, y: View, saved: View) {
    let [_, _, _, s, ..] = saved.carve(mlp_saved(mb.model, mb.t, mb.dtype));
    mlp_out(mb, w, saved).outer(dev, mb.model, x, s, y);
}

fn mlp_out(mb: &MicroBatch, w: View, saved: View) -> Out {
    let (m, t) = (mb.model, mb.t);
    let [.., wdown, bdown, behind] = mlp_weights(m, w);
    let [.., a, n, stats] = saved.carve(mlp_saved(m, t, mb.dtype));
    Out { w: [wdown, bdown, behind], saved: [a, n, stats], dims: [t, m.ffn, m.hidden] }
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
    let [norm_w, win, ..] = mlp_weights(m, w);
    let [dnorm, dwin, dbin, dwdown, dbdown, dbehind] = mlp_weights(m, dw.view);
    let [n, stats, h, s, ..] = saved.carve(mlp_saved(m, t, mb.dtype));
    let [dn, ds] = tmp.carve(mlp_tmp(m, t, mb.dtype));

    mlp_out(mb, w, saved).backward(dev, m, [dwdown, dbdown, dbehind], acc, dx, s, ds, dn);
    dev.run(match m.mlp.gated {
        true => Op::GatedBackward { h, ds, f: m.ffn, by: m.mlp.by },
        false => Op::ActivationBackward { h, ds, by: m.mlp.by },
    });
    linear_backward(dev, h, n, win, dn, [dwin, dbin], [t, m.hidden, m.mlp_in()], acc);
    norm_backward(dev, m, x, norm_w, stats, dn, dx, GradTo { view: dnorm, acc });
}
