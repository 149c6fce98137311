//! What can be wrong with a directory: each message says where, what, and what to do about it.
use safetensors::Dtype;
use std::io;
use std::ops::Range;
use std::path::{Path, PathBuf};

pub(crate) type Result<T> = std::result::Result<T, CheckpointError>;

/// Where a checkpoint is not what was written.
const BACK: &str = "copy the checkpoint again, or go back to an older one";

#[derive(Debug, thiserror::Error)]
pub enum CheckpointError {
    #[error("cannot {action} {}: {cause}; check the path, its permissions and the space on its disk", .path.display())]
    Io { action: &'static str, path: PathBuf, cause: io::Error },
    #[error(
        "cannot reserve {bytes} bytes for {}: {cause}; {total} bytes are needed in all: free space on its disk, or lower checkpoint.keep_last",
        .path.display()
    )]
    NoSpace { path: PathBuf, bytes: u64, total: u64, cause: io::Error },
    #[error(
        "cannot open {}, which rank 0 has just made: {cause}; output must be on a file system that all ranks share",
        .path.display()
    )]
    NotShared { path: PathBuf, cause: io::Error },
    #[error("{} is there already and is never overwritten; move it away or choose another name", .path.display())]
    Exists { path: PathBuf },
    #[error("{}: {cause}; repair the file or take it from its source again", .path.display())]
    Json { path: PathBuf, cause: serde_json::Error },
    #[error("{}: {}", .path.display(), .problems.join("; "))]
    Config { path: PathBuf, problems: Vec<String> },
    #[error(
        "{}: no model.safetensors or model.safetensors.index.json here; open a .bin model in transformers and save_pretrained() it",
        .dir.display()
    )]
    NoWeights { dir: PathBuf },
    #[error(
        "{}: holds {bytes} bytes of at least {needed}: {} are missing; copy the file again",
        .path.display(), .needed - .bytes
    )]
    Truncated { path: PathBuf, bytes: u64, needed: u64 },
    #[error("{}: not a safetensors file: {problem}; copy the file again", .path.display())]
    Header { path: PathBuf, problem: String },
    #[error("{}: {problem}; take the index and its files from one source", .path.display())]
    Index { path: PathBuf, problem: String },
    #[error("{}: tensor {tensor} is missing; config.json beside it describes another model, or a file was lost", .path.display())]
    Missing { path: PathBuf, tensor: String },
    #[error("{}: tensor {tensor} does not belong to the model of config.json, which would ignore it; remove one of them", .path.display())]
    Foreign { path: PathBuf, tensor: String },
    #[error(
        "{}: {tensor} differs from {embedding}, to which tie_word_embeddings ties it; set tie_word_embeddings to false to use both",
        .path.display()
    )]
    NotTied { path: PathBuf, tensor: String, embedding: String },
    #[error("{}: tensor {tensor} has shape {found:?}, and config.json makes it {needed:?}; one of the two is of another model", .path.display())]
    Shape { path: PathBuf, tensor: String, found: Vec<usize>, needed: Vec<usize> },
    #[error("{}: tensor {tensor} is stored as {found}; store it as one of {}", .path.display(), names(.readable))]
    Dtype { path: PathBuf, tensor: String, found: Dtype, readable: &'static [Dtype] },
    #[error(
        "{} is a checkpoint of another model: {}; change [model] back, or begin a new run with model.init_from",
        .dir.display(), .fields.join("; ")
    )]
    OtherModel { dir: PathBuf, fields: Vec<String> },
    #[error("{}: no training state here; a run cannot continue from weights alone, but can begin with model.init_from", .dir.display())]
    NoTraining { dir: PathBuf },
    #[error("{}: no training/manifest.json, the last file of a save; it was not completed, or by a version without checksums: go back to another checkpoint", .dir.display())]
    NoManifest { dir: PathBuf },
    #[error("{}: {problem}; {BACK}", .path.display())]
    Manifest { path: PathBuf, problem: String },
    #[error("{}: the file is missing; {BACK}", .path.display())]
    Lost { path: PathBuf },
    #[error("{}: holds {bytes} bytes, and {needed} were written; {BACK}", .path.display())]
    Size { path: PathBuf, bytes: u64, needed: u64 },
    #[error("{}: the {} not what was written; {BACK}", .path.display(), if *.header { "header of its tensors is" } else { "text is" })]
    Changed { path: PathBuf, header: bool },
    #[error("{}: bytes {}..{}, of tensor {tensor}, are not what was written; {BACK}", .path.display(), .bytes.start, .bytes.end)]
    Damaged { path: PathBuf, tensor: String, bytes: Range<u64> },
    #[error("{}: not of this checkpoint, and would be read with it; move it away", .path.display())]
    ForeignFile { path: PathBuf },
    #[error(
        "none of the checkpoints in {} opens: {}; repair one, or begin anew with --fresh",
        .checkpoints.display(), .broken.iter().map(CheckpointError::to_string).collect::<Vec<_>>().join("; ")
    )]
    NoneOpens { checkpoints: PathBuf, broken: Vec<CheckpointError> },
}

fn names(dtypes: &[Dtype]) -> String {
    dtypes.iter().map(Dtype::to_string).collect::<Vec<_>>().join(", ")
}

impl CheckpointError {
    /// The checkpoint itself is broken, or its disk is, and an older one may not be.
    pub fn is_damage(&self) -> bool {
        !matches!(self, CheckpointError::OtherModel { .. })
    }

    /// For `map_err`: an I/O error with what was done to which path.
    pub(crate) fn io(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> CheckpointError {
        let path = path.to_owned();
        move |cause| CheckpointError::Io { action, path, cause }
    }
}
