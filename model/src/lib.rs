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
mod parts;
mod problems;
mod rope;
mod tensor;
mod unit;

/// Parts of a decoder.
pub use backend::{Heads, Nonlinearity, Pairs};
pub use config::{HiddenAct, ModelConfig, PositionEmbedding, RopeLayout};
pub use decoder::{AttentionBias, Decoder, Family, Mlp, NormKind, Position, Window, WindowLayers};
pub use init::initial;
pub use params::{Init, ParamSpec};
pub use rope::{Rope, Scaling, Yarn};
pub use tensor::{Dev, Split, Stretch, Tensor, TensorMode, Work, stretches};
pub use unit::{Inputs, Phase, Unit, UnitKind};
