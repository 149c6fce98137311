//! The graph of attention, backward.
//!
//! With p = exp(scale q kᵀ - lse), masked, and d = rowsum(do ∘ o):
//!
//! ```text
//! dv = pᵀ do        ds = scale p ∘ (do vᵀ - d)        dk = dsᵀ q        dq = ds k
//! ```
//!
//! With N > K the gradients of keys and values are made for every query head and then added up in groups.
use super::forward::{Operands, mask, operands, product, rows, transpose};
use super::graph::*;
use super::{Role, Shape};
use cudarc::cudnn::sys::{cudnnPointwiseMode_t::*, cudnnReduceTensorOp_t::*};

/// How the gradient of q, to which every block of keys adds, becomes whole.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Sum {
    /// Added up in f32 in the workspace, in whatever order blocks come (or in a fixed one, if the engine is told so).
    Added,
    /// All of ds is kept, O(N longest²) for each segment, and multiplied at the end: the same bits every time.
    Kept,
}

pub(super) fn backward(shape: &Shape, sum: Sum) -> Graph {
    let g = &mut Graph::default();
    let Operands { q, kt, o, lse, lengths, scale, of_outputs, of_lse, of_qkv } = operands(g, shape);
    let heads = shape.heads;
    let vt = g.tensor(transpose(rows(shape, Role::V, heads.kv, of_qkv)));
    let d_o = g.tensor(rows(shape, Role::DO, heads.n, of_outputs));
    let dq = g.tensor(rows(shape, Role::DQ, heads.n, of_outputs));
    // With as many keys as queries their rows are as long as those of o.
    let of_kv = match heads.n == heads.kv {
        true => of_outputs,
        false => g.tensor(Tensor { place: Place::Given(Role::OffsetsKv), ..g.tensors[of_outputs] }),
    };
    let dk = g.tensor(rows(shape, Role::DK, heads.kv, of_kv));
    let dv = g.tensor(rows(shape, Role::DV, heads.kv, of_kv));

    // d (T, N) = rowsum(do ∘ o). An engine recognises the factor of dropout too, which is 1.
    let one = g.constant(1.0);
    let products = g.pointwise(CUDNN_POINTWISE_MUL, d_o, Some(o));
    let sums = g.reduce_rows(CUDNN_REDUCE_TENSOR_ADD, products);
    let bytes = shape.tokens * heads.n * Type::F32.bytes();
    let d = g.tensor(Tensor { place: Place::Scratch(bytes), offsets: Some(of_lse), ..g.tensors[lse] });
    g.pointwise_into(CUDNN_POINTWISE_MUL, sums, Some(one), d);

    let s = product(g, shape, q, kt, lengths);
    let s = g.pointwise(CUDNN_POINTWISE_MUL, s, Some(scale));
    let s = g.pointwise(CUDNN_POINTWISE_SUB, s, Some(lse));
    let s = mask(g, shape, s, lengths);
    let p = g.pointwise(CUDNN_POINTWISE_EXP, s, None);
    product_of_transposed(g, shape, p, d_o, dv, lengths);

    let dp = product(g, shape, d_o, vt, lengths);
    let ds = g.pointwise(CUDNN_POINTWISE_SUB, dp, Some(d));
    let ds = g.pointwise(CUDNN_POINTWISE_MUL, ds, Some(p));
    let ds = g.pointwise(CUDNN_POINTWISE_MUL, ds, Some(scale));
    product_of_transposed(g, shape, ds, q, dk, lengths);

    let k = g.transposed(kt, Type::F32);
    let whole = match sum {
        Sum::Kept => dq,
        Sum::Added => {
            let bytes = shape.tokens * heads.out() * Type::F32.bytes();
            g.tensor(Tensor { dtype: Type::F32, place: Place::Scratch(bytes), ..g.tensors[dq] })
        }
    };
    let there = Some(lengths);
    g.operations.push(Operation::Matmul { a: ds, b: k, c: whole, rows: there, columns: None, terms: there });
    if whole != dq {
        g.pointwise_into(CUDNN_POINTWISE_IDENTITY, whole, None, dq);
    }
    std::mem::take(g)
}

/// y = aᵀ b of each segment, where y may have fewer heads, each the sum of a group.
fn product_of_transposed(g: &mut Graph, shape: &Shape, a: Id, b: Id, y: Id, lengths: Id) {
    let at = g.transposed(a, shape.element());
    let group = (shape.heads.n / shape.heads.kv) as i64;
    let every_head = match group {
        1 => y,
        _ => {
            // Rows are `group` times as long, and so cuDNN multiplies the offsets of y, which it finds here.
            let mut tensor = g.tensors[y];
            tensor.dims[1] *= group;
            tensor.strides[0] *= group;
            tensor.strides[2] *= group;
            // The type says two bytes each, but NVIDIA's own front end reserves four, and only a card could tell why.
            tensor.place = Place::Scratch(shape.tokens * shape.heads.out() * Type::F32.bytes());
            g.tensor(tensor)
        }
    };
    let there = Some(lengths);
    g.operations.push(Operation::Matmul { a: at, b, c: every_head, rows: there, columns: None, terms: there });
    if every_head != y {
        g.sum_into(every_head, y);
    }
}
