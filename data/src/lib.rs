//! Text and tokens in, packed micro-batches out.
//!
//! A *row* is `seq_len` tokens; a micro-batch is `micro_batch_size` rows packed end to end. Which rows
//! micro-batch `k` holds follows from (seed, k): nothing is carried from one batch to the next, so a
//! resumed run, or one with another layout, asks for the same `k` and gets the same tokens.
//!
//! ```text
//! text, jsonl --source--> documents --tokenizer--> cache (memory-mapped ids) --+--pack---+
//! tokens      --source-------------------------> memory-mapped ids ------------+         |
//! internevo, random --source--> samples, read when they are needed ----------------packs--+--> Batch
//!                                                      order, epochs: which one is next --+
//! ```
//!
//! This room reads files and nothing else: no environment, no clock, no network.
//! Read next: [`open`] in `open.rs`, `dataset.rs`, then `pack.rs` for what a [`Batch`] holds, `order.rs` for the
//! shuffle. The kinds `internevo` and `random` give batches that are the same, token by token, as those of InternEvo:
//! `samples.rs`, `packs.rs`, `epochs.rs`, and NumPy's generator in `numpy.rs`.
//! A new text format is a file in `source/`, a line of [`Kind`] and one of `source::Format`.

mod cache;
mod config;
mod dataset;
mod epochs;
mod error;
mod hash;
mod ids;
mod npy;
mod numpy;
mod open;
mod open_samples;
mod order;
mod pack;
mod packs;
mod protobuf;
mod samples;
mod sentencepiece;
mod source;
mod tokenizer;

pub use cache::{CacheReport, CacheState};
pub use config::{DataConfig, Dtype, Kind, TokenizerConfig, ValidConfig};
pub use dataset::Dataset;
pub use error::DataError;
pub use open::{Splits, open};
pub use open_samples::type_names;
pub use pack::{Batch, IGNORE};
pub use source::tokens::read_ids;
pub use tokenizer::{TextStream, Tokenizer};
