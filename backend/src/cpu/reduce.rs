//! Sums and maxima over a row.
use super::real::Real;

/// Independent partial results of a reduction: they fill vector registers, and sums of many terms round less than one
/// running sum.
const LANES: usize = 16;

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
    for at in (0..len / LANES * LANES).step_by(LANES) {
        let chunk: [&[E; LANES]; N] = xs.map(|x| x[at..at + LANES].try_into().unwrap());
        for l in 0..LANES {
            lanes[l] = join(lanes[l], term(chunk.map(|x| x[l])));
        }
    }
    for i in len / LANES * LANES..len {
        lanes[i % LANES] = join(lanes[i % LANES], term(xs.map(|x| x[i])));
    }
    for half in [8, 4, 2, 1] {
        for l in 0..half {
            lanes[l] = join(lanes[l], lanes[l + half]);
        }
    }
    lanes[0]
}

/// Σ term(x, ...) over the elements of rows of equal length: `sum([x, y], |[x, y]| x * y)`.
#[inline(always)]
pub fn sum<E: Copy, A: Real, const N: usize>(xs: [&[E]; N], term: impl Fn([E; N]) -> A) -> A {
    reduce(xs, A::ZERO, term, |a, b| a + b)
}

#[inline(always)]
pub fn max<E: Real>(x: &[E]) -> E {
    reduce([x], E::NEG_INFINITY, |[x]| x, |a, b| if b > a { b } else { a })
}

/// Partial sums of workers, added in the order of their tiles: dw = or +=
pub fn add_tiles<E: Real>(tiles: &[Vec<E>], dw: &mut [E], acc: bool) {
    if !acc {
        dw.fill(E::ZERO);
    }
    for tile in tiles {
        for i in 0..dw.len() {
            dw[i] += tile[i];
        }
    }
}

/// The row becomes exp(x - max(x)), which cannot overflow. Returns (max(x), the sum of the new row).
pub fn exponentials<E: Real>(row: &mut [E]) -> (E, E) {
    let max = max(row);
    for x in row.iter_mut() {
        *x = (*x - max).exp();
    }
    (max, sum([row], |[x]| x))
}
