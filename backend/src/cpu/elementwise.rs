//! Fill, copy, convert, add, cap.
use super::cross_entropy::soft_cap;
use super::pool::{Pool, pieces, pieces_mut};
use super::real::Real;

/// Elements that are worth a worker's while.
const TILE: usize = 1 << 14;

/// y = value
pub fn fill<E: Real>(pool: &Pool, y: &mut [E], value: f64) {
    let value = E::of(value);
    pool.over(
        pieces_mut(y, TILE),
        #[inline(always)]
        |_, y| y.fill(value),
    );
}

/// y = x, of any type
pub fn copy(pool: &Pool, x: &[u8], y: &mut [u8]) {
    pool.over(
        (pieces(x, 4 * TILE), pieces_mut(y, 4 * TILE)),
        #[inline(always)]
        |_, (x, y)| y.copy_from_slice(x),
    );
}

/// y = x, from one float type to another: the conversion is done where memory is read and written
pub fn convert<E: Real>(pool: &Pool, x: &[E], y: &mut [E]) {
    assert_eq!(x.len(), y.len());
    pool.over(
        (pieces(x, TILE), pieces_mut(y, TILE)),
        #[inline(always)]
        |_, (x, y)| y.copy_from_slice(x),
    );
}

/// z <- cap tanh(z / cap)
pub fn cap<E: Real>(pool: &Pool, z: &mut [E], cap: f64) {
    pool.over(
        pieces_mut(z, TILE),
        #[inline(always)]
        |_, z| soft_cap(z, cap),
    );
}

/// y += x
pub fn add<E: Real>(pool: &Pool, x: &[E], y: &mut [E]) {
    assert_eq!(x.len(), y.len());
    pool.over(
        (pieces(x, TILE), pieces_mut(y, TILE)),
        #[inline(always)]
        |_, (x, y)| {
            for (y, &x) in y.iter_mut().zip(x) {
                *y += x;
            }
        },
    );
}
