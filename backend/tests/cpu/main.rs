//! The CPU kernels, through `Cpu::run`: against finite differences, PyTorch, themselves in f64, themselves on other
//! numbers of threads, and on numbers stored in less.
mod cached;
mod device;
mod devices;
mod examples;
mod finite_differences;
mod loss;
mod ops;
mod pytorch;
mod rounding;
mod semantics;
mod storage;
mod threads;
