//! Each operation as launches; the loops are in `kernels/`, in a file of the same name.
use crate::work::Source;

pub mod attention;
pub mod convert;
pub mod flash;
pub mod linear;
pub mod rmsnorm;
pub mod rope;

/// `source!("rmsnorm")`: the file `kernels/rmsnorm.cu`.
macro_rules! source {
    ($name:literal) => {
        Source { name: $name, text: include_str!(concat!("../../kernels/", $name, ".cu")) }
    };
}

pub static CONVERT: Source = source!("convert");
pub static RMSNORM: Source = source!("rmsnorm");
pub static ROPE: Source = source!("rope");
pub static ATTENTION_ROWS: Source = source!("attention_rows");
pub static ATTENTION: Source = source!("attention");
pub static FLASH: Source = source!("flash");

/// What kernels include.
pub static PRELUDES: [&Source; 4] = [
    &Source { name: "prelude.cuh", text: include_str!("../../kernels/prelude.cuh") },
    &Source { name: "mma.cuh", text: include_str!("../../kernels/mma.cuh") },
    &Source { name: "scores.cuh", text: include_str!("../../kernels/scores.cuh") },
    &Source { name: "tiles.cuh", text: include_str!("../../kernels/tiles.cuh") },
];

/// All of them, for whoever compiles them without a card.
pub static SOURCES: [&Source; 6] = [&CONVERT, &RMSNORM, &ROPE, &ATTENTION_ROWS, &ATTENTION, &FLASH];
