//! What half-blocks and the head are made of: a norm, a linear layer, and what is added to the residual stream.
//!
//! A parameter that the model does not have is an empty view.
use crate::block::{GradTo, MicroBatch};
use crate::tensor::{self, Dev};
use crate::{Decoder, NormKind};
use backend::{Op, View};
use comm::{Coll, CommError};

/// x (T, D), w (`norm_len`) -> y (T, D), stats (`norm_stats`)
pub(crate) fn norm(dev: &mut Dev, m: &Decoder, x: View, w: View, y: View, stats: View) {
    let (d, eps) = (m.hidden, m.norm_eps);
    dev.run(match m.norm {
        NormKind::Rms => Op::RmsNorm { x, w, y, rstd: stats, eps, offset: 0.0 },
        NormKind::RmsPlusOne => Op::RmsNorm { x, w, y, rstd: stats, eps, offset: 1.0 },
        NormKind::Layer => Op::LayerNorm { x, w: w.sub(0, d), b: w.sub(d, d), y, stats, eps },
    });
}

/// x, dy (T, D), w, stats -> dx (T, D) +=, dw
pub(crate) fn norm_backward(
    dev: &mut Dev,
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
pub(crate) fn linear(dev: &mut Dev, x: View, w: View, b: View, add: Option<View>, y: View, dims: [usize; 3]) {
    dev.run(Op::Linear { x, w, add, y, dims });
    if b.len > 0 {
        dev.run(Op::AddBias { b, y });
    }
}

/// dy (T, F), x (T, D) -> dw (F, D), db (F) or empty
pub(crate) fn linear_backward_weight(
    dev: &mut Dev,
    dy: View,
    x: View,
    [dw, db]: [View; 2],
    dims: [usize; 3],
    acc: bool,
) {
    dev.run(Op::LinearBackwardWeight { dy, x, dw, dims, scale: 1.0, acc });
    bias_backward(dev, dy, db, acc);
}

/// dy (T, F) -> db (F) or empty
fn bias_backward(dev: &mut Dev, dy: View, db: View, acc: bool) {
    if db.len > 0 {
        dev.run(Op::BiasBackward { dy, db, acc });
    }
}

/// The end of a half-block: what comes out of it, s (T, F), is projected to the residual stream. Between sandwich norms
/// it is normalised once more before it is added.
pub(crate) struct Out {
    /// w (D, F), b (D) or empty, norm (`norm_len`) or empty
    pub w: [View; 3],
    /// a (rows, D) = w s + b, n (rows, D) = norm(a), stats; empty without sandwich norms.
    pub saved: [View; 3],
    /// (T, D), where the tokens of a half-block are gathered; else empty.
    pub full: View,
    /// [T, F, D]
    pub dims: [usize; 3],
}

impl Out {
    /// s (T, F) -> what backward needs of the second norm
    pub fn inner(&self, dev: &mut Dev, mb: &MicroBatch, s: View) -> Result<(), CommError> {
        let ([.., norm_w], [a, n, stats]) = (self.w, self.saved);
        if mb.work.model.sandwich_norms {
            self.project(dev, mb, s, None, a)?;
            norm(dev, mb.work.model, a, norm_w, n, stats);
        }
        Ok(())
    }

    /// x (rows, D), s (T, F) -> y (rows, D)
    pub fn outer(&self, dev: &mut Dev, mb: &MicroBatch, x: View, s: View, y: View) -> Result<(), CommError> {
        let [_, n, _] = self.saved;
        if mb.work.model.sandwich_norms {
            dev.run(Op::Copy { x, y });
            dev.run(Op::Add { x: n, y });
            return Ok(());
        }
        self.project(dev, mb, s, Some(x), y)
    }

    /// s (T, F), `add` (rows, D) -> y (rows, D) = add + s wᵀ + b, summed over the group
    fn project(&self, dev: &mut Dev, mb: &MicroBatch, s: View, add: Option<View>, y: View) -> Result<(), CommError> {
        let [w, b, _] = self.w;
        let b = if tensor::adds(mb) { b } else { b.sub(0, 0) };
        if mb.work.gathers() {
            linear(dev, s, w, b, None, self.full, self.dims);
            tensor::leave(dev, &mb.work, y, self.full)?;
            if let Some(x) = add {
                dev.run(Op::Add { x, y });
            }
            return Ok(());
        }
        linear(dev, s, w, b, add.filter(|_| tensor::adds(mb)), y, self.dims);
        tensor::leave(dev, &mb.work, y, self.full)
    }

    /// dy (rows, D) -> ds (T, F), and the gradients of b and norm. The gradient of the product, where the weight's part finds
    /// it, is `full`, da (rows, D) of sandwich norms, or `kept` (rows, D) when dy will be gone by then.
    pub fn backward_input(
        &self,
        dev: &mut Dev,
        mb: &MicroBatch,
        [db, dnorm]: [View; 2],
        acc: bool,
        dy: View,
        ds: View,
        [da, kept]: [View; 2],
    ) -> Result<(), CommError> {
        let ([w, _, norm_w], [a, _, stats], m) = (self.w, self.saved, mb.work.model);
        let dy = if m.sandwich_norms {
            dev.run(Op::Fill { y: da, value: 0.0 });
            norm_backward(dev, m, a, norm_w, stats, dy, da, GradTo { view: dnorm, acc });
            da
        } else {
            dy
        };
        bias_backward(dev, dy, db, acc);
        if mb.work.gathers() {
            dev.collect(Coll::AllGather, Some(dy), self.full)?;
        } else if kept.len > 0 && !m.sandwich_norms {
            dev.run(Op::Copy { x: dy, y: kept });
        }
        let dy = self.product(mb, dy, [da, kept]);
        dev.run(Op::LinearBackwardInput { dy, w, dx: ds, dims: self.dims });
        Ok(())
    }

    /// s (T, F) -> the gradient of w, after `backward_input`
    pub fn backward_weight(
        &self,
        dev: &mut Dev,
        mb: &MicroBatch,
        dw: View,
        acc: bool,
        dy: View,
        s: View,
        places: [View; 2],
    ) {
        let (dy, dims) = (self.product(mb, dy, places), self.dims);
        dev.run(Op::LinearBackwardWeight { dy, x: s, dw, dims, scale: 1.0, acc });
    }

    /// Where the gradient of the product is.
    fn product(&self, mb: &MicroBatch, dy: View, [da, kept]: [View; 2]) -> View {
        match mb.work.gathers() {
            true => self.full,
            false if mb.work.model.sandwich_norms => da,
            false if kept.len > 0 => kept,
            false => dy,
        }
    }
}
