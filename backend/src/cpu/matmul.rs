//! Matrix products, by the `gemm` crate.
//!
//! A product is cut into tiles by its shape, each computed by one worker, so its bits do not depend on how many workers
//! there are.
use super::pool::Pool;
use super::real::Real;
use gemm::{Parallelism, gemm};
use std::sync::atomic::{AtomicPtr, Ordering};

/// Columns of an output tile: above 128 `gemm` packs a transposed `a`, up to there it would stride through it.
const COLS: usize = 256;
/// Rows of a tile, the first that makes tiles for `MANY` workers: the more rows, the less often is `b` packed.
const ROWS: [usize; 5] = [1024, 512, 256, 128, 64];
const MANY: usize = 4;

/// A matrix inside a slice: element (i, j) lies at `i * step[0] + j * step[1]`. Only `new` makes one out of nothing, so
/// every element is inside.
#[derive(Clone, Copy)]
pub struct Mat<'a, E> {
    data: &'a [E],
    shape: [usize; 2],
    step: [usize; 2],
}

impl<'a, E> Mat<'a, E> {
    /// Contiguous rows, one after the other.
    pub fn new(data: &'a [E], [rows, cols]: [usize; 2]) -> Mat<'a, E> {
        assert!(rows > 0 && cols > 0, "an empty matrix");
        assert_eq!(data.len(), rows * cols);
        Mat { data, shape: [rows, cols], step: [cols, 1] }
    }

    /// The transpose.
    pub fn t(self) -> Mat<'a, E> {
        let ([rows, cols], [down, right]) = (self.shape, self.step);
        Mat { data: self.data, shape: [cols, rows], step: [right, down] }
    }

    /// Rows `at .. at + len`.
    fn rows(self, at: usize, len: usize) -> Mat<'a, E> {
        assert!(len > 0 && at + len <= self.shape[0]);
        Mat { data: &self.data[at * self.step[0]..], shape: [len, self.shape[1]], ..self }
    }
}

/// What a product is added to.
#[derive(Clone, Copy)]
pub enum Start<'a, E> {
    Zero,
    /// What is there.
    Here,
    /// Another matrix, with rows as long as those of the product.
    From(&'a [E]),
}

/// c (m, n) = start + scale a b; a (m, k), b (k, n)
pub fn matmul<E: Real>(pool: &Pool, c: &mut [E], a: Mat<E>, b: Mat<E>, scale: E, start: Start<E>) {
    let (m, n) = (a.shape[0], b.shape[1]);
    assert_eq!(c.len(), m * n);
    if let Start::From(x) = start {
        assert_eq!(x.len(), m * n);
    }
    let across = n.div_ceil(COLS);
    let rows = ROWS.into_iter().find(|rows| m.div_ceil(*rows) * across >= MANY).unwrap_or(ROWS[4]);
    let c = AtomicPtr::new(c.as_mut_ptr());
    pool.each(m.div_ceil(rows) * across, |tile| {
        let (i, j) = (tile / across * rows, tile % across * COLS);
        let (a, b) = (a.rows(i, rows.min(m - i)), b.t().rows(j, COLS.min(n - j)).t());
        let c = c.load(Ordering::Relaxed);
        if let Start::From(x) = start {
            for row in i..i + a.shape[0] {
                let at = row * n + j;
                // SAFETY: columns of a row of c, in this tile alone, see below.
                let c = unsafe { std::slice::from_raw_parts_mut(c.add(at), b.shape[1]) };
                c.copy_from_slice(&x[at..at + b.shape[1]]);
            }
        }
        // SAFETY: rows i.. and columns j.. of c, as many as a has rows and b columns, are inside c, whose rows are n
        // apart; tiles are disjoint, and c is ours alone until all of them are done.
        unsafe { product(c.add(i * n + j), n, a, b, scale, !matches!(start, Start::Zero)) }
    });
}

/// # Safety
/// `c` points to as many rows as `a` has, `step` apart, each of as many elements as `b` has columns, and nobody else
/// touches those elements meanwhile.
unsafe fn product<E: Real>(c: *mut E, step: usize, a: Mat<E>, b: Mat<E>, scale: E, acc: bool) {
    let ([m, k], [depth, n]) = (a.shape, b.shape);
    assert_eq!(k, depth);
    if cfg!(miri) {
        // Miri does not know the vector instructions of `gemm`.
        for (i, j) in (0..m).flat_map(|i| (0..n).map(move |j| (i, j))) {
            let mut sum = E::ZERO;
            for l in 0..k {
                sum += a.data[i * a.step[0] + l * a.step[1]] * b.data[l * b.step[0] + j * b.step[1]];
            }
            // SAFETY: row i and column j are inside, by the contract of this function.
            let c = unsafe { &mut *c.add(i * step + j) };
            *c = if acc { *c + scale * sum } else { scale * sum };
        }
        return;
    }
    let [a_step, b_step] = [a.step, b.step].map(|step| step.map(|s| s as isize));
    // SAFETY: c by the contract of this function, a and b because every element of a `Mat` is inside its slice. gemm
    // wants column before row steps; without `acc` it does not read c.
    unsafe {
        gemm(
            m,
            n,
            k,
            c,
            1,
            step as isize,
            acc,
            a.data.as_ptr(),
            a_step[1],
            a_step[0],
            b.data.as_ptr(),
            b_step[1],
            b_step[0],
            E::ONE,
            scale,
            false,
            false,
            false,
            Parallelism::None,
        )
    }
}
