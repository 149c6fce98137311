//! Rotary position embedding (Su et al. 2021, <https://arxiv.org/abs/2104.09864>), by pairs of a head.
//!
//! With c, s the cosine and sine of position × frequency i, and (a, b) the i-th pair of a head:
//! ```text
//! (a, b) <- (a c - b s, b c + a s)
//! ```
//! The backward is the transpose: the same with -s. Attention does both, where it reads queries and keys anyhow and where it
//! writes their gradients.
use super::lanes::LANES;
use super::real::Real;
use crate::Pairs;

/// Turns heads by the positions of their tokens; without `pairs`, not at all.
#[derive(Clone, Copy)]
pub struct Turn<'a, E> {
    pairs: Option<Pairs>,
    positions: &'a [u32],
    table: &'a [E],
    dim: usize,
}

impl<'a, E: Real> Turn<'a, E> {
    /// positions (T), table (P, H), of the first `t` tokens
    pub fn new(pairs: Option<Pairs>, positions: &'a [u32], table: &'a [E], t: usize, dim: usize) -> Self {
        if pairs.is_some() {
            assert_eq!(dim % 2, 0, "an odd head dimension has no pairs");
            assert!(positions.len() >= t, "{} positions for {t} tokens", positions.len());
        }
        Turn { pairs, positions, table, dim }
    }

    /// Heads (n, H) of a token.
    #[inline(always)]
    pub fn forward(&self, token: usize, heads: &mut [E]) {
        self.by(token, heads, E::ONE);
    }
    #[inline(always)]
    pub fn backward(&self, token: usize, heads: &mut [E]) {
        self.by(token, heads, -E::ONE);
    }

    #[inline(always)]
    fn by(&self, token: usize, heads: &mut [E], sign: E) {
        let Some(pairs) = self.pairs else { return };
        let (dim, half) = (self.dim, self.dim / 2);
        let (cos, sin) = self.table[self.positions[token] as usize * dim..][..dim].split_at(half);
        for head in heads.chunks_exact_mut(dim) {
            match pairs {
                Pairs::Half => {
                    let ((a, a_rest), (b, b_rest)) = {
                        let (a, b) = head.split_at_mut(half);
                        (a.as_chunks_mut::<LANES>(), b.as_chunks_mut::<LANES>())
                    };
                    let ((c, c_rest), (s, s_rest)) = (cos.as_chunks::<LANES>(), sin.as_chunks::<LANES>());
                    for i in 0..a.len() {
                        halves(&mut a[i], &mut b[i], &c[i], &s[i], sign);
                    }
                    for i in 0..a_rest.len() {
                        let (x, y, c, s) = (a_rest[i], b_rest[i], c_rest[i], sign * s_rest[i]);
                        (a_rest[i], b_rest[i]) = (x * c - y * s, y * c + x * s);
                    }
                }
                Pairs::Interleaved => {
                    for (i, pair) in head.as_chunks_mut::<2>().0.iter_mut().enumerate() {
                        let ([a, b], c, s) = (*pair, cos[i], sign * sin[i]);
                        *pair = [a * c - b * s, b * c + a * s];
                    }
                }
            }
        }
    }
}

/// Everything is read before anything is written, so that this becomes vectors.
#[inline(always)]
fn halves<E: Real, const N: usize>(a: &mut [E; N], b: &mut [E; N], c: &[E; N], s: &[E; N], sign: E) {
    let (mut x, mut y) = (*a, *b);
    for i in 0..N {
        let (c, s) = (c[i], sign * s[i]);
        (x[i], y[i]) = (x[i] * c - y[i] * s, y[i] * c + x[i] * s);
    }
    (*a, *b) = (x, y);
}
