//! Fill, copy, convert, add, cap.
use super::cross_entropy::soft_cap;
use super::real::Real;
use rayon::prelude::*;

/// Elements that are worth a worker's while.
const TILE: usize = 1 << 14;

/// y = value
pub fn fill<E: Real>(y: &mut [E], value: f64) {
    y.par_chunks_mut(TILE).for_each(|y| y.fill(E::of(value)));
}

/// y = x, of any type
pub fn copy(x: &[u8], y: &mut [u8]) {
    y.par_chunks_mut(TILE).zip(x.par_chunks(TILE)).for_each(|(y, x)| y.copy_from_slice(x));
}

/// y = x, from one float type to another: the conversion is done where memory is read and written
pub fn convert<E: Real>(x: &[E], y: &mut [E]) {
    assert_eq!(x.len(), y.len());
    y.par_chunks_mut(TILE).zip(x.par_chunks(TILE)).for_each(|(y, x)| y.copy_from_slice(x));
}

/// z <- cap tanh(z / cap)
pub fn cap<E: Real>(z: &mut [E], cap: f64) {
    z.par_chunks_mut(TILE).for_each(|z| soft_cap(z, cap));
}

/// y += x
pub fn add<E: Real>(x: &[E], y: &mut [E]) {
    assert_eq!(x.len(), y.len());
    y.par_chunks_mut(TILE).zip(x.par_chunks(TILE)).for_each(|(y, x)| {
        for i in 0..y.len() {
            y[i] += x[i];
        }
    });
}
