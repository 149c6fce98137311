//! An engine behind a queue, as NCCL is behind a stream: `start` and `wait` only issue, and the transfer happens later.
//!
//! Each communicator has a lane: a queue whose thread is the rank's end of the inner engine. The lane is in order, one
//! operation at a time: the strictest engine there is, so what passes here passes everywhere. Between the lane and the
//! compute queue stand a mark (a transfer begins after it) and the end of the lane's side of the loan (compute goes on
//! after it). The host is told of an error late, at the next call; nobody waits for a transfer that failed.
use crate::{Call, Coll, CommError, Communicator, Open, Ticket};
use backend::{Loan, Mark, Queue};
use std::sync::{Arc, Mutex};

pub struct Queued {
    rank: usize,
    size: usize,
    /// Used on the lane's thread only; the lock is never contended.
    inner: Arc<Mutex<Box<dyn Communicator>>>,
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
        self.poll()?;
        // A mistake is refused here, where it is made, and not on the lane's thread.
        Call::new([self.rank, self.size], after, op, &src, &dst);
        assert!(after <= self.compute.mark(), "{op:?} after {after:?}, which compute never reaches");
        let defer = |loan: Loan| {
            let (engine, back) = loan.defer();
            (engine, Box::new(back) as Back)
        };
        let [(src, src_back), (dst, dst_back)] = [src, dst].map(|loan| loan.map(defer).unzip());
        let compute = self.compute.clone();
        self.push(move |inner| {
            compute.wait(after);
            let ticket = inner.start(after, op, src, dst)?;
            // Compute goes on where the lane's side of the loans is dropped, here or by an error.
            inner.wait(ticket).map(drop)
        });
        Ok(self.open.add([src_back, dst_back]))
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
}
