//! Fill, convert, add, cap.
use super::ELEMENTWISE;
use crate::work::{Launching, Lowering, Place, vector};
use backend::{DType, View};

/// y = value
pub fn fill(l: &mut Lowering, [y]: [View; 1], value: f64) {
    over(l, "fill", y.into(), y.into(), y.len).with([y.into(), y.len.into(), value.into()]);
}

/// y = x, from one float type to another
pub fn convert(l: &mut Lowering, x: Place, y: Place, len: usize) {
    over(l, "convert", x, y, len).with([x.into(), y.into(), len.into()]);
}

/// y += x
pub fn add(l: &mut Lowering, [x]: [View; 1], [y]: [View; 1]) {
    assert_eq!(x.len, y.len);
    over(l, "add", x.into(), y.into(), y.len).with([x.into(), y.into(), y.len.into()]);
}

/// z <- cap tanh(z / cap)
pub fn soft_cap(l: &mut Lowering, [z]: [View; 1], cap: f64) {
    over(l, "soft_cap", z.into(), z.into(), z.len).with([z.into(), z.len.into(), cap.into(), (1.0 / cap).into()]);
}

/// Four packs of each thread.
fn over<'a>(l: &'a mut Lowering, entry: &'static str, x: Place, y: Place, len: usize) -> Launching<'a> {
    let vec = vector(len, &[x, y]);
    l.launch(&ELEMENTWISE, entry)
        .define("REAL", if y.dtype() == DType::F64 { "double" } else { "float" })
        .types([("X_T", x.dtype()), ("Y_T", y.dtype())])
        .define("VEC", vec)
        .grid(len.div_ceil(4 * 256 * vec))
        .block(256)
}
