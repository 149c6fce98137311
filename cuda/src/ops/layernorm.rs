//! Layer norm (Ba et al. 2016).
//!
//! ```text
//! rstd = 1 / sqrt(mean((x - μ)²) + eps)        x̂ = (x - μ) rstd        y = x̂ w + b
//! dx   = rstd (w dy - mean(w dy) - x̂ mean(x̂ w dy))                     dw = Σ over rows of x̂ dy        db = Σ dy
//! ```
use super::{LAYERNORM, partials, rows};
use crate::work::Lowering;
use backend::View;

/// x (T, D), w, b (D) -> y (T, D), stats (2, T) = μ | rstd: a block for each row, which is read once.
pub fn forward(l: &mut Lowering, [x, w, b]: [View; 3], [y, stats]: [View; 2], eps: f64) {
    let (t, d) = (stats.len / 2, w.len);
    assert_eq!([x.len, y.len, b.len], [t * d, t * d, d]);
    l.launch(&LAYERNORM, "layernorm")
        .real(x)
        .types([("X_T", x.dtype), ("W_T", w.dtype), ("B_T", b.dtype), ("Y_T", y.dtype), ("S_T", stats.dtype)])
        .rows(d, &[x, w, b, y])
        .grid(t)
        .with([x.into(), w.into(), b.into(), y.into(), stats.into(), (t as u32).into(), eps.into()]);
}

/// x, dy (T, D), w (D), stats (2, T) -> dx (T, D) +=, dw, db (D) = or +=
pub fn backward(l: &mut Lowering, [x, w, stats, dy]: [View; 4], [dx, dw, db]: [View; 3], acc: bool) {
    let (t, d) = (stats.len / 2, w.len);
    assert_eq!([x.len, dy.len, dx.len], [t * d; 3]);
    assert_eq!([dw.len, db.len], [d; 2]);
    let blocks = rows::partials(t, d);
    let [dw_sums, db_sums] = [(); 2].map(|_| l.scratch(x.dtype.precise(), blocks * d));
    l.launch(&LAYERNORM, "layernorm_backward")
        .real(x)
        .types([("X_T", x.dtype), ("W_T", w.dtype), ("S_T", stats.dtype), ("DY_T", dy.dtype), ("DX_T", dx.dtype)])
        .rows(d, &[x, w, dy, dx])
        .grid(blocks)
        .with([
            x.into(),
            w.into(),
            stats.into(),
            dy.into(),
            dx.into(),
            dw_sums.into(),
            db_sums.into(),
            (t as u32).into(),
        ]);
    partials::add(l, dw_sums, blocks, dw, acc);
    partials::add(l, db_sums, blocks, db, acc);
}
