//! A device that notes how long each operation takes.
use backend::{Access, Backend, Loan, Mark, Op, Region, View};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, Instant};

/// What was noted, by whoever holds the other end.
#[derive(Clone, Default)]
pub struct Log(Arc<Mutex<Option<Vec<Spent>>>>);

/// An operation and its time, with nothing else under way.
#[derive(Clone, Copy)]
pub struct Spent {
    pub op: Op,
    pub time: Duration,
}

impl Log {
    fn lock(&self) -> MutexGuard<'_, Option<Vec<Spent>>> {
        self.0.lock().expect("nobody panics with the lock")
    }
    /// From now on operations are noted.
    pub fn begin(&self) {
        *self.lock() = Some(vec![]);
    }
    /// And no longer.
    pub fn end(&self) -> Vec<Spent> {
        self.lock().take().expect("it has begun")
    }
}

pub struct Timed {
    inner: Box<dyn Backend>,
    log: Log,
}

impl Timed {
    pub fn new(inner: Box<dyn Backend>, log: Log) -> Timed {
        Timed { inner, log }
    }
}

impl Backend for Timed {
    fn run(&mut self, op: Op) {
        let mut log = self.log.lock();
        let Some(log) = &mut *log else { return self.inner.run(op) };
        self.inner.synchronize();
        let began = Instant::now();
        self.inner.run(op);
        self.inner.synchronize();
        log.push(Spent { op, time: began.elapsed() });
    }
    fn upload(&mut self, src: &[u8], dst: View) {
        self.inner.upload(src, dst);
    }
    fn download(&mut self, src: View, dst: &mut [u8]) {
        self.inner.download(src, dst);
    }
    fn synchronize(&mut self) {
        self.inner.synchronize();
    }
    fn mark(&mut self) -> Mark {
        self.inner.mark()
    }
    fn lend(&mut self, view: View, access: Access) -> Loan {
        self.inner.lend(view, access)
    }
    fn settle(&mut self, loan: Loan) {
        self.inner.settle(loan);
    }
    fn high_water(&self, region: Region) -> usize {
        self.inner.high_water(region)
    }
}
