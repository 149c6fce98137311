//! Causal attention of packed segments with grouped heads, by tiles, so that a worker holds the scores of a tile and never
//! those of a segment (Dao et al. 2022, <https://arxiv.org/abs/2205.14135>).
//!
//! For each query head, with its group's keys and values; the softmax of token i is over tokens 0 ..= i of its segment:
//! ```text
//! s  = scale q kᵀ            p  = softmax(s) = exp(s - lse)        o  = p v
//! dv = pᵀ do                 dp = do vᵀ
//! ds = scale p (dp - Σ do o)        dq = ds k        dk = dsᵀ q
//! ```
//! [`Scores`] may cap s, which multiplies ds by 1 - (s / cap)², take a slope times the distance from it (ALiBi), and hide
//! keys outside a window. q and k are rotated on the way in, dq and dk on the way out.
//!
//! The queries of a group are rows of one matrix, token after token and head after head, against the same keys: sums over
//! the heads of a group need no thought, and a tile of 8 rows spans few tokens, so that little of it lies in the future.
//! Read on in `tile` (the inner loop), `forward`, `backward`, `cached`.
mod backward;
mod cached;
mod forward;
mod online;
mod pack;
mod scores;
mod tile;

pub use backward::backward;
pub use cached::cached;
pub use forward::forward;

use super::lanes::{LANES, Lanes, Vectors};
use super::pool::{Pool, Scratch};
use crate::{Heads, Scores};
use std::cmp::Reverse;
use std::ops::Range;
use tile::ROWS;

/// What all tiles of an attention have in common.
#[derive(Clone, Copy)]
struct Shape {
    heads: Heads,
    /// Query heads of a kv head.
    group: usize,
    /// H, and the next multiple of 16: rows of copies are that long, and end in zeros.
    dim: usize,
    padded: usize,
    window: usize,
}

impl Shape {
    fn new(heads: Heads, scores: Scores) -> Shape {
        assert!(scores.window != Some(0), "a token sees itself");
        assert_eq!(heads.n % heads.kv, 0, "{heads:?}");
        Shape {
            heads,
            group: heads.n / heads.kv,
            dim: heads.dim,
            padded: heads.dim.next_multiple_of(LANES),
            window: scores.window.unwrap_or(usize::MAX),
        }
    }
    /// The first key that token `i` sees.
    #[inline(always)]
    fn first_seen(&self, i: usize) -> usize {
        (i + 1).saturating_sub(self.window)
    }
    /// Puts `hidden` where rows of a tile do not see keys. The columns `at` of x are the keys from `key` on.
    #[inline(always)]
    fn hide<E: Vectors, L: Lanes<E>, const N: usize>(
        &self,
        rows: &[(usize, usize); ROWS],
        x: &mut [[E; N]; ROWS],
        at: Range<usize>,
        key: usize,
        hidden: E,
    ) {
        let (first, last) = (rows[0].0, rows[ROWS - 1].0);
        if key + at.len() <= first + 1 && self.first_seen(last) <= key {
            return;
        }
        for (x, &(token, _)) in x.iter_mut().zip(rows) {
            for (x, key) in x[at.clone()].chunks_exact_mut(LANES).zip((key..).step_by(LANES)) {
                let [from, to] = [self.first_seen(token), token + 1].map(|end| end.saturating_sub(key).min(LANES));
                L::load(x).keep(from, to, L::splat(hidden)).store(x);
            }
        }
    }
    /// Where in a row of qkv the queries of a group begin, its key and its value.
    fn columns(&self, kv: usize) -> [usize; 3] {
        [kv * self.group, self.heads.n + kv, self.heads.n + self.heads.kv + kv].map(|head| head * self.dim)
    }
    /// (token, head of the group) of the rows of a tile: row `r` is its first, of queries whose first token is `first`.
    #[inline(always)]
    fn rows(&self, first: usize, r: usize) -> [(usize, usize); ROWS] {
        let (mut token, mut head) = (first + r / self.group, r % self.group);
        let mut rows = [(0, 0); ROWS];
        for row in &mut rows {
            *row = (token, head);
            head += 1;
            if head == self.group {
                (token, head) = (token + 1, 0);
            }
        }
        rows
    }
}

/// Consecutive tokens of a segment, as many as are in a work item.
#[derive(Clone, Copy)]
struct Block {
    /// Where the segment begins, and its tokens.
    segment: usize,
    len: usize,
    /// The first of the block, counted in the segment, and how many.
    first: usize,
    n: usize,
}

/// Segments are cut into the fewest blocks of at most `at_most` tokens, of nearly equal size; the most expensive first.
fn blocks<'a>(pool: &'a Pool, cu_seqlens: &[u32], t: usize, at_most: usize) -> Scratch<'a, [u32; 4]> {
    let ends = (cu_seqlens.first(), cu_seqlens.last());
    assert_eq!(ends, (Some(&0), Some(&(t as u32))), "cu_seqlens goes from 0 to T");
    let segments = || {
        cu_seqlens.windows(2).filter(|ends| ends[0] != ends[1]).map(|ends| {
            assert!(ends[0] < ends[1], "cu_seqlens ascends");
            [ends[0] as usize, (ends[1] - ends[0]) as usize]
        })
    };
    let size = |len| even(len, at_most);
    let mut blocks = pool.scratch(segments().map(|[_, len]| len.div_ceil(size(len))).sum());
    let of_segment = |[segment, len]: [usize; 2]| {
        let size = size(len);
        (0..len).step_by(size).map(move |first| [segment, len, first, size.min(len - first)].map(|x| x as u32))
    };
    for (block, of) in blocks.iter_mut().zip(segments().flat_map(of_segment)) {
        *block = of;
    }
    let cost = |[_, _, first, n]: [u32; 4]| u64::from(n) * (2 * u64::from(first) + u64::from(n));
    blocks.sort_unstable_by_key(|&block| (Reverse(cost(block)), block));
    blocks
}

/// The size of the fewest nearly equal parts of at most `at_most`.
fn even(len: usize, at_most: usize) -> usize {
    len.div_ceil(len.div_ceil(at_most))
}

impl Block {
    /// Whether the segment has others.
    fn of_many(&self) -> bool {
        self.n != self.len
    }
}

impl From<[u32; 4]> for Block {
    fn from(block: [u32; 4]) -> Block {
        let [segment, len, first, n] = block.map(|x| x as usize);
        Block { segment, len, first, n }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What a worker holds, in elements: forward the same for every length, backward a few copies of its keys.
    #[test]
    fn scratch_is_linear_in_the_length() {
        for (n, kv, dim) in [(1, 1, 8), (12, 4, 64), (32, 1, 128)] {
            let scores = Scores { scale: 1.0, cap: None, window: None, alibi: None };
            let shape = Shape::new(Heads { n, kv, dim }, scores);
            let width = shape.padded + 2;
            for t in [1 << 15, 1 << 20] {
                let forward = forward::scratch::<f32>(shape, even(t, forward::tokens(shape)));
                assert!(forward <= (2 * 1024 + 2 * 512) * width + (1 << 13), "{forward}");
                let backward = backward::scratch::<f32>(shape, t);
                assert!(backward <= (5 * t + 5 * 288) * width + (1 << 14), "{backward}");
            }
        }
    }
}
