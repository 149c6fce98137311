//! NVIDIA cards. Everything of NVIDIA's is found when it is asked for, so the program is built and starts without any of it.
//!
//! An operation becomes [`Work`]: kernels of ours and calls of a library, in order, as data. Whoever wants to know what a
//! step will need looks at that list without a card; the device goes through it and issues. Read on in [`work`], then one
//! operation from its launch to its loops in `ops/rmsnorm.rs` and `kernels/rmsnorm.cu`.
pub mod cudnn;
mod lower;
mod ops;
pub mod work;

pub use lower::lower;
