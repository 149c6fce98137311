//! The `[data]` and `[tokenizer]` sections of a run file.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

/// The `[data]` section.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct DataConfig {
    pub kind: Kind,
    /// A file, or for text and jsonl a folder, read recursively in sorted order; for internevo a folder of folders.
    /// random has none.
    pub path: Option<PathBuf>,
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
    /// internevo: shorter samples are left out.
    #[serde(default)]
    pub min_length: usize,
    /// internevo: the same for files whose path contains the key.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub min_length_of: BTreeMap<String, usize>,
    /// internevo, random: attention and positions run on across the samples of a row.
    #[serde(default)]
    pub cross_documents: bool,
    /// random: every sample has `seq_len` tokens.
    #[serde(default)]
    pub fixed_length: bool,
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
    /// A folder of tokenised files as InternEvo reads them, packed and shuffled as it does.
    Internevo,
    /// InternEvo's made-up data, for trying out a model without any.
    Random,
}

impl Kind {
    /// Whether a tokenizer is needed.
    pub fn is_text(self) -> bool {
        match self {
            Kind::Text | Kind::Jsonl => true,
            Kind::Tokens | Kind::Internevo | Kind::Random => false,
        }
    }

    pub(crate) fn name(self) -> &'static str {
        match self {
            Kind::Text => "text",
            Kind::Jsonl => "jsonl",
            Kind::Tokens => "tokens",
            Kind::Internevo => "internevo",
            Kind::Random => "random",
        }
    }
}

#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Dtype {
    U16,
    U32,
}

