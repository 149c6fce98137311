//! Ranks as threads of one process. They meet at a board, where each posts the address of its loans, and read and write
//! each other's memory. There is no communication thread: a complete operation is cut into items, and whoever waits for
//! it takes items until none is left. Items write disjoint memory and each sum is one [`tree`], so the bits do not
//! depend on who does what.
//!
//! Never a hang: an operation that its members call differently, that a member left before (its end was dropped, in a
//! panic too) or does not come to in time breaks the board, and every member's next call says why.
//!
//! Compute has happened when `start` is called, as on [`backend::Cpu`]; for a device with a queue see [`crate::Queued`].
use crate::tree::{TILE, tree};
use crate::{Call, Coll, CommError, Communicator, Open, Ticket};
use backend::{DType, Element, Loan, Mark, Span};
use std::collections::HashMap;
use std::ops::{Add, Range};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard};
use std::time::Duration;
use std::{ptr, slice};

/// The members' ends of one communicator. `name` tells group and lane, `members` the global ranks in group order: both
/// are for messages. A member that is `timeout` late for an operation that another one waits for is an error.
pub fn threads(name: &str, members: &[usize], timeout: Duration) -> Vec<Box<dyn Communicator>> {
    let state = State { slots: HashMap::new(), left: vec![false; members.len()], broken: None };
    let board = Arc::new(Board {
        name: name.into(),
        members: members.to_vec(),
        timeout,
        state: Mutex::new(state),
        changed: Condvar::new(),
    });
    let end = |rank| Threads { rank, board: board.clone(), started: HashMap::new(), open: Open::default() };
    (0..members.len()).map(|rank| Box::new(end(rank)) as Box<dyn Communicator>).collect()
}

struct Threads {
    rank: usize,
    board: Arc<Board>,
    started: HashMap<Channel, u64>,
    open: Open<(Key, [Option<Loan>; 2])>,
}

impl Communicator for Threads {
    fn rank(&self) -> usize {
        self.rank
    }
    fn size(&self) -> usize {
        self.board.members.len()
    }

    fn start(&mut self, after: Mark, op: Coll, src: Option<Loan>, dst: Option<Loan>) -> Result<Ticket, CommError> {
        let call = Call::new([self.rank, self.size()], after, op, &src, &dst);
        let post = [&src, &dst].map(|loan| loan.as_ref().map(|loan| loan.span().clone()));
        for span in post.iter().flatten() {
            assert!(span.is_real(), "{call} of phantom memory on an engine that moves it");
        }
        let seq = self.started.entry(channel(op)).or_default();
        let key = (channel(op), *seq);
        *seq += 1;
        self.board.post(self.rank, key, call, post)?;
        Ok(self.open.add((key, [src, dst])))
    }

    fn wait(&mut self, ticket: Ticket) -> Result<[Option<Loan>; 2], CommError> {
        let (key, loans) = self.open.take(ticket);
        self.board.complete(key)?;
        Ok(loans)
    }

    fn poll(&mut self) -> Result<(), CommError> {
        self.board.state().health()
    }

    fn finish(&mut self) -> Result<(), CommError> {
        self.open.values().try_for_each(|(key, _)| self.board.complete(*key))?;
        self.poll()
    }
}

impl Drop for Threads {
    fn drop(&mut self) {
        // A poisoned board is loud by itself.
        if let Ok(mut state) = self.board.state.lock() {
            state.left[self.rank] = true;
        }
        self.board.changed.notify_all();
    }
}

/// Each pair of a sender and a receiver counts its own operations, and all others are counted together.
type Channel = Option<(usize, usize)>;
/// A channel, and the sequence number in it.
type Key = (Channel, u64);
/// What one member brings: `src` and `dst`. Nothing: it has not come.
type Post = [Option<Span>; 2];

fn channel(op: Coll) -> Channel {
    match op {
        Coll::AllReduce | Coll::ReduceScatter | Coll::AllGather => None,
        Coll::SendRecv { from, to } => Some((from, to)),
    }
}

struct Board {
    name: Arc<str>,
    members: Vec<usize>,
    timeout: Duration,
    state: Mutex<State>,
    changed: Condvar,
}

