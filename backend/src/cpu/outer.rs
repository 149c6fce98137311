//! The gradient of a weight, a sum of outer products: dw = start + scale Σ_t dy[t] ⊗ x[t].
//!
//! ```text
//!                     x: T x D, packed by panels of 32 columns, as many as a cache holds
//!                    ┌────┬────┬────┐
//!                    │    │    │    │
//!                    └────┴────┴────┘
//!  dyᵀ: F x T         dw
//! ┌────────────────┐ ┌────┬────┬────┐
//! │ panel: 14 rows │ │tile│    │    │   a tile is summed up in registers, over a panel of dyᵀ and a panel of x
//! └────────────────┘ └────┴────┴────┘
//! ```
//! Both factors lie with their long side across: a product that reads them as they are jumps from page to page. Here a
//! worker takes runs of panels (Goto & van de Geijn 2008), and behind each tile of one run it packs a piece of the next,
//! so that what is read from far away arrives behind the arithmetic. For 32 vector registers of 16 numbers.
//!
//! How long the sums in registers are depends on T alone: neither the workers nor the cut of F and D have a say in the
//! bits of dw.
use super::lanes::{Kernel, LANES, Lanes, Vectors};
use super::pool::{Pool, pieces_mut};
use std::ops::Range;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

/// Vectors that have the registers for a tile.
pub const SUMS: [usize; 2] = [8, 2];
/// Rows and columns of a tile.
const ROWS: usize = 14;
const COLS: usize = 2 * LANES;
/// The longest sum in registers.
const DEPTH: usize = 512;
/// Elements of x that are packed at once: they stay in a cache of a megabyte or two.
const PACKED: usize = 192 << 10;
/// Panels that a worker takes at once, while there are many left.
const RUN: usize = 8;
/// Panels of x are asked for so many steps ahead.
const AHEAD: usize = 8;

/// dy (T, F), x (T, D) -> dw (F, D) = or += scale dyᵀ x. `dims` is [T, D, F].
pub fn outer<E: Vectors>(pool: &Pool, dy: &[E], x: &[E], dw: &mut [E], [t, d, f]: [usize; 3], scale: E, acc: bool) {
    assert_eq!([dy.len(), x.len(), dw.len()], [t * f, t * d, f * d]);
    let (isa, dw) = (pool.isa(), Rows { at: dw.as_mut_ptr(), width: d });
    let depth = t.div_ceil(t.div_ceil(DEPTH)).next_multiple_of(LANES);
    let cols = (PACKED / depth).next_multiple_of(COLS);
    let mut packed = pool.scratch::<E>(depth * cols.min(d.next_multiple_of(COLS)));
    for t0 in (0..t).step_by(depth) {
        let ts = t0..t.min(t0 + depth);
        for d0 in (0..d).step_by(cols) {
            let ds = d0..d.min(d0 + cols);
            let panels = ds.len().div_ceil(COLS);
            let x = Matrix { data: x, width: d };
            let packed = &mut packed[..panels * COLS * ts.len()];
            pool.over(pieces_mut(packed, COLS * ts.len()), |panel, out| {
                isa.lanes(PackX { x, from: d0 + panel * COLS, ts: ts.clone(), out });
            });
            let (next, packed) = (AtomicUsize::new(0), &*packed);
            pool.each(pool.threads(), |_| {
                let mut scratch = pool.scratch::<E>(2 * RUN * (ts.len() * ROWS + LANES));
                isa.lanes(Worker {
                    dy: Matrix { data: dy, width: f },
                    ts: ts.clone(),
                    packed,
                    dw,
                    ds: ds.clone(),
                    scale,
                    acc: acc || t0 > 0,
                    next: &next,
                    scratch: &mut scratch,
                });
            });
        }
    }
}

#[derive(Clone, Copy)]
struct Matrix<'a, E> {
    data: &'a [E],
    width: usize,
}

/// The rows of dw.
struct Rows<E> {
    at: *mut E,
    width: usize,
}
impl<E> Clone for Rows<E> {
    fn clone(&self) -> Self {
        *self
    }
}
impl<E> Copy for Rows<E> {}
// SAFETY: stands for `&mut [E]`, of which workers take disjoint parts.
unsafe impl<E: Send> Sync for Rows<E> {}

impl<E> Rows<E> {
    /// # Safety
    /// The row and the columns are inside of dw, and nobody else has them.
    #[inline(always)]
    unsafe fn part<'a>(self, row: usize, cols: Range<usize>) -> &'a mut [E] {
        // SAFETY: by the contract of this function.
        unsafe { std::slice::from_raw_parts_mut(self.at.add(row * self.width + cols.start), cols.len()) }
    }
}

/// Panels of W columns, `panels` of them from column `from` on, each `stride` after the one before in `out`: the W
/// numbers of one t after those of the other. Columns that there are not are zeros. Writes up to LANES numbers beyond the
/// end of each panel.
#[inline(always)]
fn pack<E: Vectors, L: Lanes<E>, const W: usize>(
    x: Matrix<E>,
    from: usize,
    panels: usize,
    ts: Range<usize>,
    stride: usize,
    out: &mut [E],
) {
    let whole = from + (panels * W).next_multiple_of(LANES) + LANES <= x.width;
    for (i, t) in ts.enumerate() {
        let row = &x.data[t * x.width..(t + 1) * x.width];
        for panel in 0..panels {
            for part in (0..W).step_by(LANES) {
                let (at, to) = (from + panel * W + part, panel * stride + i * W + part);
                if whole {
                    L::load(&row[at..]).store(&mut out[to..]);
                } else {
                    let mut some = [E::ZERO; LANES];
                    let n = x.width.saturating_sub(at).min(LANES);
                    some[..n].copy_from_slice(&row[x.width.min(at)..][..n]);
                    L::load(&some).store(&mut out[to..]);
                }
            }
        }
    }
}

