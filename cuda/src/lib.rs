//! NVIDIA cards. Everything of NVIDIA's is found when it is asked for, so the program is built and starts without any of it.
//!
//! An operation becomes [`Work`]: kernels of ours and calls of a library, in order, as data. Whoever wants to know what a
//! step will need looks at that list without a card; the device goes through it and issues. Read on in [`work`], then one
//! operation from its launch to its loops in `ops/rmsnorm.rs` and `kernels/rmsnorm.cu`.
mod attentions;
mod compile;
mod compute;
pub mod cudnn;
mod device;
mod driver;
mod kernels;
mod lane;
mod libraries;
mod lower;
pub mod measure;
mod needs;
mod nvml;
mod ops;
mod peak;
mod products;
mod site;
mod staging;
mod ways;
pub mod work;

pub use attentions::Attends;
pub use compile::Compiler;
pub use compute::Compute;
pub use device::Cuda;
pub use driver::{Card, Event, Stream};
pub use kernels::Kernels;
pub use lane::Lane;
pub use libraries::{LIBS, Lib, Loaded as LoadedLibrary, Missing, Search};
pub use lower::lower;
pub use needs::Needs;
pub use nvml::{Nvml, State};
pub use ops::{SOURCES, collectives::tree_sum};
pub use peak::{Usual, nominal, usual};
pub use products::F32Products;
pub use site::Site;
