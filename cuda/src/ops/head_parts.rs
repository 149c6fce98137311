//! The heads of each rank side by side, for the all-to-all around attention (DeepSpeed-Ulysses, Jacobs et al. 2023).
//!
//! ```text
//! split   y[part, t, its heads] = x[t, heads of the part]        join   y[t, head] = Σ x[part, t, head] over the parts that have it
//! ```
use super::HEAD_PARTS;
use crate::work::{Launching, Lowering, vector};
use backend::{Heads, View};

/// x (T, (N+2K) H) -> y (n, T, part): four packs of each thread.
pub fn split(l: &mut Lowering, [x]: [View; 1], [y]: [View; 1], heads: Heads, parts: usize) {
    let t = x.len / heads.qkv();
    assert_eq!((x.len, y.len), (t * heads.qkv(), parts * t * heads.part(parts).qkv()));
    over(l, "split_heads", [x, y], heads, parts, 4).with([x.into(), y.into(), (t as u32).into()]);
}

/// x (n, T, part) -> y (T, (N+2K) H), added in the order of the parts: a pack of each thread.
pub fn join(l: &mut Lowering, [x]: [View; 1], [y]: [View; 1], heads: Heads, parts: usize) {
    let t = y.len / heads.qkv();
    assert_eq!((x.len, y.len), (parts * t * heads.part(parts).qkv(), t * heads.qkv()));
    over(l, "join_heads", [x, y], heads, parts, 1).with([x.into(), y.into(), (t as u32).into()]);
}

fn over<'a>(
    l: &'a mut Lowering,
    entry: &'static str,
    [x, y]: [View; 2],
    heads: Heads,
    parts: usize,
    packs: usize,
) -> Launching<'a> {
    let (own, vec) = (heads.part(parts), vector(heads.dim, &[x, y]));
    assert!(x.len.max(y.len) / vec < 1 << 31, "packs are counted in 32 bits");
    l.launch(&HEAD_PARTS, entry)
        .real(x)
        .types([("X_T", x.dtype), ("Y_T", y.dtype)])
        .define("VEC", vec)
        .define("DIM", heads.dim)
        .define("QUERIES", heads.n)
        .define("KEYS", heads.kv)
        .define("PARTS", parts)
        .define("OWN_QUERIES", own.n)
        .define("OWN_KEYS", own.kv)
        .grid((y.len / vec).div_ceil(256 * packs))
        .block(256)
}
