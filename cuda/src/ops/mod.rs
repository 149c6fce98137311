//! Each operation as launches; the loops are in `kernels/`, in a file of the same name.
use crate::work::Source;

pub mod activation;
pub mod adamw;
pub mod bias;
pub mod collectives;
pub mod cross_entropy;
pub mod elementwise;
pub mod embedding;
pub mod grad_norm;
pub mod head_norm;
pub mod head_parts;
pub mod layernorm;
pub mod linear;
mod partials;
pub mod rmsnorm;
mod rows;
pub mod stats;
pub mod unit_rows;
pub mod vocab_parallel;

/// `source!("rmsnorm")`: the file `kernels/rmsnorm.cu`.
macro_rules! source {
    ($name:literal) => {
        Source { name: $name, text: include_str!(concat!("../../kernels/", $name, ".cu")) }
    };
}

pub static ACTIVATION: Source = source!("activation");
pub static ADAMW: Source = source!("adamw");
pub static BIAS: Source = source!("bias");
pub static COLLECTIVES: Source = source!("collectives");
pub static CROSS_ENTROPY: Source = source!("cross_entropy");
pub static ELEMENTWISE: Source = source!("elementwise");
pub static EMBEDDING: Source = source!("embedding");
pub static EMBEDDING_BACKWARD: Source = source!("embedding_backward");
pub static GRAD_NORM: Source = source!("grad_norm");
pub static HEAD_NORM: Source = source!("head_norm");
pub static HEAD_PARTS: Source = source!("head_parts");
pub static LAYERNORM: Source = source!("layernorm");
pub static PARTIALS: Source = source!("partials");
pub static RMSNORM: Source = source!("rmsnorm");
pub static STATS: Source = source!("stats");
pub static SUM_SQUARES: Source = source!("sum_squares");
pub static TOKEN_SORT: Source = source!("token_sort");
pub static UNIT_ROWS: Source = source!("unit_rows");
pub static VOCAB_PARALLEL: Source = source!("vocab_parallel");

/// What kernels include.
pub static PRELUDES: [&Source; 3] = [
    &Source { name: "logits.cuh", text: include_str!("../../kernels/logits.cuh") },
    &Source { name: "prelude.cuh", text: include_str!("../../kernels/prelude.cuh") },
    &Source { name: "rows.cuh", text: include_str!("../../kernels/rows.cuh") },
];

/// All of them, for whoever compiles them without a card.
pub static SOURCES: [&Source; 19] = [
    &ACTIVATION,
    &ADAMW,
    &BIAS,
    &COLLECTIVES,
    &CROSS_ENTROPY,
    &ELEMENTWISE,
    &EMBEDDING,
    &EMBEDDING_BACKWARD,
    &GRAD_NORM,
    &HEAD_NORM,
    &HEAD_PARTS,
    &LAYERNORM,
    &PARTIALS,
    &RMSNORM,
    &STATS,
    &SUM_SQUARES,
    &TOKEN_SORT,
    &UNIT_ROWS,
    &VOCAB_PARALLEL,
];
