//! The heads of each rank side by side, for the all-to-all around attention (DeepSpeed-Ulysses, Jacobs et al. 2023): rows of all
//! heads on the one side, on the other a block of rows for each rank, with its heads alone.
//!
//! ```text
//! split   y[part, t, its heads] = x[t, heads of the part]        join   y[t, head] = Σ x[part, t, head] over the parts that have it
//! ```
use super::pool::{Pool, pieces, pieces_mut};
use super::real::Real;
use crate::Heads;
use std::ops::Range;

/// Rows that are worth a worker's while.
const TILE: usize = 16;

/// x (T, (N+2K) H) -> y (n, T, part)
pub fn split<E: Real>(pool: &Pool, x: &[E], y: &mut [E], heads: Heads, parts: usize) {
    let (wide, narrow) = (heads.qkv(), heads.part(parts).qkv());
    let t = x.len() / wide;
    assert_eq!((x.len(), y.len()), (t * wide, parts * t * narrow));
    for (part, y) in y.chunks_exact_mut(t * narrow).enumerate() {
        let columns = columns(heads, parts, part);
        pool.over(
            (pieces(x, TILE * wide), pieces_mut(y, TILE * narrow)),
            #[inline(always)]
            |_, (x, y)| {
                for (x, y) in x.chunks_exact(wide).zip(y.chunks_exact_mut(narrow)) {
                    let mut at = 0;
                    for columns in &columns {
                        y[at..at + columns.len()].copy_from_slice(&x[columns.clone()]);
                        at += columns.len();
                    }
                }
            },
        );
    }
}

/// x (n, T, part) -> y (T, (N+2K) H), added in the order of the parts
pub fn join<E: Real>(pool: &Pool, x: &[E], y: &mut [E], heads: Heads, parts: usize) {
    let (wide, narrow) = (heads.qkv(), heads.part(parts).qkv());
    let t = y.len() / wide;
    assert_eq!((x.len(), y.len()), (parts * t * narrow, t * wide));
    pool.over(
        pieces_mut(y, TILE * wide),
        #[inline(always)]
        |tile, y| {
            y.fill(E::ZERO);
            for (part, x) in x.chunks_exact(t * narrow).enumerate() {
                let x = &x[tile * TILE * narrow..];
                for (x, y) in x.chunks_exact(narrow).zip(y.chunks_exact_mut(wide)) {
                    let mut at = 0;
                    for columns in columns(heads, parts, part) {
                        let len = columns.len();
                        for (y, x) in y[columns].iter_mut().zip(&x[at..at + len]) {
                            *y += *x;
                        }
                        at += len;
                    }
                }
            }
        },
    );
}

/// Of queries, keys and values: the columns that a part has.
fn columns(heads: Heads, parts: usize, part: usize) -> [Range<usize>; 3] {
    let own = heads.part(parts);
    let run = |first: usize, len: usize| first * heads.dim..(first + len) * heads.dim;
    let kv = part * heads.kv / parts;
    [run(part * own.n, own.n), run(heads.n + kv, own.kv), run(heads.n + heads.kv + kv, own.kv)]
}
