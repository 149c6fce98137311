//! The room from outside, in one binary (it links once).

mod bench;
mod cache;
mod errors;
mod internevo;
mod packing;
mod sentencepiece;
mod tokenizer;
