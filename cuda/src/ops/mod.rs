//! Each operation as launches; the loops are in `kernels/`, in a file of the same name.
use crate::work::Source;

pub mod convert;
pub mod linear;
pub mod rmsnorm;

/// `source!("rmsnorm")`: the file `kernels/rmsnorm.cu`.
macro_rules! source {
    ($name:literal) => {
        Source { name: $name, text: include_str!(concat!("../../kernels/", $name, ".cu")) }
    };
}

pub static CONVERT: Source = source!("convert");
pub static RMSNORM: Source = source!("rmsnorm");

/// What kernels include.
pub static PRELUDES: [&Source; 1] =
    [&Source { name: "prelude.cuh", text: include_str!("../../kernels/prelude.cuh") }];

/// All of them, for whoever compiles them without a card.
pub static SOURCES: [&Source; 2] = [&CONVERT, &RMSNORM];
