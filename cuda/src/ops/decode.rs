//! Attention of few tokens over a cache: how `kernels/decode.cu` cuts it.
use super::DECODE;
use super::attention::{Spans, of_heads, slopes};
use crate::work::{Arg, Card, Launching, Lowering, vector};
use backend::{Heads, Scores, View};

/// Rows of queries of a key head whose sums fit the registers.
const ROWS: usize = 8;
/// Tokens of the cache that are a block's.
const CHUNK: usize = 256;
const THREADS: usize = 256;

/// How a decoding is cut.
#[derive(Clone, Copy)]
pub struct Cut {
    /// Numbers of a head that a thread has.
    vec: usize,
    /// Bytes of shared memory.
    shared: usize,
}

/// None: too many queries, or heads that no number of neighbouring threads have.
pub fn cut(card: Card, [qkv, k, v]: [View; 3], heads: Heads) -> Option<Cut> {
    let rows = qkv.len / heads.qkv() * heads.n / heads.kv;
    let vec = vector(heads.dim, &[qkv, k, v]);
    let lanes = heads.dim / vec;
    let shared = THREADS / lanes.max(1) * rows * (heads.dim + 2) * qkv.dtype.precise().bytes();
    let fits = rows <= ROWS && lanes.is_power_of_two() && lanes <= 32 && shared <= card.shared;
    fits.then_some(Cut { vec, shared })
}

/// qkv (T, (N+2K) H), rotated, of T tokens that are in the cache, k, v (C, K H) -> o (T, N H)
pub fn attend(l: &mut Lowering, cut: Cut, [qkv, k, v]: [View; 3], spans: Spans, o: View, heads: Heads, scores: Scores) {
    let (t, context) = (qkv.len / heads.qkv(), k.len / (heads.kv * heads.dim));
    let (rows, chunks) = (t * heads.n / heads.kv, context.div_ceil(CHUNK));
    let seen = l.scratch(qkv.dtype.precise(), heads.kv * chunks * rows * (heads.dim + 2));
    let [slope, slopes] = slopes(scores);
    let compiled = |launching: Launching<'_>, blocks: usize, threads: usize, shared: usize, args: &[Arg]| {
        of_heads(launching.real(qkv), heads, scores)
            .types([("Q_T", qkv.dtype), ("K_T", k.dtype), ("O_T", o.dtype)])
            .define("VEC", cut.vec)
            .define("TOKENS", t)
            .define("ROW", heads.qkv())
            .define("KEYS", CHUNK)
            .grid(blocks)
            .block(threads)
            .shared(shared)
            .with_all(args.iter().copied());
    };
    let args = [
        qkv.into(),
        spans.span.into(),
        spans.first.into(),
        k.into(),
        v.into(),
        seen.into(),
        (chunks as u32).into(),
        scores.scale.into(),
        scores.cap.unwrap_or(0.0).into(),
        slope.into(),
        slopes.into(),
    ];
    compiled(l.launch(&DECODE, "decode"), heads.kv * chunks, THREADS, cut.shared, &args);
    let args = [seen.into(), spans.span.into(), spans.first.into(), o.into(), (chunks as u32).into()];
    compiled(l.launch(&DECODE, "decode_join"), heads.kv * rows, 128, 0, &args);
}
