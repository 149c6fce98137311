//! The engine of the shape-only device: an operation is over at once and nothing moves, but one rank's side of it obeys
//! the same rules. It stands for any rank of a group of any size, so one process can go through the program of one rank
//! of thousands. Real memory is refused: even a group of one has something to copy there.
use crate::{Aborter, Call, Coll, CommError, Communicator, Open, Ticket};
use backend::{Loan, Mark};

pub struct Meta {
    rank: usize,
    size: usize,
    open: Open<[Option<Loan>; 2]>,
}

impl Meta {
    pub fn new(rank: usize, size: usize) -> Meta {
        assert!(rank < size, "rank {rank} of {size}");
        Meta { rank, size, open: Open::default() }
    }
}

impl Communicator for Meta {
    fn rank(&self) -> usize {
        self.rank
    }
    fn size(&self) -> usize {
        self.size
    }
    fn start(&mut self, after: Mark, op: Coll, src: Option<Loan>, dst: Option<Loan>) -> Result<Ticket, CommError> {
        Call::new([self.rank, self.size], after, op, &src, &dst);
        for loan in [&src, &dst].into_iter().flatten() {
            assert!(!loan.span().is_real(), "{op:?} of real memory {:?} on an engine that moves nothing", loan.view());
        }
        Ok(self.open.add([src, dst]))
    }
    fn wait(&mut self, ticket: Ticket) -> Result<[Option<Loan>; 2], CommError> {
        Ok(self.open.take(ticket))
    }
    fn finish(&mut self) -> Result<(), CommError> {
        Ok(())
    }
    /// There is nobody to tell.
    fn aborter(&self) -> Aborter {
        std::sync::Arc::new(|_| {})
    }
}