struct PackX<'a, E> {
    x: Matrix<'a, E>,
    from: usize,
    ts: Range<usize>,
    out: &'a mut [E],
}
impl<E: Vectors> Kernel<E> for PackX<'_, E> {
    #[inline(always)]
    fn run<L: Lanes<E>>(self) {
        pack::<E, L, COLS>(self.x, self.from, 1, self.ts, 0, self.out);
    }
}

/// What one worker adds to dw: some t, and the columns of x that are packed.
struct Worker<'a, E> {
    dy: Matrix<'a, E>,
    ts: Range<usize>,
    packed: &'a [E],
    dw: Rows<E>,
    ds: Range<usize>,
    scale: E,
    acc: bool,
    /// The first panel of dyᵀ that nobody has taken.
    next: &'a AtomicUsize,
    /// Room for two runs of packed panels.
    scratch: &'a mut [E],
}

impl<E: Vectors> Kernel<E> for Worker<'_, E> {
    #[inline(always)]
    fn run<L: Lanes<E>>(mut self) {
        let (len, tiles) = (self.ts.len(), self.ds.len().div_ceil(COLS));
        let stride = len * ROWS + LANES;
        let scratch = std::mem::take(&mut self.scratch);
        let (mut now, mut later) = scratch.split_at_mut(scratch.len() / 2);

        let mut run = self.claim();
        pack::<E, L, ROWS>(self.dy, run.start * ROWS, run.len(), self.ts.clone(), stride, now);
        while !run.is_empty() {
            let next = self.claim();
            let piece = len.div_ceil(run.len() * tiles);
            let mut from = 0;
            for (i, panel) in run.enumerate() {
                for tile in 0..tiles {
                    let to = len.min(from + piece);
                    let ts = self.ts.start + from..self.ts.start + to;
                    pack::<E, L, ROWS>(self.dy, next.start * ROWS, next.len(), ts, stride, &mut later[from * ROWS..]);
                    from = to;
                    let x = &self.packed[tile * COLS * len..][..COLS * len];
                    self.tile::<L>(&now[i * stride..][..ROWS * len], x, panel * ROWS, tile * COLS);
                }
            }
            run = next;
            std::mem::swap(&mut now, &mut later);
        }
    }
}

impl<E: Vectors> Worker<'_, E> {
    /// The next panels that nobody has taken: fewer and fewer, so that all workers end together.
    fn claim(&self) -> Range<usize> {
        let panels = self.dy.width.div_ceil(ROWS);
        let end = |at: usize| panels.min(at + ((panels - at) / 8).clamp(1, RUN));
        let at = self.next.fetch_update(Relaxed, Relaxed, |at| Some(end(at))).expect("it is always Some");
        at..end(at)
    }

    /// Adds one tile: rows from `row` on, columns from `col` on of those that are packed.
    #[inline(always)]
    fn tile<L: Lanes<E>>(&self, dy: &[E], x: &[E], row: usize, col: usize) {
        let rows = row..(row + ROWS).min(self.dy.width);
        let cols = self.ds.start + col..(self.ds.start + col + COLS).min(self.ds.end);
        for row in rows.clone() {
            prefetch(self.dw.at.wrapping_add(row * self.dw.width + cols.start));
            prefetch(self.dw.at.wrapping_add(row * self.dw.width + cols.end - 1));
        }
        let mut sums = [[L::zero(); 2]; ROWS];
        for (dy, x) in dy.chunks_exact(ROWS).zip(x.chunks_exact(COLS)) {
            prefetch(x.as_ptr().wrapping_add(AHEAD * COLS));
            prefetch(x.as_ptr().wrapping_add(AHEAD * COLS + LANES));
            let x = [L::load(x), L::load(&x[LANES..])];
            for i in 0..ROWS {
                let dy = L::splat(dy[i]);
                sums[i] = [dy.mul_add(x[0], sums[i][0]), dy.mul_add(x[1], sums[i][1])];
            }
        }
        // A place in memory that is as regular as the registers: dw may have fewer rows and columns.
        let (scale, mut tile) = (L::splat(self.scale), [[E::ZERO; COLS]; ROWS]);
        for (sums, tile) in sums.into_iter().zip(&mut tile) {
            sums[0].mul(scale).store(tile);
            sums[1].mul(scale).store(&mut tile[LANES..]);
        }
        for (row, tile) in rows.zip(&tile) {
            // SAFETY: the row and columns are inside of dw, and this worker alone has taken the panel of the row.
            let dw = unsafe { self.dw.part(row, cols.clone()) };
            match (<&mut [E; COLS]>::try_from(&mut *dw), self.acc) {
                (Ok(dw), false) => *dw = *tile,
                (Ok(dw), true) => (0..COLS).for_each(|j| dw[j] += tile[j]),
                (Err(_), false) => dw.copy_from_slice(&tile[..cols.len()]),
                (Err(_), true) => (0..cols.len()).for_each(|j| dw[j] += tile[j]),
            }
        }
    }
}

/// Asks for a cache line that will be used soon. Any address will do.
#[inline(always)]
fn prefetch<E>(at: *const E) {
    #[cfg(target_arch = "x86_64")]
    // SAFETY: a hint, which never faults; every x86-64 has it.
    unsafe {
        use std::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
        _mm_prefetch::<_MM_HINT_T0>(at.cast());
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = at;
}