struct State {
    /// Operations that some member has started and that are not done. A board that is broken keeps those it broke.
    slots: HashMap<Key, Slot>,
    left: Vec<bool>,
    broken: Option<CommError>,
}

struct Slot {
    call: Call,
    /// Who called it first.
    first: usize,
    posts: Vec<Post>,
    /// Once all have posted.
    job: Option<Arc<Job>>,
}

impl State {
    fn health(&self) -> Result<(), CommError> {
        self.broken.clone().map_or(Ok(()), Err)
    }
}

impl Slot {
    /// Members of the operation that have not come.
    fn absent(&self) -> impl Iterator<Item = usize> {
        let expected = |member| channel(self.call.op).is_none_or(|(from, to)| member == from || member == to);
        (0..self.posts.len()).filter(move |&member| expected(member) && self.posts[member].iter().all(Option::is_none))
    }
}

impl Board {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap()
    }

    fn post(&self, rank: usize, key: Key, call: Call, post: Post) -> Result<(), CommError> {
        let mut state = self.state();
        state.health()?;
        let slot = state.slots.entry(key).or_insert_with(|| Slot {
            call,
            first: rank,
            posts: vec![Post::default(); self.members.len()],
            job: None,
        });
        if slot.call != call {
            let error = CommError::Mismatch {
                comm: self.name.clone(),
                seq: key.1,
                first: self.members[slot.first],
                first_call: self.global(slot.call),
                rank: self.members[rank],
                call: self.global(call),
            };
            return Err(self.fail(&mut state, error));
        }
        slot.posts[rank] = post;
        if slot.absent().next().is_none() {
            slot.job = Some(Arc::new(Job::new(call, slot.posts.clone())));
            self.changed.notify_all();
        }
        Ok(())
    }

    /// Until the operation is done, working on it.
    fn complete(&self, key: Key) -> Result<(), CommError> {
        let pending = |state: &mut State| {
            let slot = state.slots.get(&key).filter(|slot| slot.job.is_none() && state.broken.is_none());
            slot.is_some_and(|slot| !slot.absent().any(|member| state.left[member]))
        };
        let (mut state, _) = self.changed.wait_timeout_while(self.state(), self.timeout, pending).unwrap();
        let Some(slot) = state.slots.get(&key) else { return Ok(()) };
        let Some(job) = slot.job.clone() else {
            state.health()?;
            let error = self.incomplete(&state, key.1, slot);
            return Err(self.fail(&mut state, error));
        };
        drop(state);
        if job.work() {
            self.state().slots.remove(&key);
            self.changed.notify_all();
        }
        // No timeout: what is missing are items in the hands of others, and an item neither blocks nor panics.
        drop(self.changed.wait_while(self.state(), |state| state.slots.contains_key(&key)).unwrap());
        Ok(())
    }

    /// Breaks the board: operations that are not complete never will be, and let go of their spans; others end well.
    fn fail(&self, state: &mut State, error: CommError) -> CommError {
        for slot in state.slots.values_mut().filter(|slot| slot.job.is_none()) {
            slot.posts.fill(Post::default());
        }
        state.broken = Some(error.clone());
        self.changed.notify_all();
        error
    }

    fn incomplete(&self, state: &State, seq: u64, slot: &Slot) -> CommError {
        let (comm, call) = (self.name.clone(), self.global(slot.call));
        let (left, late): (Vec<usize>, Vec<usize>) = slot.absent().partition(|&member| state.left[member]);
        let global = |ranks: Vec<usize>| ranks.into_iter().map(|member| self.members[member]).collect();
        if left.is_empty() {
            CommError::Missing { comm, seq, call, ranks: global(late), timeout: self.timeout }
        } else {
            CommError::Left { comm, seq, call, ranks: global(left) }
        }
    }

    /// As messages show it, with global ranks.
    fn global(&self, call: Call) -> Call {
        match call.op {
            Coll::AllReduce | Coll::ReduceScatter | Coll::AllGather => call,
            Coll::SendRecv { from, to } => {
                Call { op: Coll::SendRecv { from: self.members[from], to: self.members[to] }, ..call }
            }
        }
    }
}

