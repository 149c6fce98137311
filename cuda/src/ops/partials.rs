//! The end of a sum over rows: partial sums in scratch are added up in their order.
use super::PARTIALS;
use crate::work::{Lowering, Place};
use backend::View;

/// partials (n, len of y) -> y = or += their sum
pub fn add(l: &mut Lowering, partials: Place, n: usize, y: View, acc: bool) {
    l.launch(&PARTIALS, "add_partials").real(y).types([("Y_T", y.dtype)]).grid(y.len.div_ceil(32)).block(1024).with([
        partials.into(),
        y.into(),
        (n as u32).into(),
        (y.len as u32).into(),
        u32::from(acc).into(),
    ]);
}
