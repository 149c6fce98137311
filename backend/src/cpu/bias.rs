//! A bias: the same row added to every row.
//!
//! ```text
//! y <- y + b        db = Σ over rows of dy
//! ```
use super::real::Real;
use super::reduce::add_tiles;
use rayon::prelude::*;

/// Rows whose part of db is summed by one worker.
const TILE: usize = 32;

/// b (F) -> y (T, F) +=
pub fn add<E: Real>(b: &[E], y: &mut [E]) {
    assert!(y.len().is_multiple_of(b.len()));
    y.par_chunks_mut(b.len()).with_min_len(TILE).for_each(|y| {
        for i in 0..b.len() {
            y[i] += b[i];
        }
    });
}

/// dy (T, F) -> db (F) = or +=
pub fn backward<E: Real>(dy: &[E], db: &mut [E], acc: bool) {
    let f = db.len();
    assert!(dy.len().is_multiple_of(f));
    let tile = |dy: &[E]| {
        let mut db = vec![E::ZERO; f];
        for dy in dy.chunks(f) {
            for i in 0..f {
                db[i] += dy[i];
            }
        }
        db
    };
    let tiles: Vec<Vec<E>> = dy.par_chunks(TILE * f).map(tile).collect();
    add_tiles(&tiles, db, acc);
}
