//! Root mean square norm of every query head and every key head (QK-norm, as in Qwen 3); values pass.
//!
//! The formulas are those of `rmsnorm`, over the H numbers of a head. A row is too short for a block: some lanes of a warp have
//! one, a team.
use super::{HEAD_NORM, partials};
use crate::work::{Launching, Lowering, vector};
use backend::{Heads, View};

const BLOCK: usize = 256;

/// x (T, (N+2K) H), w (2, H) -> y (T, (N+2K) H), rstd (T, N + K)
pub fn forward(l: &mut Lowering, [x, w]: [View; 2], [y, rstd]: [View; 2], heads: Heads, eps: f64) {
    let (all, normed) = (heads.n + 2 * heads.kv, heads.n + heads.kv);
    let t = x.len / heads.qkv();
    assert_eq!([x.len, y.len, rstd.len, w.len], [t * heads.qkv(), t * heads.qkv(), t * normed, 2 * heads.dim]);
    let teams = Teams::of(heads.dim, &[x, w, y]);
    teams
        .over(l.launch(&HEAD_NORM, "head_norm").real(x), heads)
        .types([("X_T", x.dtype), ("W_T", w.dtype), ("Y_T", y.dtype), ("S_T", rstd.dtype)])
        .grid((t * all).div_ceil(teams.heads_at_once()))
        .with([x.into(), w.into(), y.into(), rstd.into(), count(t * all).into(), eps.into()]);
}

/// x (T, (N+2K) H), w (2, H), rstd (T, N + K) -> dqkv (T, (N+2K) H) in place, dw (2, H) = or +=
pub fn backward(l: &mut Lowering, [x, w, rstd]: [View; 3], [dqkv, dw]: [View; 2], heads: Heads, acc: bool) {
    let (dim, normed) = (heads.dim, heads.n + heads.kv);
    let t = x.len / heads.qkv();
    assert_eq!([x.len, dqkv.len, rstd.len], [t * heads.qkv(), t * heads.qkv(), t * normed]);
    assert_eq!([w.len, dw.len], [2 * dim; 2]);
    let teams = Teams::of(dim, &[x, w, dqkv]);
    // Queries, then keys: each kind has a weight of its own.
    for (which, (first, own)) in [(0, heads.n), (heads.n, heads.kv)].into_iter().enumerate() {
        let chunk = teams.chunk(t * own);
        let blocks = (t * own).div_ceil(chunk);
        let sums = l.scratch(x.dtype.precise(), blocks * dim);
        teams
            .over(l.launch(&HEAD_NORM, "head_norm_backward").real(x), heads)
            .types([("X_T", x.dtype), ("W_T", w.dtype), ("S_T", rstd.dtype), ("DY_T", dqkv.dtype)])
            .grid(blocks)
            .with([
                x.into(),
                w.sub(which * dim, dim).into(),
                rstd.into(),
                dqkv.into(),
                sums.into(),
                count(t * own).into(),
                count(chunk).into(),
                count(first).into(),
                count(own).into(),
            ]);
        partials::add(l, sums, blocks, dw.sub(which * dim, dim), acc);
    }
}

/// How heads lie over the lanes of warps.
struct Teams {
    vec: usize,
    /// Lanes for a head.
    lanes: usize,
    /// Packs of a lane.
    packs: usize,
}

impl Teams {
    fn of(dim: usize, tensors: &[View]) -> Teams {
        let vec = vector(dim, tensors);
        let lanes = dim.div_ceil(vec).next_power_of_two().min(32);
        Teams { vec, lanes, packs: dim.div_ceil(vec * lanes) }
    }

    /// Heads that a block has under way: each team has about four packs.
    fn heads_at_once(&self) -> usize {
        BLOCK / self.lanes * (4 / self.packs).max(1)
    }

    /// Of so many heads, those of a block that sums a gradient over them: about a thousand blocks, none of them small.
    fn chunk(&self, heads: usize) -> usize {
        heads.div_ceil(1056).max(256).next_multiple_of(self.heads_at_once())
    }

    fn over<'a>(&self, launch: Launching<'a>, heads: Heads) -> Launching<'a> {
        launch
            .define("VEC", self.vec)
            .define("TEAM", self.lanes)
            .define("BLOCK", BLOCK)
            .define("DIM", heads.dim)
            .define("QUERIES", heads.n)
            .define("KEYS", heads.kv)
            .define("HEADS", heads.n + 2 * heads.kv)
            .block(BLOCK)
    }
}

fn count(n: usize) -> u32 {
    u32::try_from(n).expect("less than 2^32 heads")
}
