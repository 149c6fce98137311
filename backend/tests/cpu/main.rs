//! The CPU kernels, through `Cpu::run`: against finite differences, PyTorch, themselves in f64 and themselves on other
//! numbers of threads.
mod cached;
mod device;
mod finite_differences;
mod pytorch;
mod rounding;
mod semantics;
mod threads;
