//! What half-blocks and the head are made of: a norm, a linear layer, and what is added to the residual stream.
//!
//! A parameter that the model does not have is an empty view.
use crate::block::GradTo;
use crate::{Decoder, NormKind};
use backend::{Backend, Op, View};

/// x (T, D), w (`norm_len`) -> y (T, D), stats (`norm_stats`)
pub(crate) fn norm(dev: &mut dyn Backend, m: &Decoder, x: View, w: View, y: View, stats: View) {
    let (d, eps) = (m.hidden, m.norm_eps);
    dev.run(match m.norm {
        NormKind::Rms => Op::RmsNorm { x, w, y, rstd: stats, eps, offset: 0.0 },
        NormKind::RmsPlusOne => Op::RmsNorm { x, w, y, rstd: stats, eps, offset: 1.0 },
        NormKind::Layer => Op::LayerNorm { x, w: w.sub(0, d), b: w.sub(d, d), y, stats, eps },
    });
}

/// x, dy (T, D), w, stats -> dx (T, D) +=, dw
pub(crate) fn norm_backward(
    dev: &mut dyn Backend,
    m: &Decoder,
    x: View,
    w: View,
    stats: View,
    dy: View,
    dx: View,
    GradTo { view: dw, acc }: GradTo,
) {
    let d = m.hidden;
    dev.run(match m.norm {
        NormKind::Rms => Op::RmsNormBackward { x, w, rstd: stats, dy, dx, dw, offset: 0.0, acc },
        NormKind::RmsPlusOne => Op::RmsNormBackward { x, w, rstd: stats, dy, dx, dw, offset: 1.0, acc },
        NormKind::Layer => {
            let (w, [dw, db]) = (w.sub(0, d), dw.split([d, d]));
            Op::LayerNormBackward { x, w, stats, dy, dx, dw, db, acc }
        }
    });
}

/// x (T, D), w (F, D), b (F) or empty, `add` (T, F) -> y (T, F) = add + x wᵀ + b. `dims` is [T, D, F].
pub(crate) fn linear(dev: &mut dyn Backend, x: View, w: View, b: View, add: Option<View>, y: View, dims: [usize; 3]) {
    dev.run(Op::Linear { x, w, add, y, dims });
    if b.len > 0 {
        dev.run(Op::AddBias { b, y });
    }
}

/// dy (T, F), x (T, D), w (F, D) -> dx (T, D), dw (F, D), db (F) or empty
pub(crate) fn linear_backward(
    dev: &mut dyn Backend,
    dy: View,
    x: View,
    w: View,
    dx: View,
    [dw, db]: [View; 2],
    dims: [usize; 3],
    acc: bool,
) {
    dev.run(Op::LinearBackwardInput { dy, w, dx, dims });
    dev.run(Op::LinearBackwardWeight { dy, x, dw, dims, scale: 1.0, acc });
    if db.len > 0 {
        dev.run(Op::BiasBackward { dy, db, acc });
    }
}

/// The end of a half-block: what comes out of it, s (T, F), is projected to the residual stream. Between sandwich norms
/// it is normalised once more before it is added.
pub(crate) struct Out {
    /// w (D, F), b (D) or empty, norm (`norm_len`) or empty
    pub w: [View; 3],
    /// a (T, D) = w s + b, n (T, D) = norm(a), stats; empty without sandwich norms.
    pub saved: [View; 3],
    /// [T, F, D]
    pub dims: [usize; 3],
}

impl Out {
    /// s (T, F) -> what backward needs of the second norm
    pub fn inner(&self, dev: &mut dyn Backend, m: &Decoder, s: View) {
        let ([w, b, norm_w], [a, n, stats]) = (self.w, self.saved);
        if m.sandwich_norms {
            linear(dev, s, w, b, None, a, self.dims);
            norm(dev, m, a, norm_w, n, stats);
        }
    }

    /// x (T, D), s (T, F) -> y (T, D)
    pub fn outer(&self, dev: &mut dyn Backend, m: &Decoder, x: View, s: View, y: View) {
        let ([w, b, _], [_, n, _]) = (self.w, self.saved);
        if m.sandwich_norms {
            dev.run(Op::Copy { x, y });
            dev.run(Op::Add { x: n, y });
        } else {
            linear(dev, s, w, b, Some(x), y, self.dims);
        }
    }

    /// dy (T, D), s (T, F) -> ds (T, F), the gradients `dw` of `w`; da (T, D) is scratch.
    pub fn backward(
        &self,
        dev: &mut dyn Backend,
        m: &Decoder,
        [dw, db, dnorm]: [View; 3],
        acc: bool,
        dy: View,
        s: View,
        ds: View,
        da: View,
    ) {
        let ([w, _, norm_w], [a, _, stats]) = (self.w, self.saved);
        let dy = if m.sandwich_norms {
            dev.run(Op::Fill { y: da, value: 0.0 });
            norm_backward(dev, m, a, norm_w, stats, dy, da, GradTo { view: dnorm, acc });
            da
        } else {
            dy
        };
        linear_backward(dev, dy, s, w, ds, [dw, db], self.dims, acc);
    }
}
