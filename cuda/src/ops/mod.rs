//! Each operation as launches; the loops are in `kernels/`, in a file of the same name.
use crate::work::Source;

pub mod rmsnorm;

/// `source!("rmsnorm")`: the file `kernels/rmsnorm.cu`.
macro_rules! source {
    ($name:literal) => {
        Source { name: $name, text: include_str!(concat!("../../kernels/", $name, ".cu")) }
    };
}

pub static RMSNORM: Source = source!("rmsnorm");

/// All of them, for whoever compiles them without a card.
pub static SOURCES: [&Source; 1] = [&RMSNORM];
