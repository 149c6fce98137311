//! The gradient of a weight, a sum of outer products: dw = start + scale Σ_t dy[t] ⊗ x[t].
//!
//! ```text
//!                     x: T x D, panels of 32 columns
//!                    ┌────┬────┬────┐
//!                    │    │    │    │
//!                    └────┴────┴────┘
//!  dyᵀ: F x T         dw
//! ┌────────────────┐ ┌────┬────┬────┐
//! │ panel: 14 rows │ │tile│    │    │   a tile is summed up in registers, over a panel of dyᵀ and a panel of x
//! └────────────────┘ └────┴────┴────┘
//! ```
//! Both factors lie with their long side across: a product that reads them as they are jumps from row to row. A worker
//! takes runs of panels of dyᵀ (Goto & van de Geijn 2008), and behind each tile of one run it packs a piece of the next,
//! so that what is read from far away arrives behind the arithmetic. The first tile of a run that meets a panel of x
//! leaves a copy of it for the others. For 32 vector registers of 16 numbers.
//!
//! How long the sums in registers are depends on T alone: neither the workers nor the cut of F and D have a say in the
//! bits of dw.
use super::lanes::{Kernel, LANES, Lanes, Vectors};
use super::pool::Pool;
use std::ops::Range;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

/// Vectors that have the registers for a tile.
pub const SUMS: [usize; 2] = [8, 2];
/// Rows and columns of a tile.
const ROWS: usize = 14;
const COLS: usize = 2 * LANES;
/// The longest sum in registers.
const DEPTH: usize = 512;
/// Panels of a run, at most.
const RUN: usize = 8;
/// Panels of x are asked for so many steps ahead.
const AHEAD: usize = 16;

/// dy (T, F), x (T, D) -> dw (F, D) = or += scale dyᵀ x. `dims` is [T, D, F].
pub fn outer<E: Vectors>(pool: &Pool, dy: &[E], x: &[E], dw: &mut [E], [t, d, f]: [usize; 3], scale: E, acc: bool) {
    assert_eq!([dy.len(), x.len(), dw.len()], [t * f, t * d, f * d]);
    let (isa, threads) = (pool.isa(), pool.threads());
    let (dw, x, dy) =
        (Rows { at: dw.as_mut_ptr(), width: d }, Matrix { data: x, width: d }, Matrix { data: dy, width: f });
    let blocks = Blocks { t, depth: t.div_ceil(t.div_ceil(DEPTH)).next_multiple_of(LANES) };
    let panels = f.div_ceil(ROWS);
    // As long as they may be, and as many for each worker.
    let runs = (threads * panels.div_ceil(threads * RUN)).min(panels);
    let next = AtomicUsize::new(0);
    pool.each(threads, |_| {
        let mut scratch = pool.scratch::<E>(2 * panels.div_ceil(runs) * blocks.panel() + blocks.depth * COLS);
        isa.lanes(Worker { dy, x, blocks, dw, scale, acc, runs, next: &next, scratch: &mut scratch });
    });
}

/// Tokens, cut into blocks that are summed in registers.
#[derive(Clone, Copy)]
struct Blocks {
    t: usize,
    depth: usize,
}
impl Blocks {
    fn count(self) -> usize {
        self.t.div_ceil(self.depth)
    }
    fn range(self, i: usize) -> Range<usize> {
        i * self.depth..self.t.min((i + 1) * self.depth)
    }
    /// Elements of a packed panel of dyᵀ, with what `pack` may write beyond it.
    fn panel(self) -> usize {
        self.depth * ROWS + LANES
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

/// Asks for what `pack` will read.
#[inline(always)]
fn ask<E>(x: Matrix<E>, from: usize, panels: usize, ts: Range<usize>) {
    for t in ts {
        let row = x.data.as_ptr().wrapping_add(t * x.width + from);
        for line in (0..panels * ROWS + LANES).step_by(LANES) {
            prefetch(row.wrapping_add(line));
        }
    }
}

/// What one worker does.
struct Worker<'a, E> {
    dy: Matrix<'a, E>,
    x: Matrix<'a, E>,
    blocks: Blocks,
    dw: Rows<E>,
    scale: E,
    acc: bool,
    /// How many runs there are, and the first that nobody has taken.
    runs: usize,
    next: &'a AtomicUsize,
    /// Room for two packed runs and a panel of x.
    scratch: &'a mut [E],
}

/// Panels of dyᵀ, in one block of tokens.
#[derive(Clone)]
struct Item {
    panels: Range<usize>,
    block: usize,
}

impl<E: Vectors> Kernel<E> for Worker<'_, E> {
    #[inline(always)]
    fn run<L: Lanes<E>>(mut self) {
        let tiles = self.x.width.div_ceil(COLS);
        let stride = self.blocks.panel();
        let scratch = std::mem::take(&mut self.scratch);
        let (copy, scratch) = scratch.split_at_mut(self.blocks.depth * COLS);
        let (mut now, mut later) = scratch.split_at_mut(scratch.len() / 2);

        let mut item = self.claim();
        let Item { panels, block } = item.clone();
        pack::<E, L, ROWS>(self.dy, panels.start * ROWS, panels.len(), self.blocks.range(block), stride, now);
        while !item.panels.is_empty() {
            let next = self.after(&item);
            let (Item { panels, block }, later_ts) = (item, self.blocks.range(next.block));
            let ts = self.blocks.range(block);
            let piece = later_ts.len().div_ceil(panels.len() * tiles);
            let mut from = 0;
            for tile in 0..tiles {
                let col = tile * COLS;
                let whole = col + COLS <= self.x.width;
                if !whole {
                    pack::<E, L, COLS>(self.x, col, 1, ts.clone(), 0, copy);
                }
                for (i, panel) in panels.clone().enumerate() {
                    let to = later_ts.len().min(from + piece);
                    let first = next.panels.start * ROWS;
                    let [soon, then] = [from..to, to..later_ts.len().min(to + piece)]
                        .map(|ts| later_ts.start + ts.start..later_ts.start + ts.end);
                    pack::<E, L, ROWS>(self.dy, first, next.panels.len(), soon, stride, &mut later[from * ROWS..]);
                    ask(self.dy, first, next.panels.len(), then);
                    from = to;
                    let (row, dy) = (panel * ROWS, &now[i * stride..][..ROWS * ts.len()]);
                    self.ask_dw(row, col);
                    let sums = if i == 0 && whole {
                        sums_and_copy::<E, L>(dy, &self.x.data[ts.start * self.x.width + col..], self.x.width, copy)
                    } else {
                        sums::<E, L>(dy, copy)
                    };
                    self.add(sums, row, col, self.acc || block > 0);
                }
            }
            item = next;
            std::mem::swap(&mut now, &mut later);
        }
    }
}

