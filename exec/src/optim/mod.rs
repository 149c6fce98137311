//! Optimizers. One is one file.
mod adamw;

pub use adamw::OptimizerConfig;
pub(crate) use adamw::step;
