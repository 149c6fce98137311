//! Where the rows of attention lie, and the copies of them that its inner loop reads.
use super::Shape;
use super::tile::COLUMNS;
use crate::cpu::lanes::{LANES, Lanes, Vectors};
use std::marker::PhantomData;

/// Some columns of some rows of a matrix.
pub struct Rows<'a, E> {
    first: *const E,
    stride: usize,
    n: usize,
    width: usize,
    of: PhantomData<&'a [E]>,
}

/// As `Rows`, to write.
pub struct RowsMut<'a, E> {
    rows: Rows<'a, E>,
    of: PhantomData<&'a mut [E]>,
}

/// A matrix of which work items write different rows or columns side by side.
pub struct Shared<'a, E> {
    first: *mut E,
    len: usize,
    stride: usize,
    of: PhantomData<&'a mut [E]>,
}
// SAFETY: stands for `&mut [E]`, of which threads get disjoint parts.
unsafe impl<E: Send> Sync for Shared<'_, E> {}

impl<E> Clone for Rows<'_, E> {
    fn clone(&self) -> Self {
        *self
    }
}
impl<E> Copy for Rows<'_, E> {}
// SAFETY: stands for `&[E]`.
unsafe impl<E: Sync> Sync for Rows<'_, E> {}

impl<'a, E> Rows<'a, E> {
    /// `n` rows from `first` on, `width` columns from `column` on.
    pub fn of(x: &'a [E], stride: usize, first: usize, n: usize, column: usize, width: usize) -> Rows<'a, E> {
        assert!(n == 0 || (first + n - 1) * stride + column + width <= x.len());
        Rows { first: x.as_ptr().wrapping_add(first * stride + column), stride, n, width, of: PhantomData }
    }
    /// `n` of the rows.
    pub fn part(&self, first: usize, n: usize) -> Rows<'a, E> {
        assert!(first + n <= self.n);
        Rows { first: self.first.wrapping_add(first * self.stride), n, ..*self }
    }
    /// `width` of the columns.
    pub fn columns(&self, column: usize, width: usize) -> Rows<'a, E> {
        assert!(column + width <= self.width);
        Rows { first: self.first.wrapping_add(column), width, ..*self }
    }
    pub fn n(&self) -> usize {
        self.n
    }
    #[inline(always)]
    pub fn row(&self, i: usize) -> &'a [E] {
        assert!(i < self.n);
        // SAFETY: inside of what was checked when this was made, borrowed for 'a.
        unsafe { std::slice::from_raw_parts(self.first.add(i * self.stride), self.width) }
    }
}

impl<'a, E> Rows<'a, E> {
    /// Rows of several heads, token after token and head after head: as many as `out` has room for, from the `r`-th on.
    #[inline(always)]
    fn heads<'o>(&self, dim: usize, r: usize, out: &'o mut [&'a [E]]) -> &'o [&'a [E]] {
        let group = self.width / dim;
        let (mut token, mut head) = (r / group, r % group);
        let n = out.len().min(self.n * group - r);
        for out in &mut out[..n] {
            *out = &self.row(token)[head * dim..][..dim];
            head += 1;
            if head == group {
                (token, head) = (token + 1, 0);
            }
        }
        &out[..n]
    }
}

impl<'a, E> RowsMut<'a, E> {
    pub fn rows(&self) -> Rows<'_, E> {
        self.rows
    }
    #[inline(always)]
    pub fn row(&mut self, i: usize) -> &mut [E] {
        assert!(i < self.rows.n);
        // SAFETY: inside of what was checked when this was made, and nobody else has these rows and columns.
        unsafe { std::slice::from_raw_parts_mut(self.rows.first.cast_mut().add(i * self.rows.stride), self.rows.width) }
    }
}

impl<'a, E> Shared<'a, E> {
    /// Rows of `stride` elements.
    pub fn new(x: &'a mut [E], stride: usize) -> Shared<'a, E> {
        Shared { first: x.as_mut_ptr(), len: x.len(), stride, of: PhantomData }
    }
    /// # Safety
    /// Nobody writes these elements while the rows are in use.
    pub unsafe fn rows(&self, first: usize, n: usize, column: usize, width: usize) -> Rows<'a, E> {
        assert!(n == 0 || (first + n - 1) * self.stride + column + width <= self.len);
        let first = self.first.wrapping_add(first * self.stride + column);
        Rows { first, stride: self.stride, n, width, of: PhantomData }
    }
    /// # Safety
    /// Nobody else reads or writes these elements while the rows are in use.
    pub unsafe fn rows_mut(&self, first: usize, n: usize, column: usize, width: usize) -> RowsMut<'a, E> {
        // SAFETY: by the contract.
        RowsMut { rows: unsafe { self.rows(first, n, column, width) }, of: PhantomData }
    }
}

