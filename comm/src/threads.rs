//! Ranks as threads of one process. They meet at a board, where each posts the address of its loans, and read and write
//! each other's memory. There is no communication thread: a complete operation is cut into items, and whoever waits for
//! it takes items ([`job`]) until none is left. Items write disjoint memory and each sum is one [tree](mod@crate::tree), so
//! the bits do not depend on who does what.
//!
//! Never a hang: an operation that its members call differently, that a member left before (its end was dropped, in a
//! panic too) or does not come to in time breaks the board, and every member's next call says why.
//!
//! Compute has happened when `start` is called, as on [`backend::Cpu`]; for a device with a queue see [`crate::Queued`].
mod job;
mod world;

pub use world::Threads;

use crate::{Aborter, Call, Coll, CommError, Communicator, Open, Ticket};
use backend::{Loan, Mark};
use job::{Job, Post};
use std::collections::HashMap;
use std::sync::{Arc, Condvar, Mutex, MutexGuard};
use std::time::Duration;

/// The members' ends of one communicator. `name` tells group and lane, `members` the global ranks in group order: both
/// are for messages. A member that is `timeout` late for an operation that another one waits for is an error.
pub fn threads(name: &str, members: &[usize], timeout: Duration) -> Vec<Box<dyn Communicator>> {
    let board = Board::new(name, members, timeout);
    (0..members.len()).map(|member| Box::new(End::new(member, board.clone())) as Box<dyn Communicator>).collect()
}

/// Where a rank stands in a group.
pub(crate) fn place(rank: usize, members: &[usize]) -> usize {
    let place = members.iter().position(|member| *member == rank);
    place.unwrap_or_else(|| panic!("rank {rank} is not one of {members:?}"))
}

struct End {
    rank: usize,
    board: Arc<Board>,
    started: HashMap<Channel, u64>,
    open: Open<(Key, [Option<Loan>; 2])>,
}

impl End {
    fn new(rank: usize, board: Arc<Board>) -> End {
        End { rank, board, started: HashMap::new(), open: Open::default() }
    }
}

impl Communicator for End {
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
            assert!(span.is_of_host(), "{call} of memory that the host cannot touch");
        }
        let seq = self.started.entry(op.pair()).or_default();
        let key = (op.pair(), *seq);
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

    fn aborter(&self) -> Aborter {
        let (rank, board) = (self.rank, self.board.clone());
        Arc::new(move |reason| board.abort(rank, reason))
    }
}

impl Drop for End {
    fn drop(&mut self) {
        self.board.leave(self.rank);
    }
}

/// See [`Coll::pair`].
type Channel = Option<(usize, usize)>;
/// A channel, and the sequence number in it.
type Key = (Channel, u64);

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
    /// Of each member that has come.
    posts: Vec<Option<Post>>,
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
        (0..self.posts.len()).filter(|&member| self.call.op.concerns(member) && self.posts[member].is_none())
    }
}

impl Board {
    fn new(name: &str, members: &[usize], timeout: Duration) -> Arc<Board> {
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

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap()
    }

    fn post(&self, rank: usize, key: Key, call: Call, post: Post) -> Result<(), CommError> {
        let mut state = self.state();
        state.health()?;
        let slot = state.slots.entry(key).or_insert_with(|| Slot {
            call,
            first: rank,
            posts: vec![None; self.members.len()],
            job: None,
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
        if slot.absent().next().is_none() {
            let posts = slot.posts.iter().map(|post| post.clone().unwrap_or_default()).collect();
            slot.job = Some(Arc::new(Job::new(call, posts)));
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
            slot.posts.fill(None);
        }
        state.broken = Some(error.clone());
        self.changed.notify_all();
        error
    }

    fn incomplete(&self, state: &State, seq: u64, slot: &Slot) -> CommError {
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
