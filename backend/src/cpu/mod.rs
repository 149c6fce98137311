//! The CPU device: views become slices here and nowhere else, and every operation finds its loops.
use crate::{Access, Arena, Backend, Loan, Mark, Op, Region, Sizes, View};

pub struct Cpu {
    arena: Arena,
    pool: rayon::ThreadPool,
}

impl Cpu {
    /// Results do not depend on `threads`: work is cut by shape.
    pub fn new(sizes: Sizes, threads: usize) -> Cpu {
        let pool =
            rayon::ThreadPoolBuilder::new().num_threads(threads).build().expect("threads can be started");
        Cpu { arena: Arena::new(sizes), pool }
    }

    pub(crate) fn arena(&self) -> &Arena {
        &self.arena
    }
}

impl Backend for Cpu {
    fn run(&mut self, op: Op) {
        todo!("{op:?} {}", self.pool.current_num_threads())
    }
    fn upload(&mut self, src: &[u8], dst: View) {
        let ([], [y]) = self.arena.resolve([], [dst]);
        y.bytes().copy_from_slice(src);
    }
    fn download(&mut self, src: View, dst: &mut [u8]) {
        let ([x], []) = self.arena.resolve([src], []);
        dst.copy_from_slice(x.bytes());
    }
    /// Compute is done when `run` returns.
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
