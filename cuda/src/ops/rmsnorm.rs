//! y = x rstd (w + offset), rstd = 1 / sqrt(mean(x²) + eps) (Zhang & Sennrich 2019).
use super::RMSNORM;
use crate::work::{Lowering, vector};
use backend::{DType, View};

/// A block for each row.
pub fn forward(l: &mut Lowering, [x, w]: [View; 2], [y, rstd]: [View; 2], eps: f64, offset: f64) {
    let (t, d) = (rstd.len, w.len);
    l.launch(&RMSNORM, "rmsnorm")
        .real(x)
        .types([("X_T", x.dtype), ("W_T", w.dtype), ("Y_T", y.dtype), ("S_T", rstd.dtype)])
        .define("VEC", vector(d, &[x, w, y]))
        .grid(t)
        .block(threads(d))
        .with([x.into(), w.into(), y.into(), rstd.into(), d.into(), eps.into(), offset.into()]);
}

/// Threads for a row of so many numbers: about eight numbers each.
fn threads(d: usize) -> usize {
    (d / 8).next_multiple_of(32).clamp(32, 512)
}