/// A complete operation: `parts` x `tiles` items, each claimed by one thread.
struct Job {
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
    fn new(call: Call, posts: Vec<Post>) -> Job {
        let parts = match call.op {
            Coll::AllReduce | Coll::SendRecv { .. } => 1,
            Coll::ReduceScatter | Coll::AllGather => posts.len(),
        };
        let part_len = call.len / parts;
        let tiles = part_len.div_ceil(TILE).max(1);
        Job { call, posts, parts, part_len, tiles, claimed: AtomicUsize::new(0), done: AtomicUsize::new(0) }
    }

    /// Does what others have not claimed. True: the last item of all was done here.
    fn work(&self) -> bool {
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
        match (self.call.op, self.call.dtype) {
            (Coll::AllReduce, DType::F32) => self.sum::<f32>(part, at, 0..self.posts.len()),
            (Coll::AllReduce, DType::F64) => self.sum::<f64>(part, at, 0..self.posts.len()),
            (Coll::ReduceScatter, DType::F32) => self.sum::<f32>(part, at, part..part + 1),
            (Coll::ReduceScatter, DType::F64) => self.sum::<f64>(part, at, part..part + 1),
            (Coll::AllReduce | Coll::ReduceScatter, DType::BF16 | DType::F16 | DType::U32) => {
                unreachable!("refused by Call::new")
            }
            (Coll::AllGather, _) => self.copy(part, at, part, 0..self.posts.len()),
            (Coll::SendRecv { from, to }, _) => self.copy(part, at, from, to..to + 1),
        }
    }

    /// The tile of `part`, summed over all members, to `targets`.
    fn sum<E: Element + Add<Output = E>>(&self, part: usize, at: usize, targets: Range<usize>) {
        let mut tile = [E::zeroed(); TILE];
        let tile = &mut tile[..TILE.min(self.part_len - at)];
        let term = |[src, dst]: &Post| {
            let term = self.place(src.as_ref().or(dst.as_ref()), part, at).cast::<E>();
            // SAFETY: in bounds by `place`, aligned and of type E (a span's dtype is the call's). See "Races" below:
            // the slices are dead when the first target is written.
            unsafe { slice::from_raw_parts(term.cast_const(), tile.len()) }
        };
        let terms: Vec<&[E]> = self.posts.iter().map(term).collect();
        tree(&terms, tile);
        for target in targets {
            let target = self.place(self.posts[target][1].as_ref(), part, at).cast::<E>();
            // SAFETY: as above, lent for writing; the tile is on this stack.
            unsafe { ptr::copy_nonoverlapping(tile.as_ptr(), target, tile.len()) }
        }
    }

    /// The tile of `part` from one member to `targets`.
    fn copy(&self, part: usize, at: usize, from: usize, targets: Range<usize>) {
        let bytes = TILE.min(self.part_len - at) * self.call.dtype.bytes();
        let [src, dst] = &self.posts[from];
        let source = self.place(src.as_ref().or(dst.as_ref()), part, at);
        for target in targets {
            let target = self.place(self.posts[target][1].as_ref(), part, at);
            // In place, a member has its own part already.
            if target != source {
                // SAFETY: both in bounds by `place`. They do not overlap: two loans of which one is for writing never
                // do, and in one loan the same tile is the same address. See "Races" below.
                unsafe { ptr::copy_nonoverlapping(source, target, bytes) }
            }
        }
    }

    /// Where element `at` of `part` is, in a whole buffer or in one that is this part alone. From here on the span has
    /// the rest of the part: `Call::new` has checked that a buffer is as long as the whole or as a part, and `post` that
    /// all members mean the same whole.
    ///
    /// Races. (1) Every post is the span of a loan: while a clone of it lives here, the loan has not come back to its
    /// arena, or only in the order of a queue that stands until the clone is gone, so nobody outside this job touches
    /// the memory. (2) All posts happened before the job was made, under the board's lock. (3) An item is claimed once,
    /// and touches only its own tile of its own part, in the spans of all members: no two items share a byte. (4) The
    /// end of the last item happens before any `wait` returns, by `done` and the board's lock.
    fn place(&self, span: Option<&Span>, part: usize, at: usize) -> *mut u8 {
        let span = span.expect("Call::new wants the loans of the operation");
        let at = if span.len() == self.call.len { part * self.part_len + at } else { at };
        span.ptr().wrapping_add(at * self.call.dtype.bytes())
    }
}