/// The `[data.valid]` section: one of fraction, path, sets and random, of those that the kind has.
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct ValidConfig {
    /// text, jsonl: hold out this part of the documents, chosen by the seed. tokens: of the rows, the last.
    pub fraction: Option<f64>,
    /// Validate on other data of the same kind; for internevo a folder each of whose folders is a named set.
    pub path: Option<PathBuf>,
    /// The same, several times, by name.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sets: Option<BTreeMap<String, PathBuf>>,
    /// random: samples of the same making.
    #[serde(default)]
    pub random: bool,
    /// internevo: shorter samples are left out.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub min_length: Option<usize>,
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
    /// Of the training data.
    Fraction(f64),
    /// Other data, by name.
    Sets(Vec<(String, &'a Path)>),
    /// Every folder in here is a set.
    Folder(&'a Path),
    Random,
}

/// Tokens of the shortest validation sample, as in InternEvo, which has no key for it.
const VALID_MIN_LENGTH: usize = 50;

/// Endings of the files that are read as text, unless `data.extensions` says otherwise.
const TEXT_EXTENSIONS: [&str; 24] = [
    "txt", "text", "md", "rst", "tex", "rs", "toml", "py", "c", "h", "cc", "cpp", "hpp", "cu", "cuh", "go", "java",
    "js", "ts", "html", "css", "sh", "yaml", "yml",
];

impl DataConfig {
    /// Append every problem, with its key and a way out. Files are looked at by [`open`](crate::open).
    pub fn validate(&self, problems: &mut Vec<String>) {
        let mut refuse = |condition: bool, problem: String| problems.extend(condition.then_some(problem));
        let path = self.path.as_deref();
        refuse(
            self.kind != Kind::Random && path.is_none(),
            "data.path is missing; write path = \"corpus/\" under [data]".into(),
        );
        refuse(
            self.kind == Kind::Random && path.is_some(),
            "data.path is not for kind = \"random\", which reads no files; remove it".into(),
        );
        refuse(
            path.is_some_and(|path| path.as_os_str().is_empty()),
            "data.path is empty: name a file or a folder".into(),
        );
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
            self.dtype.is_some() && self.kind == Kind::Tokens && path.is_some_and(is_npy),
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
        let name = self.kind.name();
        let of_files = self.kind == Kind::Internevo;
        refuse(
            !of_files && self.min_length > 0,
            format!("data.min_length is for kind = \"internevo\", not \"{name}\"; remove it"),
        );
        refuse(
            !of_files && !self.min_length_of.is_empty(),
            format!("data.min_length_of is for kind = \"internevo\", not \"{name}\"; remove it"),
        );
        refuse(
            self.min_length_of.contains_key(""),
            "data.min_length_of has an empty key, which is part of every path; set data.min_length instead".into(),
        );
        refuse(
            self.cross_documents && !of_files && self.kind != Kind::Random,
            format!("data.cross_documents is for kind = \"internevo\" and \"random\", not \"{name}\"; remove it"),
        );
        refuse(
            self.fixed_length && self.kind != Kind::Random,
            format!("data.fixed_length is for kind = \"random\", not \"{name}\"; remove it"),
        );
        if let Some(valid) = &self.valid {
            valid.validate(self.kind, problems);
        }
    }

    /// A validated config has a path wherever its kind reads one.
    pub(crate) fn path(&self) -> &Path {
        self.path.as_deref().expect("validated: there is a path")
    }

    /// The shortest sample that is read from a training file of kind internevo; or the keys of `min_length_of` that
    /// contradict each other.
    pub(crate) fn min_length(&self, file: &Path) -> Result<usize, Vec<String>> {
        let file = file.to_string_lossy();
        let matches: Vec<_> = self.min_length_of.iter().filter(|(key, _)| file.contains(key.as_str())).collect();
        match matches[..] {
            [] => Ok(self.min_length),
            [(_, length)] => Ok(*length),
            _ => Err(matches.into_iter().map(|(key, _)| key.clone()).collect()),
        }
    }

    /// The shortest sample that is read from a validation file of kind internevo.
    pub(crate) fn valid_min_length(&self) -> usize {
        self.valid.as_ref().and_then(|valid| valid.min_length).unwrap_or(VALID_MIN_LENGTH)
    }

    pub(crate) fn held_out(&self) -> HeldOut<'_> {
        let Some(valid) = &self.valid else { return HeldOut::Nothing };
        match (&valid.path, &valid.sets, valid.fraction, self.kind) {
            (Some(path), _, _, Kind::Internevo) => HeldOut::Folder(path),
            (Some(path), ..) => HeldOut::Sets(vec![(String::new(), path)]),
            (None, Some(sets), ..) => {
                HeldOut::Sets(sets.iter().map(|(name, path)| (name.clone(), path.as_path())).collect())
            }
            (None, None, Some(fraction), _) if fraction > 0.0 => HeldOut::Fraction(fraction),
            (None, None, _, Kind::Random) => HeldOut::Random,
            (None, None, ..) => HeldOut::Nothing,
        }
    }

    pub(crate) fn extensions(&self) -> Vec<String> {
        match (self.kind, &self.extensions) {
            (Kind::Text, Some(chosen)) => chosen.iter().map(|e| e.trim_start_matches('.').into()).collect(),
            (Kind::Text, None) => TEXT_EXTENSIONS.map(String::from).to_vec(),
            (Kind::Jsonl | Kind::Tokens | Kind::Internevo | Kind::Random, _) => vec![self.kind.name().into()],
        }
    }
}

impl ValidConfig {
    fn validate(&self, kind: Kind, problems: &mut Vec<String>) {
        let mut refuse = |condition: bool, problem: String| problems.extend(condition.then_some(problem));
        let given = [
            ("fraction", self.fraction.is_some()),
            ("path", self.path.is_some()),
            ("sets", self.sets.is_some()),
            ("random", self.random),
        ];
        let (choice, attempt): (&[&str], _) = match kind {
            Kind::Text | Kind::Jsonl | Kind::Tokens => (&["fraction", "path", "sets"], "fraction = 0.02"),
            Kind::Internevo => (&["path", "sets"], "path = \"valid/\""),
            Kind::Random => (&["random"], "random = true"),
        };
        let given: Vec<&str> = given.iter().filter(|(_, given)| *given).map(|(name, _)| *name).collect();
        refuse(
            given.len() != 1 || !choice.contains(&given[0]),
            match choice {
                [only] => format!("data.valid of kind = \"{}\" has {only} alone; try {attempt}", kind.name()),
                _ => format!("data.valid needs one of {}; try {attempt}", choice.join(", ")),
            },
        );
        let fraction = self.fraction.unwrap_or(0.0);
        refuse(
            !(0.0..1.0).contains(&fraction),
            format!("data.valid.fraction = {fraction}: must be at least 0 and below 1; try 0.02"),
        );
        refuse(
            self.sets.as_ref().is_some_and(BTreeMap::is_empty),
            "data.valid.sets is empty: name a set, as in sets = { news = \"news.txt\" }".into(),
        );
        let unnamed = |(name, path): (&String, &PathBuf)| name.is_empty() || path.as_os_str().is_empty();
        refuse(
            self.sets.as_ref().is_some_and(|sets| sets.iter().any(unnamed)),
            "data.valid.sets: every set needs a name and a path, as in sets = { news = \"news.txt\" }".into(),
        );
        refuse(
            self.min_length.is_some() && kind != Kind::Internevo,
            format!("data.valid.min_length is for kind = \"internevo\", not \"{}\"; remove it", kind.name()),
        );
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
