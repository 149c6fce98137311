//! Ranks as threads of one process. They meet at a board, where each posts the address of its loans, and read and write
//! each other's memory. There is no communication thread: a complete operation is cut into items, and whoever waits for
//! it takes items ([`job`]) until none is left. Items write disjoint memory and each sum is one [tree](mod@crate::tree), so
//! the bits do not depend on who does what.
//!
//! Never a hang: an operation that its members call differently, that a member left before (its end was dropped, in a
//! panic too) or does not come to in time breaks the board, and every member's next call says why.
//!
//! Who moves is a [`Mover`]. For the [`Host`] compute has happened when `start` is called, as on [`backend::Cpu`]; for a device
//! with a queue see [`crate::Queued`], and for ranks that are on one card the crate `cuda`.
mod job;
mod mover;
mod moves;
mod world;

pub use job::Post;
pub use mover::{Host, Mover};
pub use moves::Move;
pub use world::Threads;

use crate::{Aborter, Call, Coll, CommError, Communicator, Open, Ticket};
use backend::{Loan, Mark};
use std::collections::HashMap;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, OnceLock};
use std::time::Duration;

/// The members' ends of one communicator. `name` tells group and lane, `members` the global ranks in group order: both
/// are for messages. A member that is `timeout` late for an operation that another one waits for is an error.
pub fn threads(name: &str, members: &[usize], timeout: Duration) -> Vec<Box<dyn Communicator>> {
    let board = Board::new(name, members, timeout);
    (0..members.len()).map(|member| Box::new(End::new(member, board.clone(), Host)) as Box<dyn Communicator>).collect()
}

/// Where a rank stands in a group.
pub(crate) fn place(rank: usize, members: &[usize]) -> usize {
    let place = members.iter().position(|member| *member == rank);
    place.unwrap_or_else(|| panic!("rank {rank} is not one of {members:?}"))
}

struct End<M: Mover> {
    rank: usize,
    board: Arc<Board<M>>,
    mover: M,
    started: HashMap<Channel, u64>,
    open: Open<(Key, Shared<M>, [Option<Loan>; 2])>,
}

impl<M: Mover> End<M> {
    fn new(rank: usize, board: Arc<Board<M>>, mover: M) -> End<M> {
        End { rank, board, mover, started: HashMap::new(), open: Open::default() }
    }
}

impl<M: Mover> Communicator for End<M> {
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
        let seq = self.started.entry(op.pair()).or_default();
        let key = (op.pair(), *seq);
        *seq += 1;
        let ready = self.mover.ready(after);
        let job = self.board.post(self.rank, key, call, (post, ready))?;
        if let Some(job) = job.get().filter(|_| M::AT_ONCE) {
            self.board.work(key, job, &mut self.mover);
        }
        Ok(self.open.add((key, job, [src, dst])))
    }

    fn wait(&mut self, ticket: Ticket) -> Result<[Option<Loan>; 2], CommError> {
        let (key, job, loans) = self.open.take(ticket);
        self.board.complete(key, &mut self.mover)?;
        self.mover.done(job.get().expect("it is complete"));
        Ok(loans)
    }

    fn poll(&mut self) -> Result<(), CommError> {
        self.board.state().health()
    }

    fn finish(&mut self) -> Result<(), CommError> {
        for (key, job, _) in self.open.values() {
            self.board.complete(*key, &mut self.mover)?;
            self.mover.end(job.get().expect("it is complete"));
        }
        self.poll()
    }

    fn aborter(&self) -> Aborter {
        let (rank, board) = (self.rank, self.board.clone());
        Arc::new(move |reason| board.abort(rank, reason))
    }
}

impl<M: Mover> Drop for End<M> {
    fn drop(&mut self) {
        self.board.leave(self.rank);
    }
}

/// See [`Coll::pair`].
type Channel = Option<(usize, usize)>;
/// A channel, and the sequence number in it.
type Key = (Channel, u64);

struct Board<M: Mover> {
    name: Arc<str>,
    members: Vec<usize>,
    timeout: Duration,
    state: Mutex<State<M>>,
    changed: Condvar,
}

struct State<M: Mover> {
    /// Operations that some member has started and that are not done. A board that is broken keeps those it broke.
    slots: HashMap<Key, Slot<M>>,
    left: Vec<bool>,
    broken: Option<CommError>,
}

/// A job, once all have posted.
type Shared<M> = Arc<OnceLock<<M as Mover>::Job>>;

struct Slot<M: Mover> {
    call: Call,
    /// Who called it first.
    first: usize,
    /// Of each member that has come.
    posts: Vec<Option<(Post, M::Ready)>>,
    job: Shared<M>,
}

