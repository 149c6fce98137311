//! What was done, in order: the record that a prediction and a run have in common.
use crate::{Access, Backend, Loan, Mark, Op, Region, View};

/// One operation or transfer.
#[derive(Clone, PartialEq, Debug)]
pub struct TraceRow {
    pub name: &'static str,
    /// Elements of every tensor touched, reads first.
    pub shape: Vec<usize>,
    pub bytes: usize,
    pub flops: f64,
}

#[derive(Clone, PartialEq, Debug, Default)]
pub struct Trace {
    pub rows: Vec<TraceRow>,
}

impl Trace {
    pub fn push(&mut self, name: &'static str, views: &[View], flops: f64) {
        let shape = views.iter().map(|v| v.len).collect();
        self.rows.push(TraceRow { name, shape, bytes: views.iter().map(View::bytes).sum(), flops });
    }
}

/// A device that records what it is asked to do and then does it.
pub struct Traced {
    inner: Box<dyn Backend>,
    trace: Trace,
}

impl Traced {
    pub fn new(inner: Box<dyn Backend>) -> Traced {
        Traced { inner, trace: Trace::default() }
    }
}

impl Backend for Traced {
    fn run(&mut self, op: Op) {
        let (reads, writes) = op.views();
        self.trace.push(op.name(), &[reads, writes].concat(), op.flops());
        self.inner.run(op);
    }
    fn upload(&mut self, src: &[u8], dst: View) {
        self.trace.push("upload", &[dst], 0.0);
        self.inner.upload(src, dst);
    }
    fn download(&mut self, src: View, dst: &mut [u8]) {
        self.trace.push("download", &[src], 0.0);
        self.inner.download(src, dst);
    }
    fn synchronize(&mut self) {
        self.inner.synchronize();
    }
    fn mark(&mut self) -> Mark {
        self.inner.mark()
    }
    /// Transfers between ranks are seen here: what is lent is what moves.
    fn lend(&mut self, view: View, access: Access) -> Loan {
        self.trace.push(if access == Access::Read { "lend" } else { "lend_mut" }, &[view], 0.0);
        self.inner.lend(view, access)
    }
    fn settle(&mut self, loan: Loan) {
        self.inner.settle(loan);
    }
    fn high_water(&self, region: Region) -> usize {
        self.inner.high_water(region)
    }
    fn take_trace(&mut self) -> Trace {
        std::mem::take(&mut self.trace)
    }
}
