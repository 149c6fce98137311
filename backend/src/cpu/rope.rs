//! Rotary position embedding (Su et al. 2021, <https://arxiv.org/abs/2104.09864>), by pairs of a head.
//!
//! With c, s the cosine and sine of position × frequency i, and (a, b) the i-th pair of a head:
//! ```text
//! (a, b) <- (a c - b s, b c + a s)
//! ```
//! The backward is the transpose: the same with -s.
use super::real::Real;
use crate::{Heads, Pairs};
use rayon::prelude::*;

/// Tokens that are worth a worker's while.
const TILE: usize = 16;

/// positions (T), table (P, H) -> qkv (T, (N+2K) H), its queries and keys rotated in place
pub fn rotate<E: Real>(positions: &[u32], table: &[E], qkv: &mut [E], heads: Heads, pairs: Pairs, inverse: bool) {
    let (dim, half) = (heads.dim, heads.dim / 2);
    assert_eq!(dim, 2 * half, "an odd head dimension has no pairs");
    assert_eq!(qkv.len(), positions.len() * heads.qkv());

    let sign = if inverse { -E::ONE } else { E::ONE };
    qkv.par_chunks_mut(heads.qkv()).zip(positions).with_min_len(TILE).for_each(|(qkv, &position)| {
        let (cos, sin) = table[position as usize * dim..][..dim].split_at(half);
        for head in qkv.chunks_mut(dim).take(heads.n + heads.kv) {
            match pairs {
                Pairs::Half => {
                    let (a, b) = head.split_at_mut(half);
                    for i in 0..half {
                        let (c, s) = (cos[i], sign * sin[i]);
                        (a[i], b[i]) = (a[i] * c - b[i] * s, b[i] * c + a[i] * s);
                    }
                }
                Pairs::Interleaved => {
                    for (i, pair) in head.chunks_mut(2).enumerate() {
                        let (a, b, c, s) = (pair[0], pair[1], cos[i], sign * sin[i]);
                        (pair[0], pair[1]) = (a * c - b * s, b * c + a * s);
                    }
                }
            }
        }
    });
}
