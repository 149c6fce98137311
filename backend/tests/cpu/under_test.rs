//! The device that the tests of operations are about: the CPU.
use backend::{Backend, Cpu, Isa, Sizes};

pub fn device(sizes: Sizes, threads: usize, isa: Isa) -> Box<dyn Backend> {
    Box::new(Cpu::with_isa(sizes, threads, isa))
}
