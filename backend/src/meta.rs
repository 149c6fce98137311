//! The device without memory: the same operations, the same checks, no number computed. What a step would do is read
//! off the trace of the real code, so a prediction cannot drift from what is executed.
use crate::{Access, Arena, Backend, Loan, Mark, Op, Region, Sizes, View};

pub struct Meta {
    arena: Arena,
}

impl Meta {
    pub fn new(sizes: Sizes) -> Meta {
        Meta { arena: Arena::phantom(sizes) }
    }
}

impl Backend for Meta {
    fn run(&mut self, op: Op) {
        let (reads, writes) = op.views();
        self.arena.check(&reads, &writes);
    }
    fn upload(&mut self, src: &[u8], dst: View) {
        assert_eq!(src.len(), dst.bytes(), "upload to {dst:?}");
        self.arena.check(&[], &[dst]);
    }
    /// Zeros: there is nothing to see.
    fn download(&mut self, src: View, dst: &mut [u8]) {
        self.arena.check(&[src], &[]);
        dst.fill(0);
    }
    fn synchronize(&mut self) {}
    fn mark(&mut self) -> Mark {
        Mark::default()
    }
    fn lend(&mut self, view: View, access: Access) -> Loan {
        self.arena.lend(view, access)
    }
    fn settle(&mut self, loan: Loan) {
        self.arena.settle(loan);
    }
    fn high_water(&self, region: Region) -> usize {
        self.arena.high_water(region)
    }
}
