//! Each operation as launches; the loops are in `kernels/`, in a file of the same name.
use crate::work::Source;

pub mod bias;
pub mod elementwise;
pub mod embedding;
pub mod head_norm;
pub mod head_parts;
pub mod layernorm;
pub mod linear;
mod partials;
pub mod rmsnorm;
mod rows;
pub mod unit_rows;

/// `source!("rmsnorm")`: the file `kernels/rmsnorm.cu`.
macro_rules! source {
    ($name:literal) => {
        Source { name: $name, text: include_str!(concat!("../../kernels/", $name, ".cu")) }
    };
}

pub static BIAS: Source = source!("bias");
pub static ELEMENTWISE: Source = source!("elementwise");
pub static EMBEDDING: Source = source!("embedding");
pub static EMBEDDING_BACKWARD: Source = source!("embedding_backward");
pub static HEAD_NORM: Source = source!("head_norm");
pub static HEAD_PARTS: Source = source!("head_parts");
pub static LAYERNORM: Source = source!("layernorm");
pub static PARTIALS: Source = source!("partials");
pub static RMSNORM: Source = source!("rmsnorm");
pub static TOKEN_SORT: Source = source!("token_sort");
pub static UNIT_ROWS: Source = source!("unit_rows");

/// What kernels include.
pub static PRELUDES: [&Source; 2] = [
    &Source { name: "prelude.cuh", text: include_str!("../../kernels/prelude.cuh") },
    &Source { name: "rows.cuh", text: include_str!("../../kernels/rows.cuh") },
];

/// All of them, for whoever compiles them without a card.
pub static SOURCES: [&Source; 11] = [
    &BIAS,
    &ELEMENTWISE,
    &EMBEDDING,
    &EMBEDDING_BACKWARD,
    &HEAD_NORM,
    &HEAD_PARTS,
    &LAYERNORM,
    &PARTIALS,
    &RMSNORM,
    &TOKEN_SORT,
    &UNIT_ROWS,
];
