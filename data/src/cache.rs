//! Text is tokenised once: the ids lie in a folder named by a fingerprint of all that decides them.
//!
//! ```text
//! <cache_dir>/tokens-<fingerprint>/tokens.bin      ids, little-endian u16, or u32 for a large vocabulary
//!                                  documents.bin   where each document ends in it, little-endian u64
//!                                  meta.json       [`Meta`]: counts and hashes of the two
//! ```
//!
//! The folder is built under another name and renamed, so a crash leaves no half cache under the right one.
//! Both files are hashed again whenever they are opened; what does not fit is rebuilt, and the report says why.

use std::fmt;
use std::fs::{self, File};
use std::io::{self, BufWriter, Write};
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::error::{DataError, Result};
use crate::hash::{hash, hash_words};
use crate::ids::{TokenIds, Width, map};
use crate::source::Corpus;
use crate::tokenizer::Tokenizer;

/// Raise it when a change alters what is stored for the same sources: cutting, packing of files, layout.
const VERSION: u64 = 1;

/// The tokens of a corpus.
pub(crate) struct Cache {
    pub ids: Arc<TokenIds>,
    /// Where document i ends.
    ends: Vec<usize>,
}

/// What became of a cache; `Display` is a line for the log.
#[derive(Clone, Debug)]
pub struct CacheReport {
    pub path: PathBuf,
    pub state: CacheState,
    pub documents: usize,
    pub tokens: usize,
}

#[derive(Clone, Debug, Eq, PartialEq)]
pub enum CacheState {
    Reused,
    Built,
    /// There was one, but damaged.
    Rebuilt {
        why: String,
    },
}

#[derive(Deserialize, Serialize)]
struct Meta {
    version: u64,
    fingerprint: u64,
    bytes_per_id: usize,
    documents: usize,
    tokens: usize,
    tokens_hash: u64,
    documents_hash: u64,
}

/// The cache of `corpus` under `dir`: the one that is there, or a new one.
pub(crate) fn open(corpus: &Corpus, tokenizer: &Tokenizer, dir: &Path) -> Result<(Cache, CacheReport)> {
    let fingerprint = hash_words(&[VERSION, corpus.fingerprint(), tokenizer.fingerprint()]);
    let path = dir.join(format!("tokens-{fingerprint:016x}"));
    let found = if path.exists() { Some(load(&path, fingerprint)) } else { None };
    let (cache, state) = match found {
        Some(Ok(cache)) => (cache, CacheState::Reused),
        Some(Err(why)) => (build(corpus, tokenizer, &path, fingerprint)?, CacheState::Rebuilt { why }),
        None => (build(corpus, tokenizer, &path, fingerprint)?, CacheState::Built),
    };
    let report = CacheReport { path, state, documents: cache.ends.len(), tokens: cache.ids.len() };
    Ok((cache, report))
}

impl Cache {
    /// Where the tokens of each document lie.
    pub fn documents(&self) -> impl ExactSizeIterator<Item = Range<usize>> {
        (0..self.ends.len()).map(|i| if i == 0 { 0 } else { self.ends[i - 1] }..self.ends[i])
    }
}

/// The cache in a folder, or what is wrong with it.
fn load(folder: &Path, fingerprint: u64) -> std::result::Result<Cache, String> {
    let meta = fs::read(folder.join("meta.json")).map_err(|error| format!("meta.json: {error}"))?;
    let meta: Meta = serde_json::from_slice(&meta).map_err(|error| format!("meta.json: {error}"))?;
    if (meta.version, meta.fingerprint) != (VERSION, fingerprint) {
        return Err("meta.json is of another cache".into());
    }
    let tokens = map(&folder.join("tokens.bin")).map_err(|error| error.to_string())?;
    let documents = map(&folder.join("documents.bin")).map_err(|error| error.to_string())?;
    if hash(&tokens) != meta.tokens_hash {
        return Err("tokens.bin is not what was written".into());
    }
    if hash(&documents) != meta.documents_hash {
        return Err("documents.bin is not what was written".into());
    }
    let ends: Vec<usize> = documents.as_chunks().0.iter().map(|end| u64::from_le_bytes(*end) as usize).collect();
    let width = if meta.bytes_per_id == 2 { Width::U16 } else { Width::U32 };
    let counts = (ends.len(), ends.last().copied(), tokens.len());
    if counts != (meta.documents, Some(meta.tokens), meta.tokens * width.bytes()) {
        return Err("meta.json counts other documents or tokens".into());
    }
    Ok(Cache { ids: Arc::new(TokenIds::new(tokens, 0, width, meta.tokens)), ends })
}

