//! State out and back, by parameter name: Hugging Face directories and training state.
//!
//! ```text
//! checkpoints/step_100/   config.json
//!                         model.safetensors, or shards and model.safetensors.index.json
//!                         tokenizer files and generation_config.json, put there by the caller
//!                         training/optimizer.safetensors   exp_avg.<parameter>, exp_avg_sq.<parameter>
//!                         training/state.json              what else the caller needs to go on
//!                         training/manifest.json           what all this consists of, with checksums
//! ```
//!
//! A checkpoint is a Hugging Face directory with something added, so [`HfDir`] reads both. Nothing in it depends on how
//! the run was laid out: ranks [`Share::write`] and [`Training::read`] ranges of elements of named parameters, and their
//! checksums add up to those of the whole.
//!
//! A folder `step_N` is whole or absent. It is filled as `step_N.tmp-X`, flushed to the disk and only then renamed.
//! [`Save`] tells that story; [`list`], [`newest`], [`rewind`] and [`prune`] deal with the folders of a run; [`verify`]
//! reads a checkpoint to the last bit.
mod checksum;
mod contents;
mod coverage;
mod disk;
mod error;
mod folder;
mod hf;
mod inspect;
mod json;
mod layout;
mod lease;
mod manifest;
mod reader;
mod save;
mod share;
mod spelling;
mod sums;
mod training;
mod verify;
mod writer;
mod written;

pub use error::CheckpointError;
pub use folder::{Found, Keep, Kind, create_folder, list, newest, prune, rewind};
pub use hf::HfDir;
pub use inspect::{Inspection, TensorRow, inspect};
pub use save::Save;
pub use share::Share;
pub use training::{Part, Told, Training};
pub use verify::verify;
