//! A complete operation of ranks that are threads: which bytes go where, in items that anybody may do.
use super::Move;
use crate::Call;
use crate::tree::{self, TILE, Term};
use backend::{DType, Span};
use half::{bf16, f16};
use std::ops::Range;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::{ptr, slice};

/// What one member brings: `src` and `dst`.
pub type Post = [Option<Span>; 2];

/// `parts` x `tiles` items, each claimed by one thread.
pub struct Job {
    call: Call,
    posts: Vec<Post>,
    parts: usize,
    part_len: usize,
    /// Of one part. An empty part has an empty one.
    tiles: usize,
    claimed: AtomicUsize,
    done: AtomicUsize,
}

impl Job {
    pub fn new(call: Call, posts: Vec<Post>) -> Job {
        let parts = call.parts(posts.len());
        let part_len = call.len / parts;
        let tiles = part_len.div_ceil(TILE).max(1);
        Job { call, posts, parts, part_len, tiles, claimed: AtomicUsize::new(0), done: AtomicUsize::new(0) }
    }

    /// Does what others have not claimed. True: the last item of all was done here.
    pub fn work(&self) -> bool {
        let items = self.parts * self.tiles;
        let mut last = false;
        loop {
            let item = self.claimed.fetch_add(1, Ordering::Relaxed);
            if item >= items {
                return last;
            }
            self.item(item / self.tiles, item % self.tiles * TILE);
            // What all others wrote happens before the last one's count, and so before the slot's end.
            last = self.done.fetch_add(1, Ordering::AcqRel) + 1 == items;
        }
    }

    /// One tile of one part, from element `at` of it.
    fn item(&self, part: usize, at: usize) {
        self.call.moves(part, self.posts.len(), |what| match what {
            Move::Sum { part, targets } => self.sums(part, at, targets),
            Move::Copy { members, parts } => self.copy(members, parts, at),
        });
    }

    fn sums(&self, part: usize, at: usize, targets: Range<usize>) {
        match self.call.dtype {
            DType::F32 => self.sum::<f32>(part, at, targets),
            DType::F64 => self.sum::<f64>(part, at, targets),
            DType::BF16 => self.sum::<bf16>(part, at, targets),
            DType::F16 => self.sum::<f16>(part, at, targets),
            DType::U32 => unreachable!("refused by Call::new"),
        }
    }

    /// The tile of `part`, summed over all members, to `targets`.
    fn sum<E: Term>(&self, part: usize, at: usize, targets: Range<usize>) {
        let mut tile = [E::zeroed(); TILE];
        let tile = &mut tile[..TILE.min(self.part_len - at)];
        let term = |[src, dst]: &Post| {
            let term = self.place(src.as_ref().or(dst.as_ref()), part, at).cast::<E>();
            // SAFETY: in bounds by `place`, aligned and of type E (a span's dtype is the call's). See "Races" below:
            // the slices are dead when the first target is written.
            unsafe { slice::from_raw_parts(term.cast_const(), tile.len()) }
        };
        let terms: Vec<&[E]> = self.posts.iter().map(term).collect();
        tree::sum(&terms, tile);
        for target in targets {
            let target = self.place(self.posts[target][1].as_ref(), part, at).cast::<E>();
            // SAFETY: as above, lent for writing; the tile is on this stack.
            unsafe { ptr::copy_nonoverlapping(tile.as_ptr(), target, tile.len()) }
        }
    }

    /// The tile of part `give` of member `from` to part `take` of member `to`.
    fn copy(&self, [from, to]: [usize; 2], [give, take]: [usize; 2], at: usize) {
        let bytes = TILE.min(self.part_len - at) * self.call.dtype.bytes();
        let [src, dst] = &self.posts[from];
        let source = self.place(src.as_ref().or(dst.as_ref()), give, at);
        let target = self.place(self.posts[to][1].as_ref(), take, at);
        // In place, a member has its own part already.
        if target != source {
            // SAFETY: both in bounds by `place`. They do not overlap: two loans of which one is for writing never do,
            // and in one loan the same tile is the same address. See "Races" below.
            unsafe { ptr::copy_nonoverlapping(source, target, bytes) }
        }
    }

    /// Where element `at` of `part` is, in a whole buffer or in one that is this part alone. From here on the span has
    /// the rest of the part: `Call::new` has checked that a buffer is as long as the whole or as a part, and `post` that
    /// all members mean the same whole.
    ///
    /// Races. (1) Every post is the span of a loan: while a clone of it lives here, the loan has not come back to its
    /// arena, or only in the order of a queue that stands until the clone is gone, so nobody outside this job touches
    /// the memory. (2) All posts happened before the job was made, under the board's lock. (3) An item is claimed once.
    /// It writes only its own tile of its own part (of an all-to-all: the tile at `at` of all parts of member `part`),
    /// and reads only what no item writes or what it writes itself: no two items share a byte that one of them writes.
    /// (4) The end of the last item happens before any `wait` returns, by `done` and the board's lock.
    fn place(&self, span: Option<&Span>, part: usize, at: usize) -> *mut u8 {
        let span = span.expect("Call::new wants the loans of the operation");
        let first = self.call.start(part, self.part_len, span.len());
        span.ptr().wrapping_add((first + at) * self.call.dtype.bytes())
    }
}