fn build(corpus: &Corpus, tokenizer: &Tokenizer, folder: &Path, fingerprint: u64) -> Result<Cache> {
    let building = Building::start(folder)?;
    write(corpus, tokenizer, &building.folder, fingerprint)?;
    // Another process may have put the same cache there in the meantime, and others may be reading it.
    if let Ok(cache) = load(folder, fingerprint) {
        return Ok(cache);
    }
    if folder.exists() {
        fs::remove_dir_all(folder).map_err(DataError::io("remove", folder))?;
    }
    let renamed = fs::rename(&building.folder, folder).map_err(DataError::io("write", folder));
    // If the rename fails because another process was faster still, all is well.
    load(folder, fingerprint).or_else(|why| {
        renamed?;
        let cause = io::Error::other(why);
        Err(DataError::Io { action: "read back", path: folder.into(), cause })
    })
}

/// Write the three files: every document encoded, and the end of text after it.
fn write(corpus: &Corpus, tokenizer: &Tokenizer, folder: &Path, fingerprint: u64) -> Result<()> {
    let [tokens_path, documents_path, meta_path] =
        ["tokens.bin", "documents.bin", "meta.json"].map(|name| folder.join(name));
    let create = |path: &Path| Ok(BufWriter::new(File::create(path).map_err(DataError::io("create", path))?));
    let mut tokens = create(&tokens_path)?;
    let mut documents = create(&documents_path)?;
    let bytes_per_id = if tokenizer.vocab_size() <= 1 << 16 { 2 } else { 4 };

    let mut written = 0;
    corpus.map_documents(
        |_, text| {
            let mut ids = tokenizer.encode(text)?;
            ids.push(tokenizer.eos_id());
            Ok((ids.len(), ids.iter().flat_map(|id| id.to_le_bytes().into_iter().take(bytes_per_id)).collect()))
        },
        |(len, bytes): (usize, Vec<u8>)| {
            written += len;
            tokens.write_all(&bytes).map_err(DataError::io("write", &tokens_path))?;
            documents.write_all(&(written as u64).to_le_bytes()).map_err(DataError::io("write", &documents_path))
        },
    )?;
    tokens.flush().map_err(DataError::io("write", &tokens_path))?;
    documents.flush().map_err(DataError::io("write", &documents_path))?;

    let meta = Meta {
        version: VERSION,
        fingerprint,
        bytes_per_id,
        documents: corpus.documents(),
        tokens: written,
        tokens_hash: hash(&map(&tokens_path)?),
        documents_hash: hash(&map(&documents_path)?),
    };
    let meta = serde_json::to_string_pretty(&meta).expect("numbers are JSON");
    fs::write(&meta_path, meta).map_err(DataError::io("write", &meta_path))
}

/// A folder under a temporary name, gone when it is dropped unless it was renamed.
struct Building {
    folder: PathBuf,
}

impl Building {
    fn start(cache: &Path) -> Result<Building> {
        let dir = cache.parent().expect("a cache lies in a folder");
        fs::create_dir_all(dir).map_err(DataError::io("create", dir))?;
        // `create_dir` is exclusive, on shared file systems too: the first free number is ours alone.
        let mut number = 0;
        loop {
            let folder = cache.with_extension(format!("building-{number}"));
            match fs::create_dir(&folder) {
                Ok(()) => return Ok(Building { folder }),
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => number += 1,
                Err(error) => return Err(DataError::io("create", &folder)(error)),
            }
        }
    }
}

impl Drop for Building {
    fn drop(&mut self) {
        // After the rename nothing is here; after an error, that error is what the user should read.
        let _ = fs::remove_dir_all(&self.folder);
    }
}

impl fmt::Display for CacheReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let CacheReport { path, state, documents, tokens } = self;
        match state {
            CacheState::Reused => write!(f, "reused")?,
            CacheState::Built => write!(f, "built")?,
            CacheState::Rebuilt { why } => write!(f, "rebuilt (it was damaged: {why})")?,
        }
        write!(f, " the token cache {}: {documents} documents, {tokens} tokens", path.display())
    }
}
