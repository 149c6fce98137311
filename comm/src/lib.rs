//! How ranks talk.
//!
//! A [`Communicator`] is one rank's end of one process group on one lane. Every member issues the same operations in
//! the same order; `start` takes loans of device memory and gives a [`Ticket`], `wait` gives the loans back. Nothing is
//! copied in, and the ledger of the arena keeps everybody else out of the memory in between.
//!
//! Three engines stand behind the trait. [`threads()`] joins ranks that are threads of one process and does the work in
//! whoever waits; [`Queued`] puts any engine behind a queue, as a GPU does with its streams; [`Meta`] moves nothing and
//! checks the shapes. Sums over ranks have one order, the balanced tree of [`tree`](mod@tree): the bits depend neither
//! on the engine nor on timing. Groups and lanes are not made here: `plan` knows who is a member, `exec` which lane.
//!
//! Processes are started by launchers, which [`launch`] understands, and meet in the [`store`].
//!
//! Read on in [`threads`](mod@threads), then `tests/suite/engines.rs`, which says what every engine must do.
pub mod launch;
mod meta;
mod queued;
pub mod store;
mod threads;
mod tree;

pub use meta::Meta;
pub use queued::Queued;
pub use threads::threads;

use backend::{Access, DType, Loan, Mark};
use std::{collections::HashMap, fmt, sync::Arc, time::Duration};

/// An operation of a group. A *whole* buffer holds one equal *part* for each member, in group order.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Coll {
    /// `dst` is summed in place, on all members.
    AllReduce,
    /// `src` whole -> `dst` own part. With `dst` only, in place: part `rank` of the whole `dst` is the result, the
    /// other parts are left as they were.
    ReduceScatter,
    /// `src` own part -> `dst` whole. With `dst` only, in place: part `rank` of the whole `dst` is what is sent.
    AllGather,
    /// Member `from` gives `src`, member `to` gives `dst`; nobody else takes part.
    SendRecv { from: usize, to: usize },
}

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
    /// Surfaces errors of operations under way; called between actions.
    fn poll(&mut self) -> Result<(), CommError> {
        Ok(())
    }
    /// Until everything started has really ended, seen from the host. Tickets stay valid.
    fn finish(&mut self) -> Result<(), CommError>;
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
}

/// The signature of an operation: what its members must agree on.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Call {
    pub op: Coll,
    pub dtype: DType,
    /// Elements of the whole buffer.
    pub len: usize,
}

impl Call {
    /// Checks one rank's side. What it refuses is our own mistake; what it cannot see, another rank's side, is an error.
    pub fn new([rank, size]: [usize; 2], after: Mark, op: Coll, src: &Option<Loan>, dst: &Option<Loan>) -> Call {
        for loan in [src, dst].into_iter().flatten() {
            assert!(after >= loan.ready(), "{op:?} after {after:?} of memory that is ready at {:?}", loan.ready());
        }
        if let Some(dst) = dst {
            assert_eq!(dst.access(), Access::Write, "{op:?} writes {:?}", dst.view());
        }
        let [from, to] = [src, dst].map(|loan| loan.as_ref().map(|loan| loan.span().len()));
        let len = match (op, from, to) {
            (Coll::AllReduce, None, Some(whole)) => whole,
            (Coll::ReduceScatter, Some(whole), Some(part)) if part * size == whole => whole,
            (Coll::AllGather, Some(part), Some(whole)) if part * size == whole => whole,
            (Coll::ReduceScatter | Coll::AllGather, None, Some(whole)) if whole.is_multiple_of(size) => whole,
            (Coll::SendRecv { from, to }, Some(len), None) if from == rank && to != rank && to < size => len,
            (Coll::SendRecv { from, to }, None, Some(len)) if to == rank && from != rank && from < size => len,
            (op, from, to) => panic!("{op:?} of rank {rank} of {size} with src {from:?}, dst {to:?} elements"),
        };
        let dtypes = [src, dst].map(|loan| loan.as_ref().map(|loan| loan.span().dtype()));
        let dtype = match dtypes {
            [Some(src), Some(dst)] => {
                assert_eq!(src, dst, "{op:?} between dtypes");
                dst
            }
            [one, other] => one.or(other).expect("one of the two has a length"),
        };
        let sums = matches!(op, Coll::AllReduce | Coll::ReduceScatter);
        assert!(!sums || matches!(dtype, DType::F32 | DType::F64), "{op:?}: sums are of F32 or F64, not of {dtype:?}");
        Call { op, dtype, len }
    }
}

impl fmt::Display for Call {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        let Call { op, dtype, len } = self;
        match op {
            Coll::AllReduce | Coll::ReduceScatter | Coll::AllGather => write!(f, "{op:?} of {len} {dtype:?}"),
            Coll::SendRecv { from, to } => write!(f, "SendRecv from {from} to {to} of {len} {dtype:?}"),
        }
    }
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
