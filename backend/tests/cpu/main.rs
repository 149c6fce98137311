//! The CPU kernels, through `Cpu::run`: against finite differences, PyTorch, themselves in f64, themselves on other
//! numbers of threads and other instructions, and on numbers stored in less.
mod attention;
mod cached;
mod device;
mod devices;
mod examples;
mod finite_differences;
mod isas;
mod loss;
mod ops;
mod parallel;
mod pytorch;
mod rounding;
mod semantics;
mod storage;
mod threads;
mod under_test;
