//! The graph of attention, forward: o = softmax(mask(scale q kᵀ)) v, and the log of the sums for the backward.
//!
//! What forward and backward have in common stands here too: the operands in their packed buffers, and the scores.
//!
//! A segment is a member of the batch. Every tensor is (segments, heads, longest, H) with offsets: segment i begins at
//! token cu_seqlens[i], and so many rows of it are there as `Role::Lengths` says. What of the longest possible segment is
//! not there is masked, and no engine computes it.
use super::graph::*;
use super::{Role, Shape};
use backend::DType;
use cudarc::cudnn::sys::{cudnnPointwiseMode_t::*, cudnnReduceTensorOp_t::*};

/// The tensors that both passes read.
pub(super) struct Operands {
    pub q: Id,
    /// (H, longest): transposed, as a product with q wants it.
    pub kt: Id,
    pub o: Id,
    pub lse: Id,
    pub lengths: Id,
    pub scale: Id,
    /// Offsets of rows of o, and of those of the gradient of q.
    pub of_outputs: Id,
    /// Offsets of rows of `lse`.
    pub of_lse: Id,
    /// Offsets of rows of queries, keys and values side by side.
    pub of_qkv: Id,
}

pub(super) fn forward(shape: &Shape) -> Graph {
    let g = &mut Graph::default();
    let Operands { q, kt, o, lse, lengths, scale, of_qkv, .. } = operands(g, shape);
    let v = g.tensor(rows(shape, Role::V, shape.heads.kv, of_qkv));

    let s = product(g, shape, q, kt, lengths);
    let s = g.pointwise(CUDNN_POINTWISE_MUL, s, Some(scale));
    let s = mask(g, shape, s, lengths);
    // The softmax: cuDNN recognises it in these operations.
    let max = g.reduce_rows(CUDNN_REDUCE_TENSOR_MAX, s);
    let s = g.pointwise(CUDNN_POINTWISE_SUB, s, Some(max));
    let e = g.pointwise(CUDNN_POINTWISE_EXP, s, None);
    let sum = g.reduce_rows(CUDNN_REDUCE_TENSOR_ADD, e);
    let log = g.pointwise(CUDNN_POINTWISE_LOG, sum, None);
    g.pointwise_into(CUDNN_POINTWISE_ADD, max, Some(log), lse);
    let p = g.virtual_like(shape.element(), g.tensors[e].dims);
    g.pointwise_into(CUDNN_POINTWISE_DIV, e, Some(sum), p);
    g.operations.push(Operation::Matmul { a: p, b: v, c: o, rows: Some(lengths), columns: None, terms: Some(lengths) });
    std::mem::take(g)
}

pub(super) fn operands(g: &mut Graph, shape: &Shape) -> Operands {
    let (n, segments) = (shape.heads.n as i64, shape.segments as i64);
    let longest = shape.longest as i64;
    let mut per_segment = |role, dtype, entries| {
        let strides = [1; 4];
        g.tensor(Tensor { dtype, dims: [entries, 1, 1, 1], strides, place: Place::Given(role), offsets: None })
    };
    let lengths = per_segment(Role::Lengths, Type::I32, segments);
    let of_qkv = per_segment(Role::OffsetsQkv, Type::I64, segments + 1);
    let of_outputs = per_segment(Role::OffsetsOut, Type::I64, segments + 1);
    let of_lse = per_segment(Role::OffsetsLse, Type::I64, segments + 1);

    let q = g.tensor(rows(shape, Role::Q, shape.heads.n, of_qkv));
    let kt = g.tensor(transpose(rows(shape, Role::K, shape.heads.kv, of_qkv)));
    let o = g.tensor(rows(shape, Role::O, shape.heads.n, of_outputs));
    // (T, N) is the layout that both passes of every version have been used with.
    let lse = g.tensor(Tensor {
        dtype: Type::F32,
        dims: [segments, n, longest, 1],
        strides: [longest * n, 1, n, 1],
        place: Place::Given(Role::Lse),
        offsets: Some(of_lse),
    });
    let scale = g.constant(f64::from_bits(shape.scale_bits) as f32);
    Operands { q, kt, o, lse, lengths, scale, of_outputs, of_lse, of_qkv }
}

/// Heads of a packed buffer, a row for each token.
pub(super) fn rows(shape: &Shape, role: Role, heads: usize, offsets: Id) -> Tensor {
    let (longest, dim, row) = (shape.longest as i64, shape.heads.dim as i64, shape.row(role) as i64);
    Tensor {
        dtype: shape.element(),
        dims: [shape.segments as i64, heads as i64, longest, dim],
        strides: [longest * row, dim, row, 1],
        place: Place::Given(role),
        offsets: Some(offsets),
    }
}

pub(super) fn transpose(mut tensor: Tensor) -> Tensor {
    tensor.dims.swap(2, 3);
    tensor.strides.swap(2, 3);
    tensor
}

/// a bᵀ of each segment, (N, longest, longest)
pub(super) fn product(g: &mut Graph, shape: &Shape, a: Id, bt: Id, lengths: Id) -> Id {
    let (segments, n, longest) = (shape.segments as i64, shape.heads.n as i64, shape.longest as i64);
    let c = g.virtual_like(Type::F32, [segments, n, longest, longest]);
    let there = Some(lengths);
    g.operations.push(Operation::Matmul { a, b: bt, c, rows: there, columns: there, terms: None });
    c
}

/// Row i of a segment sees j <= i of it, and j > i - window only.
pub(super) fn mask(g: &mut Graph, shape: &Shape, s: Id, lengths: Id) -> Id {
    let (row, column) = (2, 3);

    let i = g.index(s, row, Type::I32);
    let j = g.index(s, column, Type::I32);
    let in_rows = g.truth(CUDNN_POINTWISE_CMP_LT, i, lengths);
    let in_columns = g.truth(CUDNN_POINTWISE_CMP_LT, j, lengths);
    let there = g.truth(CUDNN_POINTWISE_LOGICAL_AND, in_rows, in_columns);
    let s = hide_unless(g, s, there);

    let i = g.index(s, row, Type::F32);
    let j = g.index(s, column, Type::F32);
    let past = g.truth(CUDNN_POINTWISE_CMP_GE, i, j);
    let s = hide_unless(g, s, past);

    let Some(window) = shape.window else { return s };
    let i = g.index(s, row, Type::F32);
    let j = g.index(s, column, Type::F32);
    let window = g.constant(window as f32);
    let reach = g.virtual_like(Type::F32, g.tensors[j].dims);
    let (mode, math) = (CUDNN_POINTWISE_ADD, Type::F32);
    g.operations.push(Operation::Pointwise { mode, axis: Some(3), math, x: j, b: Some(window), t: None, y: reach });
    let near = g.truth(CUDNN_POINTWISE_CMP_GT, reach, i);
    hide_unless(g, s, near)
}

/// Each mask has its own constant: then the kernel is bit by bit the one of NVIDIA's front end.
fn hide_unless(g: &mut Graph, s: Id, seen: Id) -> Id {
    let hidden = g.constant(f32::NEG_INFINITY);
    g.select(s, hidden, seen)
}

impl Shape {
    pub(super) fn element(&self) -> Type {
        match self.dtype {
            DType::BF16 => Type::BF16,
            DType::F16 => Type::F16,
            other => panic!("cuDNN's attention is of bf16 or f16, not of {other:?}"),
        }
    }
}