impl<M: Mover> State<M> {
    fn health(&self) -> Result<(), CommError> {
        self.broken.clone().map_or(Ok(()), Err)
    }
}

impl<M: Mover> Slot<M> {
    /// Members of the operation that have not come.
    fn absent(&self) -> impl Iterator<Item = usize> {
        (0..self.posts.len()).filter(|&member| self.call.op.concerns(member) && self.posts[member].is_none())
    }
}

impl<M: Mover> Board<M> {
    fn new(name: &str, members: &[usize], timeout: Duration) -> Arc<Board<M>> {
        let state = State { slots: HashMap::new(), left: vec![false; members.len()], broken: None };
        let (state, changed) = (Mutex::new(state), Condvar::new());
        Arc::new(Board { name: name.into(), members: members.to_vec(), timeout, state, changed })
    }

    fn leave(&self, member: usize) {
        // A poisoned board is loud by itself.
        if let Ok(mut state) = self.state.lock() {
            state.left[member] = true;
        }
        self.changed.notify_all();
    }

    fn abort(&self, member: usize, reason: &str) {
        let mut state = self.state();
        // The first error stays.
        if state.broken.is_none() {
            let rank = self.members[member];
            self.fail(&mut state, CommError::Aborted { comm: self.name.clone(), rank, reason: reason.into() });
        }
    }

    fn state(&self) -> MutexGuard<'_, State<M>> {
        self.state.lock().unwrap()
    }

    fn post(&self, rank: usize, key: Key, call: Call, post: (Post, M::Ready)) -> Result<Shared<M>, CommError> {
        let mut state = self.state();
        state.health()?;
        let slot = state.slots.entry(key).or_insert_with(|| Slot {
            call,
            first: rank,
            posts: vec![None; self.members.len()],
            job: Arc::default(),
        });
        if slot.call != call {
            let error = CommError::Mismatch {
                comm: self.name.clone(),
                seq: key.1,
                first: self.members[slot.first],
                first_call: slot.call.global(&self.members),
                rank: self.members[rank],
                call: call.global(&self.members),
            };
            return Err(self.fail(&mut state, error));
        }
        slot.posts[rank] = Some(post);
        let job = slot.job.clone();
        if slot.absent().next().is_none() {
            let posts = std::mem::take(&mut slot.posts);
            job.get_or_init(|| M::job(call, posts));
            self.changed.notify_all();
        }
        Ok(job)
    }

    /// Whoever makes an end of it closes its slot.
    fn work(&self, key: Key, job: &M::Job, mover: &mut M) {
        if mover.work(job) {
            self.state().slots.remove(&key);
            self.changed.notify_all();
        }
    }

    /// Until the operation is done, working on it.
    fn complete(&self, key: Key, mover: &mut M) -> Result<(), CommError> {
        let pending = |state: &mut State<M>| {
            let slot = state.slots.get(&key).filter(|slot| slot.job.get().is_none() && state.broken.is_none());
            slot.is_some_and(|slot| !slot.absent().any(|member| state.left[member]))
        };
        let (mut state, _) = self.changed.wait_timeout_while(self.state(), self.timeout, pending).unwrap();
        let Some(slot) = state.slots.get(&key) else { return Ok(()) };
        let job = slot.job.clone();
        let Some(job) = job.get() else {
            state.health()?;
            let error = self.incomplete(&state, key.1, slot);
            return Err(self.fail(&mut state, error));
        };
        drop(state);
        self.work(key, job, mover);
        // No timeout: what is missing are items in the hands of others, and an item neither blocks nor panics.
        drop(self.changed.wait_while(self.state(), |state| state.slots.contains_key(&key)).unwrap());
        Ok(())
    }

    /// Breaks the board: operations that are not complete never will be, and let go of their spans; others end well.
    fn fail(&self, state: &mut State<M>, error: CommError) -> CommError {
        for slot in state.slots.values_mut().filter(|slot| slot.job.get().is_none()) {
            slot.posts.fill(None);
        }
        state.broken = Some(error.clone());
        self.changed.notify_all();
        error
    }

    fn incomplete(&self, state: &State<M>, seq: u64, slot: &Slot<M>) -> CommError {
        let (comm, call) = (self.name.clone(), slot.call.global(&self.members));
        let (left, late): (Vec<usize>, Vec<usize>) = slot.absent().partition(|&member| state.left[member]);
        let global = |ranks: Vec<usize>| ranks.into_iter().map(|member| self.members[member]).collect();
        if left.is_empty() {
            CommError::Missing { comm, seq, call, ranks: global(late), timeout: self.timeout }
        } else {
            CommError::Left { comm, seq, call, ranks: global(left) }
        }
    }
}
