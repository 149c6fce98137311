//! What is computed.
//!
//! A [`Decoder`] is a model described by data. It is cut into *units*: the embedding, the attention and the MLP
//! half-block of each layer, the head. A unit is the grain of everything above this crate: of the actions of a schedule,
//! of the buckets that are sharded and gathered, of the activation slabs.
//!
//! Read [`block`] first (the layer maths, forward and backward), then [`params`] (which parameters there are and how they
//! begin). A model family is one file in [`models`]: its `config.json` and the names of its tensors.
pub mod block;
mod config;
mod decoder;
pub mod ends;
mod init;
pub mod models;
mod params;
mod rope;
mod unit;

pub use config::ModelConfig;
pub use decoder::{Decoder, Family};
pub use init::initial;
pub use params::{Init, ParamSpec};
pub use rope::{Rope, Scaling};
pub use unit::{Inputs, Phase, Unit, UnitKind};
