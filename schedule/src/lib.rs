//! In what order: the step as data.
//!
//! Two levels. A pipeline policy orders whole stages ([`pipeline`]: `1F0` is stage 1, forward, micro-batch 0);
//! [`lower`] expands that into the [`Action`]s of one rank: units, transfers, sums, the optimizer. What an action
//! touches ([`touch`]) gives everything else: lifetimes, hence memory; waits between lanes ([`waits`]); and the proof that
//! the program computes the step and ends ([`validate`]). A program can be printed, edited and read back ([`text`]).
mod action;
mod lower;
pub mod passes;
pub mod pipeline;
mod program;
pub mod text;
mod touch;
pub mod validate;
mod waits;

pub use action::{Action, Use, UseKind};
pub use lower::lower;
pub use program::{Program, RankPrograms};
pub use touch::Touch;
pub use waits::Waits;
