//! What can be wrong with a user's data: each message says where, what, and what to do about it.

use std::io;
use std::path::{Path, PathBuf};

pub(crate) type Result<T> = std::result::Result<T, DataError>;

/// How a table of samples comes to be.
const META: &str = "write it with numpy.save(file, numpy.array(rows, numpy.int64)), for each line of the .bin a row: byte offset, tokens";

#[derive(Debug, thiserror::Error)]
pub enum DataError {
    #[error("{}", .0.join("\n"))]
    Config(Vec<String>),
    #[error("cannot {action} {}: {cause}; check the path, its permissions and the space on its disk", .path.display())]
    Io { action: &'static str, path: PathBuf, cause: io::Error },
    #[error("{}: no files ending in .{} here; check the path, or for kind = \"text\" set data.extensions", .path.display(), .extensions.join(", ."))]
    NoFiles { path: PathBuf, extensions: Vec<String> },
    #[error("{}: no text here, every file is empty; point data.path at a corpus", .path.display())]
    NoText { path: PathBuf },
    #[error("{}: byte {offset} is not UTF-8; convert the file (iconv -t utf-8) or move it away", .path.display())]
    NotUtf8 { path: PathBuf, offset: usize },
    #[error("{}: changed while it was being read; start again when it is complete", .path.display())]
    Changed { path: PathBuf },
    #[error("{}:{line}: {problem}", .path.display())]
    Line { path: PathBuf, line: usize, problem: String },
    #[error("{}: {problem}; write it again with numpy.save(path, ids.astype(numpy.uint32))", .path.display())]
    Npy { path: PathBuf, problem: String },
    #[error("{}: {bytes} bytes are not whole {width}-byte ids; check data.dtype or whether the file is complete", .path.display())]
    PartialId { path: PathBuf, bytes: usize, width: usize },
    #[error(
        "{}: ids[{position}] = {id} is outside the vocabulary of {vocab_size}; check data.dtype, or raise model.vocab_size",
        .path.display()
    )]
    OutsideVocabulary { path: PathBuf, position: usize, id: i64, vocab_size: usize },
    #[error(
        "{}: the {split} split holds {tokens} tokens and a row needs {needed}; lower data.seq_len or give more data",
        .path.display()
    )]
    TooShort { path: PathBuf, split: &'static str, tokens: usize, needed: usize },
    #[error(
        "{}: too few {unit} ({count}) to hold some out; set data.valid.path instead, or give more data",
        .path.display()
    )]
    CannotHoldOut { path: PathBuf, count: usize, unit: &'static str },
    #[error(
        "{}: a file outside the folders of data.path; put it into one, whose name is the type of its text",
        .path.display()
    )]
    NoType { path: PathBuf },
    #[error(
        "{}: data.min_length_of has more than one key for it ({}); let at most one be part of its path",
        .path.display(), .keys.join(", ")
    )]
    MinLength { path: PathBuf, keys: Vec<String> },
    #[error("{}: not found, and {} cannot be read without it; {META}", .path.display(), .file.display())]
    NoMeta { path: PathBuf, file: PathBuf },
    #[error("{}: {problem}; {META}", .path.display())]
    Meta { path: PathBuf, problem: String },
    #[error("{}: the line at byte {offset}: {problem}", .path.display())]
    Sample { path: PathBuf, offset: u64, problem: String },
    #[error(
        "{}: no file holds the {needed} tokens of a micro-batch, the largest {tokens}; lower data.micro_batch_size or data.seq_len, or join files",
        .path.display()
    )]
    NoPack { path: PathBuf, tokens: u64, needed: usize },
    #[error(
        "the training data makes {micro_batches} micro-batches and a step takes {needed}; lower train.micro_batches (or train.global_batch_size), or give more data"
    )]
    NoStep { micro_batches: u64, needed: usize },
    #[error("{} and {}: two validation sets of the name \"{name}\"; rename a folder", .paths[0].display(), .paths[1].display())]
    SameName { name: String, paths: [PathBuf; 2] },
    #[error(
        "seed = {seed}: data.kind = \"{kind}\" shuffles with a generator of NumPy, whose seeds are below 2^32; lower it, or remove data.shuffle"
    )]
    Seed { seed: u64, kind: &'static str },
    #[error("data.kind = \"random\" makes ids up to {largest}; set model.vocab_size = {} or more, it is {vocab_size}", .largest + 1)]
    RandomIds { largest: u64, vocab_size: usize },
    #[error("data.kind = \"{kind}\" needs a tokenizer; set tokenizer.path or tokenizer.vocab_size")]
    NoTokenizer { kind: &'static str },
    #[error(
        "tokenizer.vocab_size trains on text and data.kind is \"{kind}\"; set tokenizer.path, or leave [tokenizer] out"
    )]
    NoTrainingText { kind: &'static str },
    #[error("the tokenizer has {tokenizer} ids and the model {model}; set model.vocab_size = {tokenizer} or more")]
    VocabularyTooSmall { tokenizer: usize, model: usize },
    #[error(
        "tokenizer.vocab_size = {vocab_size}: a byte-level vocabulary needs 257 (every byte and the end of text); try 4096"
    )]
    NoRoomForBytes { vocab_size: usize },
    #[error("{}: {problem}", .path.display())]
    Tokenizer { path: PathBuf, problem: String },
    #[error(
        "{}: no end-of-text token found; put a tokenizer_config.json with \"eos_token\" beside it",
        .path.display()
    )]
    NoEos { path: PathBuf },
    #[error(
        "the tokenizer refuses a text: {problem}; check that its tokenizer.json has an unknown token or bytes to fall back on"
    )]
    Encode { problem: String },
    #[error("the tokenizer cannot turn ids into text: {problem}; check the decoder in its tokenizer.json")]
    Decode { problem: String },
}

impl DataError {
    /// For `map_err`: an I/O error with what was done to which path.
    pub(crate) fn io(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> DataError {
        let path = path.to_owned();
        move |cause| DataError::Io { action, path, cause }
    }
}
