//! The `[data]` and `[tokenizer]` sections of a run file.

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

/// The `[data]` section.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct DataConfig {
    pub kind: Kind,
    /// A file, or for text and jsonl a folder, read recursively in sorted order.
    pub path: PathBuf,
    /// Tokens in a row.
    pub seq_len: usize,
    /// Rows in a micro-batch.
    pub micro_batch_size: usize,
    /// Permute the rows anew in every epoch.
    #[serde(default)]
    pub shuffle: bool,
    /// jsonl: the field that holds the text.
    #[serde(default = "default_text_key")]
    pub text_key: String,
    /// tokens: the type of a flat file. By default u32 if its name ends in `.u32`, otherwise u16.
    pub dtype: Option<Dtype>,
    /// text: which files of a folder are read, by their ending.
    pub extensions: Option<Vec<String>>,
    pub valid: Option<ValidConfig>,
}

#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    /// Every file is a document; long ones are cut at blank lines.
    Text,
    /// Every line is an object with the text in `text_key`.
    Jsonl,
    /// Token ids, flat little-endian or a 1-D `.npy`: row r is `ids[r*S .. r*S+S+1]`.
    Tokens,
}

impl Kind {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Kind::Text => "text",
            Kind::Jsonl => "jsonl",
            Kind::Tokens => "tokens",
        }
    }
}

#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Dtype {
    U16,
    U32,
}

/// The `[data.valid]` section: one of the two.
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct ValidConfig {
    /// Hold out this part: of the documents, chosen by the seed; of `kind = "tokens"`, the last rows.
    pub fraction: Option<f64>,
    /// Validate on other data of the same kind.
    pub path: Option<PathBuf>,
}

/// The `[tokenizer]` section: a tokenizer to load, or the size of one to train.
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct TokenizerConfig {
    /// A `tokenizer.json` or a SentencePiece `.model`, or a folder with `tokenizer.json` or `tokenizer.model`.
    pub path: Option<PathBuf>,
    /// Train a byte-level BPE of this size on the training text.
    pub vocab_size: Option<usize>,
}

/// What `[data.valid]` asks for.
pub(crate) enum HeldOut<'a> {
    Nothing,
    Fraction(f64),
    Path(&'a Path),
}

/// Endings of the files that are read as text, unless `data.extensions` says otherwise.
const TEXT_EXTENSIONS: [&str; 24] = [
    "txt", "text", "md", "rst", "tex", "rs", "toml", "py", "c", "h", "cc", "cpp", "hpp", "cu", "cuh", "go", "java",
    "js", "ts", "html", "css", "sh", "yaml", "yml",
];

impl DataConfig {
    /// Append every problem, with its key and a way out. Files are looked at by [`open`](crate::open).
    pub fn validate(&self, problems: &mut Vec<String>) {
        let mut refuse = |condition: bool, problem: String| problems.extend(condition.then_some(problem));
        refuse(self.path.as_os_str().is_empty(), "data.path is empty: name a file or a folder".into());
        refuse(self.seq_len == 0, "data.seq_len = 0: must be at least 1; try 512".into());
        refuse(self.micro_batch_size == 0, "data.micro_batch_size = 0: must be at least 1; try 1".into());
        let tokens = self.seq_len.checked_mul(self.micro_batch_size);
        refuse(
            tokens.is_none_or(|tokens| tokens > i32::MAX as usize),
            format!(
                "data.seq_len = {} times data.micro_batch_size = {} is more than 2^31 - 1 tokens; lower one",
                self.seq_len, self.micro_batch_size
            ),
        );
        refuse(
            self.kind == Kind::Jsonl && self.text_key.is_empty(),
            "data.text_key is empty: name the field that holds the text; try \"text\"".into(),
        );
        refuse(
            self.dtype.is_some() && self.kind != Kind::Tokens,
            format!("data.dtype is for kind = \"tokens\", not \"{}\"; remove it", self.kind.name()),
        );
        refuse(
            self.dtype.is_some() && self.kind == Kind::Tokens && is_npy(&self.path),
            "data.dtype is for flat files, a .npy names its own type; remove it".into(),
        );
        refuse(
            self.extensions.is_some() && self.kind != Kind::Text,
            format!("data.extensions is for kind = \"text\", not \"{}\"; remove it", self.kind.name()),
        );
        refuse(
            self.extensions.as_ref().is_some_and(Vec::is_empty),
            "data.extensions = []: no file would be read; try [\"txt\"], or remove it".into(),
        );
        let Some(valid) = &self.valid else { return };
        refuse(
            valid.fraction.is_some() == valid.path.is_some(),
            "data.valid needs one of fraction and path; try fraction = 0.02".into(),
        );
        let fraction = valid.fraction.unwrap_or(0.0);
        refuse(
            !(0.0..1.0).contains(&fraction),
            format!("data.valid.fraction = {fraction}: must be at least 0 and below 1; try 0.02"),
        );
    }

    pub(crate) fn held_out(&self) -> HeldOut<'_> {
        let Some(valid) = &self.valid else { return HeldOut::Nothing };
        match (&valid.path, valid.fraction) {
            (Some(path), _) => HeldOut::Path(path),
            (None, Some(fraction)) if fraction > 0.0 => HeldOut::Fraction(fraction),
            (None, _) => HeldOut::Nothing,
        }
    }

    pub(crate) fn extensions(&self) -> Vec<String> {
        match (self.kind, &self.extensions) {
            (Kind::Text, Some(chosen)) => chosen.iter().map(|e| e.trim_start_matches('.').into()).collect(),
            (Kind::Text, None) => TEXT_EXTENSIONS.map(String::from).to_vec(),
            (Kind::Jsonl | Kind::Tokens, _) => vec![self.kind.name().into()],
        }
    }
}

impl TokenizerConfig {
    /// Append every problem, with its key and a way out.
    pub fn validate(&self, problems: &mut Vec<String>) {
        if self.path.is_some() && self.vocab_size.is_some() {
            problems.push(
                "tokenizer.path and tokenizer.vocab_size are both set; keep path to load, vocab_size to train".into(),
            );
        }
        if let Some(vocab_size) = self.vocab_size.filter(|size| *size < crate::tokenizer::MIN_VOCAB) {
            problems.push(crate::DataError::NoRoomForBytes { vocab_size }.to_string());
        }
    }
}

pub(crate) fn is_npy(path: &Path) -> bool {
    path.extension().is_some_and(|ending| ending == "npy")
}

fn default_text_key() -> String {
    "text".into()
}
