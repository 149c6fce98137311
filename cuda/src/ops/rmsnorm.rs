//! Root mean square norm (Zhang & Sennrich 2019).
//!
//! ```text
//! rstd = 1 / sqrt(mean(x²) + eps)        x̂ = x rstd        y = x̂ w,  where w is what is stored plus `offset`
//! dx   = rstd (w dy - x̂ mean(x̂ w dy))                      dw = Σ over rows of x̂ dy
//! ```
use super::{RMSNORM, partials, rows};
use crate::work::Lowering;
use backend::View;

/// x (T, D), w (D) -> y (T, D), rstd (T): a block for each row, which is read once.
pub fn forward(l: &mut Lowering, [x, w]: [View; 2], [y, rstd]: [View; 2], eps: f64, offset: f64) {
    let (t, d) = (rstd.len, w.len);
    assert_eq!([x.len, y.len], [t * d; 2]);
    l.launch(&RMSNORM, "rmsnorm")
        .real(x)
        .types([("X_T", x.dtype), ("W_T", w.dtype), ("Y_T", y.dtype), ("S_T", rstd.dtype)])
        .rows(d, &[x, w, y])
        .grid(t)
        .with([x.into(), w.into(), y.into(), rstd.into(), eps.into(), offset.into()]);
}

/// x, dy (T, D), w (D), rstd (T) -> dx (T, D) +=, dw (D) = or +=
pub fn backward(l: &mut Lowering, [x, w, rstd, dy]: [View; 4], [dx, dw]: [View; 2], offset: f64, acc: bool) {
    let (t, d) = (rstd.len, w.len);
    assert_eq!([x.len, dy.len, dx.len, dw.len], [t * d, t * d, t * d, d]);
    let blocks = rows::partials(t, d);
    let sums = l.scratch(x.dtype.precise(), blocks * d);
    l.launch(&RMSNORM, "rmsnorm_backward")
        .real(x)
        .types([("X_T", x.dtype), ("W_T", w.dtype), ("S_T", rstd.dtype), ("DY_T", dy.dtype), ("DX_T", dx.dtype)])
        .rows(d, &[x, w, dy, dx])
        .grid(blocks)
        .with([x.into(), w.into(), rstd.into(), dy.into(), dx.into(), sums.into(), (t as u32).into(), offset.into()]);
    partials::add(l, sums, blocks, dw, acc);
}
