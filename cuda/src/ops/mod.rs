//! Each operation as launches; the loops are in `kernels/`, in a file of the same name.
use crate::work::Source;

pub mod attention;
pub mod rmsnorm;
pub mod rope;

/// `source!("rmsnorm")`: the file `kernels/rmsnorm.cu`.
macro_rules! source {
    ($name:literal) => {
        Source { name: $name, text: include_str!(concat!("../../kernels/", $name, ".cu")) }
    };
}

pub static RMSNORM: Source = source!("rmsnorm");
pub static ROPE: Source = source!("rope");
pub static ATTENTION_ROWS: Source = source!("attention_rows");
pub static ATTENTION: Source = source!("attention");

/// All of them, for whoever compiles them without a card.
pub static SOURCES: [&Source; 4] = [&RMSNORM, &ROPE, &ATTENTION_ROWS, &ATTENTION];
