//! Rewritings of a program that change when or whether something happens, never what is computed. A pass is one file.
mod poison;
mod unshard;

pub use poison::poison;
pub use unshard::{KEPT, unshard};
