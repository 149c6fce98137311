//! An engine behind a queue, as NCCL is behind a stream: `start` and `wait` only issue, and the transfer happens later.
//!
//! Each communicator has a lane: a queue whose thread is the rank's end of the inner engine. The lane is in order, one
//! operation at a time: the strictest engine there is, so what passes here passes everywhere. Between the lane and the
//! compute queue stand a mark (a transfer begins after it) and the end of the lane's side of the loan (compute goes on
//! after it). The host is told of an error late, at the next call; nobody waits for a transfer that failed.
use crate::{Aborter, Call, Coll, CommError, Communicator, Open, Ticket, Transfer};
use backend::{Loan, Mark, Queue};
use std::sync::{Arc, Mutex};

pub struct Queued {
    rank: usize,
    size: usize,
    /// Used on the lane's thread only; the lock is never contended.
    inner: Arc<Mutex<Box<dyn Communicator>>>,
    aborter: Aborter,
    lane: Queue,
    compute: Queue,
    /// The first error of the lane. It stays: the group is broken.
    error: Arc<Mutex<Option<CommError>>>,
    open: Open<[Option<Back>; 2]>,
}

/// The host's side of a loan, see [`Loan::defer`].
type Back = Box<dyn FnOnce() -> Loan + Send>;

impl Queued {
    /// `compute` is the queue of the device that lends. With a seed the lane pauses at random, see [`Queue`].
    pub fn new(inner: Box<dyn Communicator>, compute: Queue, delays: Option<u64>) -> Queued {
        Queued {
            rank: inner.rank(),
            size: inner.size(),
            aborter: inner.aborter(),
            inner: Arc::new(Mutex::new(inner)),
            lane: Queue::new(delays),
            compute,
            error: Arc::default(),
            open: Open::default(),
        }
    }

    /// Work for the lane.
    fn push(&self, job: impl FnOnce(&mut dyn Communicator) -> Result<(), CommError> + Send + 'static) -> Mark {
        let (inner, error) = (self.inner.clone(), self.error.clone());
        self.lane.push(move || {
            if let Err(e) = job(&mut **inner.lock().unwrap()) {
                error.lock().unwrap().get_or_insert(e);
            }
        })
    }
}

impl Communicator for Queued {
    fn rank(&self) -> usize {
        self.rank
    }
    fn size(&self) -> usize {
        self.size
    }

    fn start(&mut self, after: Mark, op: Coll, src: Option<Loan>, dst: Option<Loan>) -> Result<Ticket, CommError> {
        let tickets = self.batch(after, vec![Transfer { op, src, dst }])?;
        Ok(tickets.into_iter().next().expect("one for each operation"))
    }

    fn batch(&mut self, after: Mark, transfers: Vec<Transfer>) -> Result<Vec<Ticket>, CommError> {
        self.poll()?;
        assert!(after <= self.compute.mark(), "a start after {after:?}, which compute never reaches");
        let defer = |loan: Loan| {
            let (engine, back) = loan.defer();
            (engine, Box::new(back) as Back)
        };
        let mut tickets = vec![];
        let mut job = vec![];
        for Transfer { op, src, dst } in transfers {
            // A mistake is refused here, where it is made, and not on the lane's thread.
            Call::new([self.rank, self.size], after, op, &src, &dst);
            let [(src, src_back), (dst, dst_back)] = [src, dst].map(|loan| loan.map(defer).unzip());
            job.push(Transfer { op, src, dst });
            tickets.push(self.open.add([src_back, dst_back]));
        }
        let compute = self.compute.clone();
        self.push(move |inner| {
            compute.wait(after);
            let start = |Transfer { op, src, dst }| inner.start(after, op, src, dst);
            let started: Vec<_> = job.into_iter().map(start).collect();
            // Compute goes on where the lane's side of the loans is dropped: all of them, also behind an error.
            let end = |ticket: Result<Ticket, CommError>| ticket.and_then(|ticket| inner.wait(ticket)).map(drop);
            let ended: Vec<_> = started.into_iter().map(end).collect();
            ended.into_iter().collect()
        });
        Ok(tickets)
    }

    /// Returns at once: the loans are over in queue order.
    fn wait(&mut self, ticket: Ticket) -> Result<[Option<Loan>; 2], CommError> {
        self.poll()?;
        Ok(self.open.take(ticket).map(|back| back.map(|back| back())))
    }

    fn poll(&mut self) -> Result<(), CommError> {
        self.error.lock().unwrap().clone().map_or(Ok(()), Err)
    }

    fn finish(&mut self) -> Result<(), CommError> {
        let end = self.push(|inner| inner.finish());
        self.lane.wait(end);
        self.poll()
    }

    fn aborter(&self) -> Aborter {
        self.aborter.clone()
    }
}
