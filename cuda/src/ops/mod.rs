//! Each operation as launches; the loops are in `kernels/`, in a file of the same name.
use crate::work::Source;

pub mod activation;
pub mod adamw;
pub mod attention;
pub mod bias;
pub mod by_cudnn;
pub mod collectives;
pub mod cross_entropy;
pub mod decode;
pub mod elementwise;
pub mod embedding;
pub mod flash;
pub mod grad_norm;
pub mod head_norm;
pub mod head_parts;
pub mod layernorm;
pub mod linear;
mod partials;
pub mod rmsnorm;
pub mod rope;
mod rows;
pub mod stats;
pub mod unit_rows;
pub mod vocab_parallel;

/// `source!("rmsnorm.cu")`: a file of `kernels/`.
macro_rules! source {
    ($file:literal) => {
        Source { name: $file, text: include_str!(concat!("../../kernels/", $file)) }
    };
}

/// Files of kernels, each by its name and all of them in a list, by which a test knows that it has left none out.
macro_rules! sources {
    ($all:ident: $($name:ident = $file:literal,)*) => {
        $(pub static $name: Source = source!($file);)*
        pub static $all: &[&Source] = &[$(&$name),*];
    };
}

sources! { SOURCES:
    ACTIVATION = "activation.cu",
    ADAMW = "adamw.cu",
    ATTENTION = "attention.cu",
    ATTENTION_ROWS = "attention_rows.cu",
    BIAS = "bias.cu",
    COLLECTIVES = "collectives.cu",
    CROSS_ENTROPY = "cross_entropy.cu",
    CUDNN = "cudnn.cu",
    DECODE = "decode.cu",
    ELEMENTWISE = "elementwise.cu",
    EMBEDDING = "embedding.cu",
    EMBEDDING_BACKWARD = "embedding_backward.cu",
    FLASH = "flash.cu",
    GRAD_NORM = "grad_norm.cu",
    HEAD_NORM = "head_norm.cu",
    HEAD_PARTS = "head_parts.cu",
    LAYERNORM = "layernorm.cu",
    PARTIALS = "partials.cu",
    RMSNORM = "rmsnorm.cu",
    ROPE = "rope.cu",
    STATS = "stats.cu",
    SUM_SQUARES = "sum_squares.cu",
    TOKEN_SORT = "token_sort.cu",
    UNIT_ROWS = "unit_rows.cu",
    VOCAB_PARALLEL = "vocab_parallel.cu",
}

/// What they include.
pub static HEADERS: [Source; 6] = [
    source!("prelude.cuh"),
    source!("logits.cuh"),
    source!("mma.cuh"),
    source!("rows.cuh"),
    source!("scores.cuh"),
    source!("tiles.cuh"),
];
