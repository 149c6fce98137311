//! What the tests share: a scratch folder and a tokenizer whose ids can be worked out by hand.

use std::collections::BTreeMap;
use std::fs;
use std::path::PathBuf;

use data::{DataConfig, DataError, Kind, Splits, Tokenizer};
use tempfile::TempDir;

/// A folder for one test. The tokenizer knows bytes only: 0 is the end of text, a printable ASCII character
/// `c` has the id `c - 32`.
pub struct Bench {
    pub folder: TempDir,
    pub bytes: Tokenizer,
}

pub const SEED: u64 = 1024;

/// Micro-batches of a step.
pub const STEP: usize = 2;

impl Bench {
    pub fn new() -> Bench {
        let bytes = Tokenizer::train(std::iter::empty::<&str>(), 257).unwrap();
        Bench { folder: tempfile::tempdir().unwrap(), bytes }
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    pub fn write(&self, name: &str, contents: impl AsRef<[u8]>) {
        fs::create_dir_all(self.path(name).parent().unwrap()).unwrap();
        fs::write(self.path(name), contents).unwrap();
    }

    pub fn config(&self, kind: Kind, name: &str) -> DataConfig {
        DataConfig {
            kind,
            path: (kind != Kind::Random).then(|| self.path(name)),
            seq_len: 4,
            micro_batch_size: 2,
            shuffle: false,
            text_key: "text".into(),
            dtype: None,
            extensions: None,
            min_length: 0,
            min_length_of: BTreeMap::new(),
            cross_documents: false,
            fixed_length: false,
            valid: None,
        }
    }

    pub fn open(&self, cfg: &DataConfig) -> Result<Splits, DataError> {
        data::open(cfg, Some(&self.bytes), 257, SEED, STEP, &self.path("cache"))
    }
}

/// Several documents of text: one JSON line each.
pub fn jsonl(documents: &[&str]) -> String {
    documents.iter().map(|text| serde_json::json!({ "text": text }).to_string() + "\n").collect()
}

/// A flat u16 file.
pub fn u16s(ids: impl IntoIterator<Item = u16>) -> Vec<u8> {
    ids.into_iter().flat_map(u16::to_le_bytes).collect()
}
