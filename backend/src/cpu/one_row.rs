//! The product of a single row, as generation has it: every number of the matrix is used once, so reading it is all the
//! time it takes.
//!
//! ```text
//! y[j] = start[j] + scale Σ_k x[k] w[j, k]
//! ```
use super::lanes::{Kernel, LANES, Lanes, Vectors};
use super::matmul::Start;
use super::pool::{Pool, pieces_mut};

/// Rows of w that are read at once, each by a stream of its own.
const STREAMS: usize = 4;
/// Elements of w that are worth a worker's while.
const PIECE: usize = 1 << 15;

/// x (K), w (N, K) -> y (N)
pub fn product<E: Vectors>(pool: &Pool, y: &mut [E], x: &[E], w: &[E], scale: E, start: Start<E>) {
    let k = x.len();
    assert_eq!(w.len(), y.len() * k);
    let rows = (PIECE / k).next_multiple_of(STREAMS);
    pool.over(pieces_mut(y, rows), |piece, y| {
        let first = piece * rows;
        let start = match start {
            Start::From(from) => Start::From(&from[first..first + y.len()]),
            other => other,
        };
        pool.isa().lanes(Rows { x, w: &w[first * k..(first + y.len()) * k], y, scale, start });
    });
}

struct Rows<'a, E> {
    x: &'a [E],
    w: &'a [E],
    y: &'a mut [E],
    scale: E,
    start: Start<'a, E>,
}

impl<E: Vectors> Kernel<E> for Rows<'_, E> {
    #[inline(always)]
    fn run<L: Lanes<E>>(self) {
        let k = self.x.len();
        for (at, w) in self.w.chunks(STREAMS * k).enumerate() {
            let mut sums = [E::ZERO; STREAMS];
            let whole = k / LANES * LANES;
            if w.len() == STREAMS * k {
                let mut lanes = [L::zero(); STREAMS];
                for i in (0..whole).step_by(LANES) {
                    let x = L::load(&self.x[i..]);
                    for s in 0..STREAMS {
                        lanes[s] = x.mul_add(L::load(&w[s * k + i..]), lanes[s]);
                    }
                }
                for s in 0..STREAMS {
                    sums[s] = lanes[s].sum();
                }
            } else {
                for (s, w) in w.chunks(k).enumerate() {
                    let mut lanes = L::zero();
                    for i in (0..whole).step_by(LANES) {
                        lanes = L::load(&self.x[i..]).mul_add(L::load(&w[i..]), lanes);
                    }
                    sums[s] = lanes.sum();
                }
            }
            for (s, w) in w.chunks(k).enumerate() {
                for i in whole..k {
                    sums[s] += self.x[i] * w[i];
                }
                let (j, sum) = (at * STREAMS + s, self.scale * sums[s]);
                self.y[j] = match self.start {
                    Start::Zero => sum,
                    Start::Here => self.y[j] + sum,
                    Start::From(from) => from[j] + sum,
                };
            }
        }
    }
}
