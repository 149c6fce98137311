//! Causal attention of packed segments with grouped heads, by tiles (Dao et al. 2022): `kernels/attention.cu` for all types and
//! shapes, before it [`by_cudnn`] where cuDNN is there and serves, and [`flash`] for those that tensor cores know.
//!
//! Which keys a query sees is found once for each token; a tile that lies across segments is like any other.
use super::rope::rotate;
use super::{ATTENTION, ATTENTION_ROWS, by_cudnn, decode, flash};
use crate::work::{Launching, Lowering, Place, vector};
use backend::{DType, Heads, Rotation, Scores, View};

/// Threads of a block of `kernels/attention.cu`, 16 x 16.
const THREADS: usize = 256;
const SIDE: usize = 16;

/// cu_seqlens (S + 1), qkv (T, (N+2K) H) -> qkv rotated, o (T, N H), lse (N, T)
pub fn forward(
    l: &mut Lowering,
    cu_seqlens: View,
    rotation: Option<Rotation>,
    [qkv, o, lse]: [View; 3],
    heads: Heads,
    scores: Scores,
) {
    let t = qkv.len / heads.qkv();
    let spans = Spans::of_segments(l, cu_seqlens, t, scores);
    if by_cudnn::serves(l, lse, &[qkv, o], heads, scores) {
        return by_cudnn::forward(l, cu_seqlens, spans.span, rotation, [qkv, o, lse], heads, scores);
    }
    rotate(l, spans.span, rotation, qkv, heads, 1.0);
    if flash::knows(l.card, lse, &[qkv, o], heads, scores) {
        return flash::forward(l, qkv, spans, [o, lse], heads, scores);
    }
    let [q, k, v] = columns(qkv, heads);
    general(l, [q, k, v], [heads.qkv(), heads.qkv()], spans, o, Some(lse), heads, scores);
}

/// qkv rotated, cu_seqlens, o, lse, d_o (T, N H) -> dqkv (T, (N+2K) H)
pub fn backward(
    l: &mut Lowering,
    [qkv, cu_seqlens, o, lse, d_o]: [View; 5],
    rotation: Option<Rotation>,
    dqkv: View,
    heads: Heads,
    scores: Scores,
) {
    if by_cudnn::serves(l, lse, &[qkv, o, d_o, dqkv], heads, scores) {
        return by_cudnn::backward(l, [qkv, cu_seqlens, o, lse, d_o], rotation, dqkv, heads, scores);
    }
    let t = qkv.len / heads.qkv();
    let spans = Spans::of_segments(l, cu_seqlens, t, scores);
    let dots = dots(l, [o, d_o], heads);
    if flash::knows(l.card, lse, &[qkv, o, d_o, dqkv], heads, scores) {
        flash::backward(l, [qkv, lse, d_o], spans, dots, dqkv, heads, scores);
    } else {
        general_backward(l, [qkv, o, lse, d_o], spans, dots, dqkv, heads, scores);
    }
    rotate(l, spans.span, rotation, dqkv, heads, -1.0);
}

fn general_backward(
    l: &mut Lowering,
    [qkv, o, lse, d_o]: [View; 4],
    spans: Spans,
    dots: Place,
    dqkv: View,
    heads: Heads,
    scores: Scores,
) {
    let t = qkv.len / heads.qkv();
    let (tile, shared) = tile(l, heads, qkv, 4);
    let slopes = slopes(scores);
    let common = |launching: Launching<'_>, tiles_of: usize, sees: Place| {
        of_heads(launching.real(qkv), heads, scores)
            .types([("Q_T", qkv.dtype), ("K_T", qkv.dtype), ("O_T", o.dtype), ("L_T", lse.dtype)])
            .types([("DO_T", d_o.dtype), ("DOT_T", dots.dtype()), ("DQ_T", dqkv.dtype)])
            .define("TILE", tile)
            .define("BACKWARD", 1)
            .grid(t.div_ceil(tile) * tiles_of)
            .block(THREADS)
            .shared(shared)
            .with([
                qkv.into(),
                sees.into(),
                lse.into(),
                d_o.into(),
                dots.into(),
                dqkv.into(),
                (t as u32).into(),
                scores.scale.into(),
                scores.cap.unwrap_or(0.0).into(),
                slopes[0].into(),
                slopes[1].into(),
            ]);
    };
    common(l.launch(&ATTENTION, "attention_keys"), heads.kv, spans.last);
    common(l.launch(&ATTENTION, "attention_queries"), heads.n, spans.first);
}

/// span (2), qkv (T, (N+2K) H), cache (2, C, K H) -> the first n rows of qkv rotated, and in the cache; o (T, N H)
pub fn cached(
    l: &mut Lowering,
    span: View,
    rotation: Option<Rotation>,
    [qkv, cache, o]: [View; 3],
    heads: Heads,
    scores: Scores,
) {
    let (t, width) = (qkv.len / heads.qkv(), heads.kv * heads.dim);
    let spans = Spans::of_cache(l, span, t, scores);
    rotate(l, spans.span, rotation, qkv, heads, 1.0);
    let [k, v] = cache.split([cache.len / 2; 2]);
    let vec = vector(width, &[qkv.sub(heads.out(), qkv.len - heads.out()), k, v]);
    l.launch(&ATTENTION_ROWS, "enter")
        .real(qkv)
        .types([("QKV_T", qkv.dtype), ("CACHE_T", cache.dtype)])
        .define("ROW", heads.qkv())
        .define("OUT", heads.out())
        .define("WIDTH", width)
        .define("VEC", vec)
        .grid((t * 2 * width / vec).div_ceil(256))
        .block(256)
        .with([qkv.into(), span.into(), k.into(), v.into()]);
    match decode::cut(l.card, [qkv, k, v], heads) {
        Some(cut) => decode::attend(l, cut, [qkv, k, v], spans, o, heads, scores),
        None => general(l, [qkv, k, v], [heads.qkv(), width], spans, o, None, heads, scores),
    }
}

