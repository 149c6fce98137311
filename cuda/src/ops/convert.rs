//! y = x, from one type to another.
use super::CONVERT;
use crate::work::{Lowering, Place};
use backend::DType;

pub fn convert(l: &mut Lowering, x: Place, y: Place, len: usize) {
    let fits = |n: usize| {
        let aligned = |place: &Place| (n * place.dtype().bytes()).min(16) <= place.alignment() as usize;
        len.is_multiple_of(n) && [x, y].iter().all(aligned)
    };
    let vector = [8, 4, 2].into_iter().find(|n| fits(*n)).unwrap_or(1);
    let double = x.dtype() == DType::F64;
    l.launch(&CONVERT, "convert")
        .define("REAL", if double { "double" } else { "float" })
        .types([("X_T", x.dtype()), ("Y_T", y.dtype())])
        .define("VEC", vector)
        .grid(len.div_ceil(256 * vector).min(1 << 16))
        .with([x.into(), y.into(), len.into()]);
}
