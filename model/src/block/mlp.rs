//! x + wdown f(win norm(x)), forward and backward. G is 2F with a gate, else F.
use super::{GradTo, Half, MicroBatch, add_vectors, carve_tmp, enter_again, entered, late_dy, only, out_saved};
use crate::parts::{Out, linear, linear_backward_weight, norm, norm_backward};
use crate::tensor::{self, Dev, Work};
use crate::{Decoder, TensorMode};
use backend::{DType, Op, View};
use comm::CommError;

/// Parameters, or their gradients: norm, bdown (D), norm behind it, win (G, D) = gate | up or up, bin (G), wdown (D, F).
fn mlp_weights(m: &Decoder, w: View) -> [View; 6] {
    let (d, f, g) = (m.hidden, m.ffn, m.mlp_in());
    let [norm, bdown, behind] = mlp_vectors(m);
    w.split([norm, bdown, behind, g * d, only(m.mlp.bias, g), d * f])
}

/// Those of them that are vectors.
fn mlp_vectors(m: &Decoder) -> [usize; 3] {
    [m.norm_len(), only(m.mlp.bias, m.hidden), only(m.sandwich_norms, m.norm_len())]
}

/// n (R, D), stats, gathered n (T, D), h (T, G), s (T, F), and the three of `Out`.
pub fn mlp_saved(c: &Work) -> [(DType, usize); 8] {
    let (m, rows, t) = (c.model, c.rows(), c.product_rows());
    let [a, behind, behind_stats] = out_saved(c);
    [
        (c.dtype, rows * m.hidden),
        (c.dtype.precise(), m.norm_stats(rows)),
        c.full(c.gathers() && c.tensor.mode == TensorMode::Msp),
        (c.dtype, t * m.mlp_in()),
        (c.dtype, t * m.ffn),
        a,
        behind,
        behind_stats,
    ]
}

/// dn (R, D), ds (T, F), da (R, D) of sandwich norms; where tokens are gathered the product's output or its gradient, the input
/// and its gradient (T, D).
pub fn mlp_tmp(c: &Work) -> [(DType, usize); 6] {
    let (m, rows) = (c.model, c.rows());
    let piece = |len| (c.dtype, len);
    [
        piece(rows * m.hidden),
        piece(c.product_rows() * m.ffn),
        piece(only(m.sandwich_norms, rows * m.hidden)),
        c.full(c.gathers()),
        c.full(c.gathers() && c.tensor.mode == TensorMode::Fsp),
        c.full(c.gathers()),
    ]
}

/// As [`attention_late`]; the gradient of the first product is in `saved`.
pub fn mlp_late(c: &Work) -> [(DType, usize); 4] {
    let [da, dy, full] = late_dy(c);
    [da, dy, full, (c.dtype.precise(), mlp_vectors(c.model).iter().sum())]
}

/// x (R, D) -> y (R, D) = x + wdown f(win norm(x))
pub fn mlp_forward(
    dev: &mut Dev,
    mb: &MicroBatch,
    w: View,
    x: View,
    y: View,
    saved: View,
    tmp: View,
) -> Result<(), CommError> {
    mlp_inner(dev, mb, w, x, saved, tmp)?;
    let [_, _, _, _, s, ..] = saved.carve(mlp_saved(&mb.work));
    let [_, _, _, full, ..] = carve_tmp(tmp, mlp_tmp(&mb.work));
    mlp_out(mb, w, saved, full).outer(dev, mb, x, s, y)
}

/// x (R, D) -> saved
pub fn mlp_inner(dev: &mut Dev, mb: &MicroBatch, w: View, x: View, saved: View, tmp: View) -> Result<(), CommError> {
    let (c, m) = (&mb.work, mb.work.model);
    let [norm_w, _, _, win, bin, _] = mlp_weights(m, w);
    let [n, stats, kept, h, s, ..] = saved.carve(mlp_saved(c));
    let [.., full, gathered, _] = carve_tmp(tmp, mlp_tmp(c));

    norm(dev, m, x, norm_w, n, stats);
    let n = tensor::enter(dev, c, n, if kept.len > 0 { kept } else { gathered })?;
    linear(dev, n, win, bin, None, h, [c.product_rows(), m.hidden, m.mlp_in()]);
    dev.run(match m.mlp.gated {
        true => Op::Gated { h, s, f: m.ffn, by: m.mlp.by },
        false => Op::Activation { h, s, by: m.mlp.by },
    });
    mlp_out(mb, w, saved, full).inner(dev, mb, s)
}

fn mlp_out(mb: &MicroBatch, w: View, saved: View, full: View) -> Out {
    let m = mb.work.model;
    let [_, bdown, behind, .., wdown] = mlp_weights(m, w);
    let [.., a, n, stats] = saved.carve(mlp_saved(&mb.work));
    let dims = [mb.work.product_rows(), m.ffn, m.hidden];
    Out { w: [wdown, bdown, behind], saved: [a, n, stats], full, dims }
}

/// dx, x (R, D) -> dx (R, D) in place, and the gradients of the bucket.
pub fn mlp_backward(
    dev: &mut Dev,
    mb: &MicroBatch,
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
    let [norm_w, _, _, win, ..] = mlp_weights(m, w);
    let [_, _, _, dwin, dbin, dwdown] = mlp_weights(m, dw.view);
    let [n, stats, kept, h, s, ..] = saved.carve(mlp_saved(c));
    let [dn, ds, da, full, again, dn_full] = carve_tmp(tmp, mlp_tmp(c));
    let [da, dy_kept, full, vectors] = match late {
        None => [da, da.sub(0, 0), full, dw.view],
        Some(late) => late.carve(mlp_late(c)),
    };
    let [dnorm, dbdown, dbehind] = vectors.split(mlp_vectors(m));
    let vectors_acc = acc && late.is_none();
    let (out, places) = (mlp_out(mb, w, saved, full), [da, dy_kept]);
    let dims = [c.product_rows(), m.hidden, m.mlp_in()];

    let (mut underway, mut regathered) = (None, None);
    if half.input() {
        out.backward_input(dev, mb, [dbdown, dbehind], vectors_acc, dx, ds, places)?;
        dev.run(match m.mlp.gated {
            true => Op::GatedBackward { h, ds, f: m.ffn, by: m.mlp.by },
            false => Op::ActivationBackward { h, ds, by: m.mlp.by },
        });
        if half.weight() {
            regathered = enter_again(dev, c, n, kept, again)?;
        }
        dev.run(Op::LinearBackwardInput { dy: h, w: win, dx: tensor::before_enter(c, dn, dn_full), dims });
        underway = tensor::enter_backward(dev, c, dn, dn_full)?;
    }
    if half.weight() {
        if !half.input() {
            regathered = enter_again(dev, c, n, kept, again)?;
        }
        out.backward_weight(dev, mb, dwdown, acc, dx, s, places);
        let n = entered(dev, n, kept, again, regathered)?;
        linear_backward_weight(dev, h, n, [dwin, dbin], dims, acc);
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