/// Queries, and keys and values wherever they are, in rows of so many numbers.
fn general(
    l: &mut Lowering,
    [q, k, v]: [View; 3],
    rows: [usize; 2],
    spans: Spans,
    o: View,
    lse: Option<View>,
    heads: Heads,
    scores: Scores,
) {
    let t = o.len / heads.out();
    let (tile, shared) = tile(l, heads, q, 2);
    let slopes = slopes(scores);
    of_heads(l.launch(&ATTENTION, "attention").real(q), heads, scores)
        .types([("Q_T", q.dtype), ("K_T", k.dtype), ("O_T", o.dtype), ("L_T", lse.unwrap_or(o).dtype)])
        .define("TILE", tile)
        .define("WITH_LSE", u32::from(lse.is_some()))
        .define("FORWARD", 1)
        .grid(t.div_ceil(tile) * heads.n)
        .block(THREADS)
        .shared(shared)
        .with([
            q.into(),
            k.into(),
            v.into(),
            spans.span.into(),
            spans.first.into(),
            o.into(),
            lse.unwrap_or(o).into(),
            (t as u32).into(),
            rows[0].into(),
            rows[1].into(),
            scores.scale.into(),
            scores.cap.unwrap_or(0.0).into(),
            slopes[0].into(),
            slopes[1].into(),
        ]);
}

/// Rows of a tile and bytes of shared memory: the largest of which so many of heads and one of scores fit.
fn tile(l: &Lowering, heads: Heads, like: View, of_heads: usize) -> (usize, usize) {
    let row = heads.dim.next_multiple_of(SIDE) + 1;
    let bytes = |tile: usize| (of_heads * tile * row + tile * (tile + 1)) * like.dtype.precise().bytes();
    let fits = [64, 32, 16].map(|tile| (tile, bytes(tile))).into_iter().find(|(_, bytes)| *bytes <= l.card.shared);
    fits.unwrap_or_else(|| panic!("heads of {} {:?} do not fit a block of this card", heads.dim, like.dtype))
}

/// What all kernels of attention are compiled for.
pub fn of_heads<'a>(launching: Launching<'a>, heads: Heads, scores: Scores) -> Launching<'a> {
    assert_eq!(heads.n % heads.kv, 0, "{heads:?}");
    launching
        .define("HEADS", heads.n)
        .define("KV_HEADS", heads.kv)
        .define("DIM", heads.dim)
        .define("CAPPED", u32::from(scores.cap.is_some()))
        .define("ALIBI", u32::from(scores.alibi.is_some()))
}

/// ALiBi: number of the first head, and heads of the model.
pub fn slopes(scores: Scores) -> [u32; 2] {
    scores.alibi.map_or([0, 1], |slopes| [slopes.first as u32, slopes.of as u32])
}

/// Queries, keys and values of qkv (T, (N+2K) H), each from its first number on.
fn columns(qkv: View, heads: Heads) -> [View; 3] {
    [0, heads.out(), heads.out() + heads.kv * heads.dim].map(|at| qkv.sub(at, qkv.len - at))
}

/// Which keys a query sees, and which queries see a key.
#[derive(Clone, Copy)]
pub struct Spans {
    /// [number of the first token, tokens]
    pub span: Place,
    /// (T): the first key of a query.
    pub first: Place,
    /// (T): the last query of a key.
    pub last: Place,
}

impl Spans {
    fn of_segments(l: &mut Lowering, cu_seqlens: View, t: usize, scores: Scores) -> Spans {
        let [first, last, span] = [t, t, 2].map(|len| l.scratch(DType::U32, len));
        l.launch(&ATTENTION_ROWS, "spans").grid(t.div_ceil(256)).block(256).with([
            cu_seqlens.into(),
            first.into(),
            last.into(),
            span.into(),
            (cu_seqlens.len as u32 - 1).into(),
            (t as u32).into(),
            window(scores, t).into(),
        ]);
        Spans { span, first, last }
    }
    fn of_cache(l: &mut Lowering, span: View, t: usize, scores: Scores) -> Spans {
        let first = l.scratch(DType::U32, t);
        let window = window(scores, u32::MAX as usize);
        l.launch(&ATTENTION_ROWS, "cached_spans").grid(t.div_ceil(256)).block(256).with([
            span.into(),
            first.into(),
            (t as u32).into(),
            window.into(),
        ]);
        Spans { span: Place::Of(span), first, last: first }
    }
}

/// Keys that a token sees, if there are so many.
fn window(scores: Scores, all: usize) -> u32 {
    assert!(scores.window != Some(0), "a token sees itself");
    scores.window.unwrap_or(all).min(all) as u32
}

/// o, d_o (T, N H) -> Σ o d_o of each head (N, T)
fn dots(l: &mut Lowering, [o, d_o]: [View; 2], heads: Heads) -> Place {
    let t = o.len / heads.out();
    let dots = l.scratch(o.dtype.precise(), t * heads.n);
    let vec = vector(heads.dim, &[o, d_o]);
    let lanes = (heads.dim / vec).next_power_of_two().min(32);
    l.launch(&ATTENTION_ROWS, "dots")
        .real(o)
        .types([("O_T", o.dtype), ("DO_T", d_o.dtype), ("DOT_T", dots.dtype())])
        .define("HEADS", heads.n)
        .define("DIM", heads.dim)
        .define("VEC", vec)
        .define("LANES", lanes)
        .grid((t * heads.n).div_ceil(256 / lanes))
        .block(256)
        .with([o.into(), d_o.into(), dots.into(), (t as u32).into()]);
    dots
}