/// Σ dy ⊗ x of a packed panel of dyᵀ and one of x.
#[inline(always)]
fn sums<E: Vectors, L: Lanes<E>>(dy: &[E], x: &[E]) -> [[L; 2]; ROWS] {
    let mut sums = [[L::zero(); 2]; ROWS];
    for (dy, x) in dy.chunks_exact(ROWS).zip(x.chunks_exact(COLS)) {
        let ahead = x.as_ptr().wrapping_add(AHEAD * COLS);
        prefetch(ahead);
        prefetch(ahead.wrapping_add(LANES));
        add(&mut sums, dy, [L::load(x), L::load(&x[LANES..])]);
    }
    sums
}

/// The same for a panel of x as it lies, with rows that are `width` apart, of which it leaves a packed copy.
#[inline(always)]
fn sums_and_copy<E: Vectors, L: Lanes<E>>(dy: &[E], x: &[E], width: usize, copy: &mut [E]) -> [[L; 2]; ROWS] {
    let mut sums = [[L::zero(); 2]; ROWS];
    for ((dy, x), copy) in dy.chunks_exact(ROWS).zip(x.chunks(width)).zip(copy.chunks_exact_mut(COLS)) {
        let ahead = x.as_ptr().wrapping_add(AHEAD * width);
        prefetch(ahead);
        prefetch(ahead.wrapping_add(LANES));
        let x = [L::load(x), L::load(&x[LANES..])];
        x[0].store(copy);
        x[1].store(&mut copy[LANES..]);
        add(&mut sums, dy, x);
    }
    sums
}

/// sums += dy ⊗ x
#[inline(always)]
fn add<E: Vectors, L: Lanes<E>>(sums: &mut [[L; 2]; ROWS], dy: &[E], x: [L; 2]) {
    for i in 0..ROWS {
        let dy = L::splat(dy[i]);
        sums[i] = [dy.mul_add(x[0], sums[i][0]), dy.mul_add(x[1], sums[i][1])];
    }
}

impl<E: Vectors> Worker<'_, E> {
    /// The first block of a run that nobody has taken; no panels if all are.
    fn claim(&self) -> Item {
        let panels = self.dy.width.div_ceil(ROWS);
        let run = self.next.fetch_add(1, Relaxed).min(self.runs);
        let [from, to] = [run, run + 1].map(|run| (run * panels / self.runs).min(panels));
        Item { panels: from..to, block: 0 }
    }

    /// The blocks of a run one after the other: its tiles of dw stay near. Then another run.
    fn after(&self, item: &Item) -> Item {
        let next = item.block + 1;
        if next < self.blocks.count() { Item { block: next, ..item.clone() } } else { self.claim() }
    }

    /// The rows and columns of dw that there are of a tile.
    #[inline(always)]
    fn inside(&self, row: usize, col: usize) -> [Range<usize>; 2] {
        [row..(row + ROWS).min(self.dy.width), col..(col + COLS).min(self.x.width)]
    }

    /// Asks for the tile of dw that begins at `row` and `col`.
    #[inline(always)]
    fn ask_dw(&self, row: usize, col: usize) {
        let [rows, cols] = self.inside(row, col);
        for row in rows {
            prefetch(self.dw.at.wrapping_add(row * self.dw.width + cols.start));
            prefetch(self.dw.at.wrapping_add(row * self.dw.width + cols.end - 1));
        }
    }

    /// That tile becomes, or grows by, the sums.
    #[inline(always)]
    fn add<L: Lanes<E>>(&self, sums: [[L; 2]; ROWS], row: usize, col: usize, acc: bool) {
        let [rows, cols] = self.inside(row, col);
        // A place in memory that is as regular as the registers: dw may have fewer rows and columns.
        let (scale, mut tile) = (L::splat(self.scale), [[E::ZERO; COLS]; ROWS]);
        for (sums, tile) in sums.into_iter().zip(&mut tile) {
            sums[0].mul(scale).store(tile);
            sums[1].mul(scale).store(&mut tile[LANES..]);
        }
        for (row, tile) in rows.zip(&tile) {
            // SAFETY: the row and columns are inside of dw, and this worker alone has taken the panel of the row.
            let dw = unsafe { self.dw.part(row, cols.clone()) };
            match (<&mut [E; COLS]>::try_from(&mut *dw), acc) {
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
