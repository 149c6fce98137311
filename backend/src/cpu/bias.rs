//! A bias: the same row added to every row.
//!
//! ```text
//! y <- y + b        db = Σ over rows of dy
//! ```
use super::pool::{Pool, pieces, pieces_mut};
use super::real::Real;
use super::reduce::add_tiles;

/// Rows that one worker takes at a time, and whose part of db it sums.
const TILE: usize = 32;

/// b (F) -> y (T, F) +=
pub fn add<E: Real>(pool: &Pool, b: &[E], y: &mut [E]) {
    let f = b.len();
    assert!(y.len().is_multiple_of(f));
    pool.over(
        pieces_mut(y, TILE * f),
        #[inline(always)]
        |_, y| {
            let b = &b[..f];
            for y in y.chunks_exact_mut(f) {
                for i in 0..f {
                    y[i] += b[i];
                }
            }
        },
    );
}

/// dy (T, F) -> db (F) = or +=
pub fn backward<E: Real>(pool: &Pool, dy: &[E], db: &mut [E], acc: bool) {
    let f = db.len();
    assert!(dy.len().is_multiple_of(f));
    let mut tiles_db = pool.scratch((dy.len() / f).div_ceil(TILE) * f);
    pool.over(
        (pieces(dy, TILE * f), pieces_mut(&mut tiles_db, f)),
        #[inline(always)]
        |_, (dy, db): (_, &mut [E])| {
            let db = &mut db[..f];
            db.fill(E::ZERO);
            for dy in dy.chunks_exact(f) {
                for i in 0..f {
                    db[i] += dy[i];
                }
            }
        },
    );
    add_tiles(pool, &tiles_db, db, acc);
}
