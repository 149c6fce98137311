//! A device that tells each operation to somebody before it does it.
use crate::{Access, Backend, Loan, Mark, Op, Region, Trace, View};

pub struct Watched<F> {
    inner: Box<dyn Backend>,
    tell: F,
}

impl<F: FnMut(Op) + Send> Watched<F> {
    pub fn new(inner: Box<dyn Backend>, tell: F) -> Watched<F> {
        Watched { inner, tell }
    }
}

impl<F: FnMut(Op) + Send> Backend for Watched<F> {
    fn run(&mut self, op: Op) {
        (self.tell)(op);
        self.inner.run(op);
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
    fn take_trace(&mut self) -> Trace {
        self.inner.take_trace()
    }
}
