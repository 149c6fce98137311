//! Rewritings of a program that change when or whether something happens, never what is computed. A pass is one file.
mod poison;

pub use poison::poison;