/// Up to 32 rows of H, times `by`, become the columns of a panel (H, 32); the rest of it is zero, and so are its rows from
/// H to the next multiple of 16.
#[inline(always)]
fn panel<E: Vectors, L: Lanes<E>>(rows: &[&[E]], by: E, panel: &mut [E]) {
    let by = L::splat(by);
    for (at, block) in panel.as_chunks_mut::<{ LANES * COLUMNS }>().0.iter_mut().enumerate() {
        for first in [0, LANES] {
            let rows = &rows[first.min(rows.len())..];
            let mut x = [L::zero(); LANES];
            match rows.first_chunk::<LANES>() {
                Some(rows) if rows[0].len() >= (at + 1) * LANES => {
                    for i in 0..LANES {
                        x[i] = L::load(&rows[i][at * LANES..]);
                    }
                }
                _ => partial(rows, at * LANES, &mut x),
            }
            let x = L::transpose(x);
            for i in 0..LANES {
                x[i].mul(by).store(&mut block[i * COLUMNS + first..]);
            }
        }
    }
}

/// Numbers from `at` on of the first 16 rows, with zeros where there are none.
#[inline(always)]
fn partial<E: Vectors, L: Lanes<E>>(rows: &[&[E]], at: usize, x: &mut [L; LANES]) {
    for (x, row) in x.iter_mut().zip(rows) {
        let mut numbers = [E::ZERO; LANES];
        let n = LANES.min(row.len() - at);
        numbers[..n].copy_from_slice(&row[at..][..n]);
        *x = L::load(&numbers);
    }
}

/// Heads of `x`, token after token, become panels.
#[inline(always)]
pub fn panels<E: Vectors, L: Lanes<E>>(shape: Shape, x: Rows<E>, by: E, out: &mut [E]) {
    let rows = x.n * (x.width / shape.dim);
    for (r, out) in (0..rows).step_by(COLUMNS).zip(out.chunks_exact_mut(COLUMNS * shape.padded)) {
        panel::<E, L>(x.heads(shape.dim, r, &mut [[].as_slice(); COLUMNS]), by, out);
    }
}

/// Heads of `x`, token after token, become rows.
#[inline(always)]
pub fn rows<E: Vectors>(shape: Shape, x: Rows<E>, by: E, out: &mut [E]) {
    let heads = (0..x.n).flat_map(|i| x.row(i).chunks_exact(shape.dim));
    for (x, out) in heads.zip(out.chunks_exact_mut(shape.padded)) {
        let (whole, rest) = out.split_at_mut(shape.dim);
        scaled(x, by, whole);
        rest.fill(E::ZERO);
    }
}

/// y = by x
#[inline(always)]
pub fn scaled<E: Vectors>(x: &[E], by: E, y: &mut [E]) {
    let x = &x[..y.len()];
    for i in 0..y.len() {
        y[i] = by * x[i];
    }
}

/// Parts of one piece of scratch memory, aligned like it to cache lines of f32.
pub struct Carve<'a, E>(pub &'a mut [E]);
impl<'a, E> Carve<'a, E> {
    pub fn take(&mut self, len: usize) -> &'a mut [E] {
        let (part, rest) = std::mem::take(&mut self.0).split_at_mut(len.next_multiple_of(LANES));
        self.0 = rest;
        &mut part[..len]
    }
}

/// Σ a b
#[inline(always)]
pub fn dot<E: Vectors, L: Lanes<E>>(a: &[E], b: &[E]) -> E {
    let ((a, a_rest), (b, b_rest)) = (a.as_chunks::<LANES>(), b.as_chunks::<LANES>());
    let mut sums = L::zero();
    for (a, b) in a.iter().zip(b) {
        sums = L::load(a).mul_add(L::load(b), sums);
    }
    let mut sum = sums.sum();
    for (&a, &b) in a_rest.iter().zip(b_rest) {
        sum += a * b;
    }
    sum
}
