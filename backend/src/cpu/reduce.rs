//! Sums and maxima over a row, and of the parts of a sum that workers made.
use super::pool::{Pool, pieces_mut};
use super::real::Real;

/// Independent partial results of a reduction: they fill vector registers, and sums of many terms round less than one
/// running sum.
const LANES: usize = 16;
/// Columns of a sum over tiles that are worth a worker's while.
const COLS: usize = 1 << 10;

/// Folds `term` of the i-th elements of all `xs` into lane i mod LANES, then joins the lanes in pairs. The order depends
/// on the length only.
#[inline(always)]
fn reduce<E: Copy, A: Copy, const N: usize>(
    xs: [&[E]; N],
    start: A,
    term: impl Fn([E; N]) -> A,
    join: impl Fn(A, A) -> A,
) -> A {
    let len = xs[0].len();
    assert!(xs.iter().all(|x| x.len() == len));
    let mut lanes = [start; LANES];
    let xs = xs.map(|x| x[..len].as_chunks::<LANES>());
    for i in 0..len / LANES {
        for l in 0..LANES {
            lanes[l] = join(lanes[l], term(xs.map(|(chunks, _)| chunks[i][l])));
        }
    }
    let mut last = [start; LANES];
    for l in 0..len % LANES {
        last[l] = term(xs.map(|(_, rest)| rest[l]));
    }
    for l in 0..LANES {
        lanes[l] = join(lanes[l], last[l]);
    }
    in_pairs(lanes, join)
}

#[inline(always)]
fn in_pairs<A: Copy>(lanes: [A; LANES], join: impl Fn(A, A) -> A) -> A {
    // Once through memory: what is stored side by side, the compiler also computes side by side, in one register.
    let mut lanes = std::hint::black_box(lanes);
    for l in 0..8 {
        lanes[l] = join(lanes[l], lanes[l + 8]);
    }
    for l in 0..4 {
        lanes[l] = join(lanes[l], lanes[l + 4]);
    }
    for l in 0..2 {
        lanes[l] = join(lanes[l], lanes[l + 2]);
    }
    join(lanes[0], lanes[1])
}

/// Σ term(x, ...) over the elements of rows of equal length: `sum([x, y], |[x, y]| x * y)`.
#[inline(always)]
pub fn sum<E: Copy, A: Real, const N: usize>(xs: [&[E]; N], term: impl Fn([E; N]) -> A) -> A {
    reduce(xs, A::ZERO, term, |a, b| a + b)
}

/// In any order, so by more lanes, which need not wait for each other.
#[inline(always)]
pub fn max<E: Real>(x: &[E]) -> E {
    let mut lanes = [[E::NEG_INFINITY; LANES]; 4];
    let (chunks, rest) = x.as_chunks::<{ 4 * LANES }>();
    for x in chunks {
        for (lanes, x) in lanes.iter_mut().zip(x.as_chunks::<LANES>().0) {
            for l in 0..LANES {
                lanes[l] = larger(lanes[l], x[l]);
            }
        }
    }
    let of = |x: &[E]| reduce([x], E::NEG_INFINITY, |[x]| x, larger);
    larger(of(std::hint::black_box(lanes).as_flattened()), of(rest))
}

#[inline(always)]
fn larger<E: Real>(a: E, b: E) -> E {
    if b > a { b } else { a }
}

/// The row becomes exp(x - max(x)), which cannot overflow. Returns (max(x), the sum of the new row), which is that of
/// `sum`.
#[inline(always)]
pub fn exponentials<E: Real>(row: &mut [E]) -> (E, E) {
    let max = max(row);
    let mut lanes = [E::ZERO; LANES];
    let (chunks, rest) = row.as_chunks_mut::<LANES>();
    for x in chunks {
        for l in 0..LANES {
            x[l] = (x[l] - max).exp();
            lanes[l] += x[l];
        }
    }
    for (x, lane) in rest.iter_mut().zip(&mut lanes) {
        *x = (*x - max).exp();
        *lane += *x;
    }
    let total = in_pairs(lanes, |a, b| a + b);
    (max, total)
}

/// tiles (n, D), the partial sums of workers -> dw (D) = or += their sum, added in the order of the tiles
pub fn add_tiles<E: Real>(pool: &Pool, tiles: &[E], dw: &mut [E], acc: bool) {
    let d = dw.len();
    pool.over(
        pieces_mut(dw, COLS),
        #[inline(always)]
        |part, dw| {
            if !acc {
                dw.fill(E::ZERO);
            }
            for tile in tiles.chunks_exact(d) {
                let tile = &tile[part * COLS..][..dw.len()];
                for i in 0..dw.len() {
                    dw[i] += tile[i];
                }
            }
        },
    );
}
