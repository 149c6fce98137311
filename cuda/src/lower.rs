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
        Op::Attention { qkv, cu_seqlens, rotation, o, lse, heads, scores } => {
            attention::forward(l, cu_seqlens, rotation, [qkv, o, lse], heads, scores)
        }
        Op::AttentionBackward { qkv, cu_seqlens, rotation, o, lse, d_o, dqkv, heads, scores } => {
            attention::backward(l, [qkv, cu_seqlens, o, lse, d_o], rotation, dqkv, heads, scores)
        }
        Op::AttentionCached { qkv, span, rotation, cache, o, heads, scores } => {
            attention::cached(l, span, rotation, [qkv, cache, o], heads, scores)
        }
        Op::Linear { x, w, add, y, dims } => linear::forward(l, [x, w], add, y, dims),
        Op::LinearBackwardInput { dy, w, dx, dims } => linear::backward_input(l, [dy, w], dx, dims),
        Op::LinearBackwardWeight { dy, x, dw, dims, scale, acc } => {
            linear::backward_weight(l, [dy, x], dw, dims, scale, acc)
        }
        _ => panic!("{op:?} has no kernel on a card"),
    }
    lowering
}
