//! How ranks talk.
//!
//! A [`Communicator`] is one rank's end of one process group on one lane. Every member issues the same operations in
//! the same order; `start` takes loans of device memory and gives a [`Ticket`], `wait` gives the loans back. Nothing is
//! copied in, and the ledger of the arena keeps everybody else out of the memory in between.
//!
//! Engines stand behind the trait. [`Threads`] joins ranks that are threads of one process and does the work in whoever
//! waits. [`Processes`] joins processes over any [`Transport`] of messages: [`mpi()`], or memory that processes of one host
//! [share](shared()). [`Queued`] puts any of them behind a queue, as a GPU does with its streams; [`Meta`] moves nothing and
//! checks the shapes. Sums over ranks have one order, the balanced tree of [`tree`](mod@tree): the bits depend neither on
//! the engine nor on timing. Who is a member of which group and lane is known to `plan` and `exec`, which
//! [join](Engine::join) them.
//!
//! Processes are started by launchers, which [`launch`] understands, and meet in the [`store`].
//!
//! Read on in [`threads`](mod@threads) or [`processes`](mod@processes), then `tests/suite/engines.rs`, which says what
//! every engine must do.
mod call;
pub mod launch;
mod meta;
mod mpi;
mod processes;
mod queued;
mod shared;
pub mod store;
mod threads;
mod tree;
mod uneven;

pub use call::{Call, Coll};
pub use meta::Meta;
pub use mpi::{Launcher, MpiError, MpiSettings, mpi, mpi_version};
pub use processes::{Bytes, Processes, Request, Transport};
pub use queued::Queued;
pub use shared::{SharedError, shared, shared_bytes};
pub use threads::{Host, Move, Mover, Post, Threads, threads};
pub use uneven::all_to_all_uneven;

use backend::{Loan, Mark};
use std::{collections::HashMap, sync::Arc, time::Duration};

/// One rank's end of a group on one lane.
///
/// An error is final: the group starts nothing any more, and every member gets it where it waits or comes next. The
/// loans of an operation that failed are not returned, so their memory stays locked in the ledger: for all an engine
/// knows, a peer is still writing there.
pub trait Communicator: Send {
    /// This rank's place in the group.
    fn rank(&self) -> usize;
    fn size(&self) -> usize;
    /// Begins after compute has passed `after`, which is not before the loans are ready.
    fn start(&mut self, after: Mark, op: Coll, src: Option<Loan>, dst: Option<Loan>) -> Result<Ticket, CommError>;
    /// Gives `src` and `dst` back; the memory is usable by later operations of the compute queue.
    fn wait(&mut self, ticket: Ticket) -> Result<[Option<Loan>; 2], CommError>;
    /// Several operations at once, that depend on each other only as a whole: on an engine whose operations pass one
    /// after another, two members that both send first and receive second would wait for each other for ever.
    fn batch(&mut self, after: Mark, transfers: Vec<Transfer>) -> Result<Vec<Ticket>, CommError> {
        transfers.into_iter().map(|Transfer { op, src, dst }| self.start(after, op, src, dst)).collect()
    }
    /// Surfaces errors of operations under way; called between actions.
    fn poll(&mut self) -> Result<(), CommError> {
        Ok(())
    }
    /// Until everything started has really ended, seen from the host. Tickets stay valid.
    fn finish(&mut self) -> Result<(), CommError>;
    /// Breaks the group with a reason, from any thread, whatever this end is doing.
    fn aborter(&self) -> Aborter;
    /// Nothing is started any more, and every member gets an error that names this rank and the reason.
    fn abort(&mut self, reason: &str) {
        self.aborter()(reason)
    }
}

/// See [`Communicator::aborter`].
pub type Aborter = Arc<dyn Fn(&str) + Send + Sync>;

/// One operation of a batch, as `start` takes it.
pub struct Transfer {
    pub op: Coll,
    pub src: Option<Loan>,
    pub dst: Option<Loan>,
}

/// How a rank comes to its ends of groups.
pub trait Engine: Send {
    /// The global rank.
    fn rank(&self) -> usize;
    /// This rank's end of the group `members`, which are global ranks in group order; `name` tells group and lane, and
    /// is for messages. Members join the groups that they have in common in the same order. Nobody waits here: a member
    /// that never joins is missed by the first operation.
    fn join(&self, name: &str, members: &[usize]) -> Result<Box<dyn Communicator>, CommError>;
}

/// An operation under way, by its number in the communicator that started it.
#[must_use = "the loans of an operation come back through `wait`"]
#[derive(Debug)]
pub struct Ticket(u64);

/// Why a group cannot go on. Ranks are global ones.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum CommError {
    #[error("{comm}, operation {seq}: rank {first} called {first_call}, rank {rank} called {call}")]
    Mismatch { comm: Arc<str>, seq: u64, first: usize, first_call: Call, rank: usize, call: Call },
    #[error("{comm}, operation {seq}, {call}: ranks {ranks:?} left before it")]
    Left { comm: Arc<str>, seq: u64, call: Call, ranks: Vec<usize> },
    #[error("{comm}, operation {seq}, {call}: ranks {ranks:?} did not come within {timeout:?}")]
    Missing { comm: Arc<str>, seq: u64, call: Call, ranks: Vec<usize>, timeout: Duration },
    #[error("{comm}, operation {seq}, {call}: all came, but from ranks {ranks:?} nothing more within {timeout:?}")]
    Stalled { comm: Arc<str>, seq: u64, call: Call, ranks: Vec<usize>, timeout: Duration },
    #[error("{comm}: rank {rank} takes it for another group; all ranks join their groups in the same order")]
    OtherGroup { comm: Arc<str>, rank: usize },
    #[error("{comm}: this process has left its world")]
    Closed { comm: Arc<str> },
    #[error("{what} (told by rank {by})")]
    Told { by: usize, what: Arc<str> },
    #[error("{comm}: {by}: {what}")]
    Transport { comm: Arc<str>, by: Arc<str>, what: Arc<str> },
    #[error("{error}; then {what}")]
    Then { error: Box<CommError>, what: Arc<str> },
    #[error("{comm}: rank {rank} gave up: {reason}")]
    Aborted { comm: Arc<str>, rank: usize, reason: Arc<str> },
}

/// For engines: what one keeps of each operation under way, by ticket.
pub struct Open<T> {
    last: u64,
    kept: HashMap<u64, T>,
}

impl<T> Default for Open<T> {
    fn default() -> Open<T> {
        Open { last: 0, kept: HashMap::new() }
    }
}
impl<T> Open<T> {
    pub fn add(&mut self, kept: T) -> Ticket {
        self.last += 1;
        self.kept.insert(self.last, kept);
        Ticket(self.last)
    }
    pub fn take(&mut self, ticket: Ticket) -> T {
        self.kept.remove(&ticket.0).expect("a ticket is for the communicator that gave it")
    }
    pub fn values(&self) -> impl Iterator<Item = &T> {
        self.kept.values()
    }
}
