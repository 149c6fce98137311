//! A bias: y <- y + b, db = Σ over rows of dy.
use super::{BIAS, partials};
use crate::work::{Lowering, vector};
use backend::View;

/// b (F) -> y (T, F) +=
pub fn add(l: &mut Lowering, [b]: [View; 1], [y]: [View; 1]) {
    let f = b.len;
    assert!(y.len.is_multiple_of(f));
    l.launch(&BIAS, "add_bias")
        .real(y)
        .types([("B_T", b.dtype), ("Y_T", y.dtype)])
        .rows(f, &[b, y])
        .grid(y.len / f)
        .with([b.into(), y.into()]);
}

/// dy (T, F) -> db (F) = or +=
pub fn backward(l: &mut Lowering, [dy]: [View; 1], [db]: [View; 1], acc: bool) {
    /// Rows of a block: each of its eight warps has sixteen of them.
    const CHUNK: usize = 128;
    let (f, t) = (db.len, dy.len / db.len);
    assert_eq!(dy.len, t * f);
    let (vec, chunks) = (vector(f, &[dy]), t.div_ceil(CHUNK));
    let sums = l.scratch(dy.dtype.precise(), chunks * f);
    l.launch(&BIAS, "bias_backward")
        .real(dy)
        .types([("DY_T", dy.dtype)])
        .define("VEC", vec)
        .define("WIDTH", f)
        .define("BLOCK", 256)
        .define("CHUNK", CHUNK)
        .grid(chunks * f.div_ceil(32 * vec))
        .block(256)
        .with([dy.into(), sums.into(), (t as u32).into()]);
    partials::add(l, sums, chunks, db, acc);
}
