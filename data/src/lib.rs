//! Text and tokens in, packed micro-batches out.
//!
//! A *row* is `seq_len` tokens; a micro-batch is `micro_batch_size` rows packed end to end. Which rows
//! micro-batch `k` holds is arithmetic on (seed, k): nothing is carried from one batch to the next, so a
//! resumed run, or one with another layout, asks for the same `k` and gets the same tokens.
//!
//! ```text
//! text, jsonl --source--> documents --tokenizer--> cache (memory-mapped ids) --+
//! tokens      --source-------------------------> memory-mapped ids ------------+--pack--> Batch
//!                                                          order: which row is next --+
//! ```
//!
//! This room reads files and nothing else: no environment, no clock, no network.
//! Read next: [`open`] in `dataset.rs`, then `pack.rs` for what a [`Batch`] holds, `order.rs` for the
//! shuffle. A new text format is a file in `source/`, a line of [`Kind`] and one of `source::Format`.

mod cache;
mod config;
mod dataset;
mod error;
mod hash;
mod ids;
mod order;
mod pack;
mod protobuf;
mod sentencepiece;
mod source;
mod tokenizer;

pub use cache::{CacheReport, CacheState};
pub use config::{DataConfig, Dtype, Kind, TokenizerConfig, ValidConfig};
pub use dataset::{Dataset, Splits, open};
pub use error::DataError;
pub use pack::{Batch, IGNORE};
pub use source::tokens::read_ids;
pub use tokenizer::{TextStream, Tokenizer};
