//! Attention by cuDNN, for what it serves: no soft cap, no ALiBi, bf16 or f16.
//!
//! cuDNN wants the lengths of segments and their offsets in each tensor, has its statistics tokens first, and gives gradients
//! apart; `kernels/cudnn.cu` stands in between.
use super::CUDNN;
use super::rope::rotate;
use crate::cudnn::{Pass, Shape};
use crate::work::{Attend, Lowering, Place, Work, vector};
use backend::{DType, Heads, Pairs, Rotation, Scores, View};

/// Whether cuDNN is asked for this attention.
pub fn serves(l: &Lowering, lse: View, tensors: &[View], heads: Heads, scores: Scores) -> bool {
    let dtype = tensors[0].dtype;
    let aligned = |x: &View| x.dtype == dtype && x.offset.is_multiple_of(16);
    l.card.cudnn.is_some()
        && matches!(dtype, DType::BF16 | DType::F16)
        && lse.dtype == DType::F32
        && tensors.iter().all(aligned)
        && heads.dim.is_multiple_of(16)
        && heads.dim <= 256
        && scores.cap.is_none()
        && scores.alibi.is_none()
        && tensors[0].len / heads.qkv() > 1
}

/// cu_seqlens (S + 1), qkv (T, (N+2K) H) -> qkv rotated, o (T, N H), lse (N, T)
pub fn forward(
    l: &mut Lowering,
    cu_seqlens: View,
    span: Place,
    rotation: Option<Rotation>,
    [qkv, o, lse]: [View; 3],
    heads: Heads,
    scores: Scores,
) {
    rotate(l, span, rotation, qkv, heads, 1.0);
    let mut attend = around(l, Pass::Forward, cu_seqlens, qkv, o, heads, scores);
    attend.lse = l.scratch(DType::F32, lse.len);
    let (from, t) = (attend.lse, attend.shape.tokens);
    l.work.push(Work::Attend(attend));
    transpose(l, from, lse.into(), [t, heads.n]);
}

/// qkv rotated, o, lse, d_o -> dqkv (T, (N+2K) H), of what is not rotated
pub fn backward(
    l: &mut Lowering,
    [qkv, cu_seqlens, o, lse, d_o]: [View; 5],
    rotation: Option<Rotation>,
    dqkv: View,
    heads: Heads,
    scores: Scores,
) {
    let mut attend = around(l, Pass::Backward, cu_seqlens, qkv, o, heads, scores);
    let t = attend.shape.tokens;
    attend.lse = l.scratch(DType::F32, lse.len);
    transpose(l, lse.into(), attend.lse, [heads.n, t]);
    attend.d_o = d_o.into();
    attend.gradients = [heads.n, heads.kv, heads.kv].map(|n| l.scratch(qkv.dtype, t * n * heads.dim));
    l.work.push(Work::Attend(attend));
    join(l, attend.gradients, rotation, dqkv, heads, t);
}

/// The pass without what only one of them has, and the memory beside its tensors.
fn around(l: &mut Lowering, pass: Pass, cu_seqlens: View, qkv: View, o: View, heads: Heads, scores: Scores) -> Attend {
    let (t, segments) = (qkv.len / heads.qkv(), cu_seqlens.len - 1);
    let shape = Shape {
        heads,
        tokens: t,
        segments,
        longest: t,
        dtype: qkv.dtype,
        scale_bits: scores.scale.to_bits(),
        window: scores.window.filter(|window| *window < t),
        deterministic: l.card.cudnn.is_some_and(|cudnn| cudnn.deterministic),
    };
    // Numbers of four bytes; an offset has two. There are as many as there could be segments: scratch does not depend on data.
    let lengths = l.scratch(DType::U32, t);
    let offsets = [(); 4].map(|()| l.scratch(DType::U32, 2 * (t + 1)));
    let [qkv_at, out_at, kv_at, lse_at] = offsets;
    let factors = shape.auxiliary().map(|(_, factor)| factor as u32);
    l.launch(&CUDNN, "segments").grid((segments + 1).div_ceil(256)).block(256).with([
        cu_seqlens.into(),
        lengths.into(),
        qkv_at.into(),
        out_at.into(),
        kv_at.into(),
        lse_at.into(),
        (segments as u32).into(),
        factors[0].into(),
        factors[1].into(),
        factors[2].into(),
        factors[3].into(),
    ]);
    let column = |at: usize| Place::Of(qkv.sub(at, qkv.len - at));
    let nowhere = Place::Of(qkv.sub(0, 0));
    let limit = shape.workspace(pass);
    Attend {
        pass,
        shape,
        inputs: [column(0), column(heads.out()), column(heads.out() + heads.kv * heads.dim)],
        o: o.into(),
        lse: nowhere,
        d_o: nowhere,
        gradients: [nowhere; 3],
        lengths,
        offsets,
        workspace: l.scratch(DType::U32, limit.div_ceil(4)),
        limit,
    }
}

/// x (rows, columns) -> y (columns, rows)
fn transpose(l: &mut Lowering, x: Place, y: Place, [rows, columns]: [usize; 2]) {
    l.launch(&CUDNN, "transpose").grid(rows.div_ceil(32) * columns.div_ceil(32)).block(256).with([
        x.into(),
        y.into(),
        (rows as u32).into(),
        (columns as u32).into(),
    ]);
}

/// dq (T, N H), dk, dv (T, K H) -> dqkv, rotated back
fn join(l: &mut Lowering, [dq, dk, dv]: [Place; 3], rotation: Option<Rotation>, dqkv: View, heads: Heads, t: usize) {
    let half = heads.dim / 2;
    let (positions, table, pairs) = match rotation {
        Some(Rotation { positions, table, pairs }) => (positions, table, pairs),
        None => (dqkv.sub(0, 0), dqkv.sub(0, 0), Pairs::Half),
    };
    let vec = vector(half, &[dqkv, table]);
    let threads = t * (heads.n + 2 * heads.kv) * (half / vec);
    l.launch(&CUDNN, "join")
        .types([("X_T", dqkv.dtype), ("TABLE_T", table.dtype)])
        .define("DIM", heads.dim)
        .define("HEADS", heads.n)
        .define("KV_HEADS", heads.kv)
        .define("VEC", vec)
        .define("ROTATED", u32::from(rotation.is_some()))
        .define("INTERLEAVED", u32::from(pairs == Pairs::Interleaved))
        .grid(threads.div_ceil(256))
        .block(256)
        .with([dq.into(), dk.into(), dv.into(), dqkv.into(), positions.into(), table.into(), (t as u32).into()]);
}
