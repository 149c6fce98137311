//! Every operation finds its kernels.
use crate::ops::*;
use crate::work::{Card, Lowering};
use backend::Op;

/// What a card does for an operation.
pub fn lower(op: Op, card: Card) -> Lowering {
    let mut lowering = Lowering::new(card);
    let l = &mut lowering;
    match op {
        Op::RmsNorm { x, w, y, rstd, eps, offset } => rmsnorm::forward(l, [x, w], [y, rstd], eps, offset),
        _ => panic!("{op:?} has no kernel on a card"),
    }
    lowering
}
