//! Rotary position embedding (Su et al. 2021), on its own: attention reads keys many times, and turns them once.
use super::ROPE;
use crate::work::{Lowering, Place, vector};
use backend::{Heads, Pairs, Rotation, View};

/// Queries and keys of the first n rows of x (T, (N+2K) H) in place, span (2) = [start, n]; without a rotation nothing. Of
/// gradients, `sign` is -1.
pub fn rotate(l: &mut Lowering, span: Place, rotation: Option<Rotation>, x: View, heads: Heads, sign: f64) {
    let Some(Rotation { positions, table, pairs }) = rotation else { return };
    assert_eq!(heads.dim % 2, 0, "an odd head dimension has no pairs");
    let (half, turned) = (heads.dim / 2, heads.n + heads.kv);
    let vec = vector(half, &[x, table]);
    let threads = x.len / heads.qkv() * turned * (half / vec);
    l.launch(&ROPE, "rope")
        .real(x)
        .types([("QKV_T", x.dtype), ("TABLE_T", table.dtype)])
        .define("DIM", heads.dim)
        .define("HEADS", turned)
        .define("ROW", heads.qkv())
        .define("VEC", vec)
        .define("INTERLEAVED", u32::from(pairs == Pairs::Interleaved))
        .grid(threads.div_ceil(256))
        .block(256)
        .with([x.into(), span.into(), positions.into(), table.into(), sign.into()]);
}
