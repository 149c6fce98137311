//! What a group can be asked to do, and what its members must agree on.
use backend::{Access, DType, Loan, Mark};
use std::fmt;

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
    /// `src` whole -> `dst` whole: part `i` of `dst` is part `rank` of member `i`'s `src`.
    AllToAll,
    /// What member `root` gives, as `src` or as `dst`, becomes the `dst` of all others.
    Broadcast { root: usize },
    /// Moves nothing: it is over when all members have come.
    Barrier,
    /// Member `from` gives `src`, member `to` gives `dst`; nobody else takes part. A member may send to itself.
    SendRecv { from: usize, to: usize },
}

impl Coll {
    /// Each pair of a sender and a receiver counts its own operations (`Some`), all others are counted together.
    pub(crate) fn pair(self) -> Option<(usize, usize)> {
        match self {
            Coll::SendRecv { from, to } => Some((from, to)),
            Coll::AllReduce | Coll::ReduceScatter | Coll::AllGather | Coll::AllToAll => None,
            Coll::Broadcast { .. } | Coll::Barrier => None,
        }
    }

    /// Whether `member` takes part.
    pub(crate) fn concerns(self, member: usize) -> bool {
        self.pair().is_none_or(|(from, to)| member == from || member == to)
    }

    fn sums(self) -> bool {
        matches!(self, Coll::AllReduce | Coll::ReduceScatter)
    }
}

/// The signature of an operation: what its members must agree on.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Call {
    pub op: Coll,
    /// Of a barrier, which has none, `U32`.
    pub dtype: DType,
    /// Elements of the whole buffer.
    pub len: usize,
}

impl Coll {
    /// Elements that member `rank` of `size` sends, as on a ring: every part but one, and where parts are both summed and
    /// gathered twice as much (Patarasuk and Yuan 2009, "Bandwidth optimal all-reduce algorithms"). `whole` is the length of the whole buffer.
    pub fn sent(self, [rank, size]: [usize; 2], whole: usize) -> f64 {
        let others = whole as f64 * (size - 1) as f64 / size as f64;
        match self {
            Coll::AllReduce => 2.0 * others,
            Coll::ReduceScatter | Coll::AllGather | Coll::AllToAll => others,
            Coll::Broadcast { root } if root == rank => whole as f64,
            Coll::SendRecv { from, .. } if from == rank => whole as f64,
            _ => 0.0,
        }
    }
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
        let [give, take] = [src, dst].map(|loan| loan.as_ref().map(|loan| loan.span().len()));
        let len = match (op, give, take) {
            (Coll::AllReduce, None, Some(whole)) => whole,
            (Coll::ReduceScatter, Some(whole), Some(part)) if part * size == whole => whole,
            (Coll::AllGather, Some(part), Some(whole)) if part * size == whole => whole,
            (Coll::ReduceScatter | Coll::AllGather, None, Some(whole)) if whole.is_multiple_of(size) => whole,
            (Coll::AllToAll, Some(whole), Some(other)) if whole == other && whole.is_multiple_of(size) => whole,
            (Coll::Broadcast { root }, Some(len), None) if root == rank => len,
            (Coll::Broadcast { root }, None, Some(len)) if root < size => len,
            (Coll::Barrier, None, None) => 0,
            (Coll::SendRecv { from, to }, Some(len), Some(same)) if [from, to] == [rank; 2] && len == same => len,
            (Coll::SendRecv { from, to }, Some(len), None) if from == rank && to != rank && to < size => len,
            (Coll::SendRecv { from, to }, None, Some(len)) if to == rank && from != rank && from < size => len,
            (op, give, take) => panic!("{op:?} of rank {rank} of {size} with src {give:?}, dst {take:?} elements"),
        };
        let dtype = match [src, dst].map(|loan| loan.as_ref().map(|loan| loan.span().dtype())) {
            [Some(src), Some(dst)] => {
                assert_eq!(src, dst, "{op:?} between dtypes");
                dst
            }
            [one, other] => one.or(other).unwrap_or(DType::U32),
        };
        assert!(!op.sums() || dtype != DType::U32, "{op:?}: sums are of floats, not of {dtype:?}");
        Call { op, dtype, len }
    }

    /// As messages show it, with global ranks.
    pub(crate) fn global(self, members: &[usize]) -> Call {
        let op = match self.op {
            Coll::SendRecv { from, to } => Coll::SendRecv { from: members[from], to: members[to] },
            Coll::Broadcast { root } => Coll::Broadcast { root: members[root] },
            Coll::AllReduce | Coll::ReduceScatter | Coll::AllGather | Coll::AllToAll | Coll::Barrier => self.op,
        };
        Call { op, ..self }
    }
}

impl fmt::Display for Call {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        let Call { op, dtype, len } = self;
        match op {
            Coll::Barrier => write!(f, "Barrier"),
            Coll::Broadcast { root } => write!(f, "Broadcast from {root} of {len} {dtype:?}"),
            Coll::SendRecv { from, to } => write!(f, "SendRecv from {from} to {to} of {len} {dtype:?}"),
            Coll::AllReduce | Coll::ReduceScatter | Coll::AllGather | Coll::AllToAll => {
                write!(f, "{op:?} of {len} {dtype:?}")
            }
        }
    }
}
