//! The CPU behind a queue: operations are issued here and happen later, on a thread, as on a GPU.
//!
//! It exists to prove the rest: the host runs ahead, sees tensor memory only through `download`, and every order
//! between compute and transfers has to come from marks and events. The ledger is kept on the issuing side, in queue
//! order, where it refuses a missing wait before any byte is raced for.
use crate::{Access, Arena, Backend, Cpu, Loan, Mark, Op, Queue, Region, Sizes, Touched, View};
use std::sync::{Arc, Mutex};

pub struct Queued {
    ledger: Arena,
    /// Runs on the queue's thread only; the lock is never contended.
    device: Arc<Mutex<Cpu>>,
    queue: Queue,
    touched: Touched,
}

impl Queued {
    pub fn new(sizes: Sizes, threads: usize, delays: Option<u64>) -> Queued {
        let device = Cpu::new(sizes, threads);
        // SAFETY: the ledger's arena never resolves; a loan carries the mark behind the last use of its memory, which
        // engines wait for (`Loan::ready`), and its return is ordered by `Queue` before later operations.
        let ledger = unsafe { device.arena().alias() };
        Queued { ledger, device: Arc::new(Mutex::new(device)), queue: Queue::new(delays), touched: Touched::default() }
    }

    /// The compute queue, for engines: they wait for marks on it and push their waits into it.
    pub fn queue(&self) -> Queue {
        self.queue.clone()
    }

    fn push(&mut self, reads: &[View], writes: &[View], job: impl FnOnce(&mut Cpu) + Send + 'static) {
        self.ledger.check(reads, writes);
        let device = self.device.clone();
        let mark = self.queue.push(move || job(&mut device.lock().unwrap()));
        for (views, access) in [(reads, Access::Read), (writes, Access::Write)] {
            views.iter().for_each(|v| self.touched.touch(*v, access, mark));
        }
    }
}

impl Backend for Queued {
    fn run(&mut self, op: Op) {
        let (reads, writes) = op.views();
        self.push(&reads, &writes, move |cpu| cpu.run(op));
    }
    fn upload(&mut self, src: &[u8], dst: View) {
        let src = src.to_vec();
        self.push(&[], &[dst], move |cpu| cpu.upload(&src, dst));
    }
    fn download(&mut self, src: View, dst: &mut [u8]) {
        self.ledger.check(&[src], &[]);
        self.queue.wait(self.queue.mark());
        self.device.lock().unwrap().download(src, dst);
    }
    fn synchronize(&mut self) {
        self.queue.wait(self.queue.mark());
    }
    fn mark(&mut self) -> Mark {
        self.queue.mark()
    }
    fn lend(&mut self, view: View, access: Access) -> Loan {
        let ready = self.touched.ready(view, access);
        self.ledger.lend(view, access).behind(self.queue.clone(), ready)
    }
    fn settle(&mut self, loan: Loan) {
        // The engine has pushed its wait: whoever comes after this mark comes after the transfer.
        self.touched.touch(loan.view(), loan.access(), self.queue.mark());
        self.ledger.settle(loan);
    }
    fn high_water(&self, region: Region) -> usize {
        self.ledger.high_water(region)
    }
}
