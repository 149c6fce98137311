//! From a config to datasets, and from an index to a micro-batch.

use std::iter;
use std::ops::Range;
use std::path::Path;
use std::sync::Arc;

use crate::cache::{self, Cache, CacheReport};
use crate::config::{DataConfig, HeldOut, Kind};
use crate::error::{DataError, Result};
use crate::ids::TokenIds;
use crate::order::{Permutation, held_out, held_out_count};
use crate::pack::{Batch, IGNORE, Stream};
use crate::source::{Corpus, tokens};
use crate::tokenizer::Tokenizer;

/// What [`open`] found.
pub struct Splits {
    pub train: Dataset,
    pub valid: Option<Dataset>,
    /// What became of each token cache; empty for `kind = "tokens"`, which needs none.
    pub caches: Vec<CacheReport>,
}

/// Rows of one split, and the endless order in which training takes them. Threads share it by reference.
pub struct Dataset {
    stream: Stream,
    rows: u64,
    seq_len: usize,
    micro_batch_size: usize,
    shuffle: Option<u64>,
}

/// Open the data of a run. Text is tokenised once, into a folder under `cache_dir`; processes that share
/// `cache_dir` should let one of them go first, or each builds the same cache.
///
/// `vocab_size` is the model's; an id outside it is refused here and cannot reach an embedding.
pub fn open(
    cfg: &DataConfig,
    tokenizer: Option<&Tokenizer>,
    vocab_size: usize,
    seed: u64,
    cache_dir: &Path,
) -> Result<Splits> {
    let mut problems = Vec::new();
    cfg.validate(&mut problems);
    if !problems.is_empty() {
        return Err(DataError::Config(problems));
    }
    match cfg.kind {
        Kind::Tokens => open_tokens(cfg, vocab_size, seed),
        Kind::Text | Kind::Jsonl => {
            let tokenizer = tokenizer.ok_or(DataError::NoTokenizer { kind: cfg.kind.name() })?;
            if tokenizer.vocab_size() > vocab_size {
                return Err(DataError::VocabularyTooSmall { tokenizer: tokenizer.vocab_size(), model: vocab_size });
            }
            open_documents(cfg, tokenizer, seed, cache_dir)
        }
    }
}

impl Dataset {
    /// Rows in one epoch.
    pub fn rows(&self) -> u64 {
        self.rows
    }

    /// Micro-batch `k` since the start of training: rows `k*B .. k*B+B` of the endless order, one epoch
    /// after the other. A pure function of (dataset, k).
    pub fn micro_batch(&self, k: u64) -> Batch {
        let first = k * self.micro_batch_size as u64;
        self.batch((first..).map(|n| Some(self.row_of(n))))
    }

    /// Micro-batches in one pass over the split, for evaluation.
    pub fn eval_len(&self) -> u64 {
        self.rows.div_ceil(self.micro_batch_size as u64)
    }

    /// Micro-batch `i` of one pass, in order and without shuffle. Past the last row come copies of row 0 whose
    /// labels are all [`IGNORE`], for any `i`: data-parallel ranks take equally many and nothing counts twice.
    pub fn eval_batch(&self, i: u64) -> Batch {
        let first = i * self.micro_batch_size as u64;
        self.batch((first..).map(|row| (row < self.rows).then_some(row)))
    }

    /// One pass over the split.
    pub fn eval_batches(&self) -> impl Iterator<Item = Batch> + '_ {
        (0..self.eval_len()).map(|i| self.eval_batch(i))
    }

    fn row_of(&self, n: u64) -> u64 {
        let (epoch, place) = (n / self.rows, n % self.rows);
        match self.shuffle {
            Some(seed) => Permutation::new(self.rows, seed, epoch).at(place),
            None => place,
        }
    }

    /// The first B of `rows`; None is filler.
    fn batch(&self, rows: impl Iterator<Item = Option<u64>>) -> Batch {
        let mut batch = Batch::with_capacity(self.seq_len * self.micro_batch_size);
        for row in rows.take(self.micro_batch_size) {
            let begin = batch.ids.len();
            let start = row.unwrap_or(0) as usize * self.seq_len;
            batch.push(&self.stream, start..start + self.seq_len);
            if row.is_none() {
                batch.labels[begin..].fill(IGNORE);
            }
        }
        batch
    }

    fn new(cfg: &DataConfig, stream: Stream, rows: usize, shuffle: Option<u64>) -> Dataset {
        Dataset { stream, rows: rows as u64, seq_len: cfg.seq_len, micro_batch_size: cfg.micro_batch_size, shuffle }
    }
}

/// `kind = "tokens"`: the file is one long document, and a row has a label for each of its tokens.
fn open_tokens(cfg: &DataConfig, vocab_size: usize, seed: u64) -> Result<Splits> {
    let open = |path: &Path, split| {
        let ids = tokens::open(path, cfg.dtype, vocab_size)?;
        let rows = enough(path, split, ids.len(), cfg.seq_len + 1, ids.len().saturating_sub(1) / cfg.seq_len)?;
        Ok((Arc::new(ids), rows))
    };
    let dataset = |ids: &Arc<TokenIds>, rows: Range<usize>, shuffle| {
        let document = rows.start * cfg.seq_len..rows.end * cfg.seq_len + 1;
        Dataset::new(cfg, Stream::new(ids.clone(), iter::once(document)), rows.len(), shuffle)
    };
    let (ids, rows) = open(&cfg.path, "training")?;
    let (held, valid) = match cfg.held_out() {
        HeldOut::Nothing => (0, None),
        HeldOut::Path(path) => {
            let (ids, rows) = open(path, "validation")?;
            (0, Some(dataset(&ids, 0..rows, None)))
        }
        HeldOut::Fraction(fraction) => {
            let held = held_out_count(rows, fraction).ok_or_else(|| DataError::CannotHoldOut {
                path: cfg.path.clone(),
                count: rows,
                unit: "rows",
            })?;
            (held, Some(dataset(&ids, rows - held..rows, None)))
        }
    };
    let train = dataset(&ids, 0..rows - held, cfg.shuffle.then_some(seed));
    Ok(Splits { train, valid, caches: Vec::new() })
}

/// Text kinds: tokenise or reuse, then lay the documents of each split end to end.
fn open_documents(cfg: &DataConfig, tokenizer: &Tokenizer, seed: u64, cache_dir: &Path) -> Result<Splits> {
    let open = |path: &Path| cache::open(&Corpus::open(cfg, path)?, tokenizer, cache_dir);
    let dataset = |cache: &Cache, path: &Path, split, chosen: &dyn Fn(usize) -> bool, shuffle| {
        let documents = cache.documents().enumerate().filter(|(i, _)| chosen(*i)).map(|(_, ids)| ids);
        let stream = Stream::new(cache.ids.clone(), documents);
        let rows = enough(path, split, stream.len(), cfg.seq_len, stream.len() / cfg.seq_len)?;
        Ok(Dataset::new(cfg, stream, rows, shuffle))
    };
    let shuffle = cfg.shuffle.then_some(seed);
    let (cache, report) = open(&cfg.path)?;
    let mut caches = vec![report];
    let (train, valid) = match cfg.held_out() {
        HeldOut::Nothing => (dataset(&cache, &cfg.path, "training", &|_| true, shuffle)?, None),
        HeldOut::Path(path) => {
            let (other, report) = open(path)?;
            caches.push(report);
            (
                dataset(&cache, &cfg.path, "training", &|_| true, shuffle)?,
                Some(dataset(&other, path, "validation", &|_| true, None)?),
            )
        }
        HeldOut::Fraction(fraction) => {
            let held = hold_out_documents(&cfg.path, cache.documents().len(), fraction, seed)?;
            (
                dataset(&cache, &cfg.path, "training", &|i| !held[i], shuffle)?,
                Some(dataset(&cache, &cfg.path, "validation", &|i| held[i], None)?),
            )
        }
    };
    Ok(Splits { train, valid, caches })
}

/// Text a tokenizer may learn from: a sample of the documents that [`open`] will train on.
pub(crate) fn training_text(cfg: &DataConfig, seed: u64) -> Result<Vec<String>> {
    let corpus = Corpus::open(cfg, &cfg.path)?;
    match cfg.held_out() {
        HeldOut::Nothing | HeldOut::Path(_) => corpus.sample(seed, |_| true),
        HeldOut::Fraction(fraction) => {
            let held = hold_out_documents(&cfg.path, corpus.documents(), fraction, seed)?;
            corpus.sample(seed, |i| !held[i])
        }
    }
}

fn hold_out_documents(path: &Path, count: usize, fraction: f64, seed: u64) -> Result<Vec<bool>> {
    let unit = "documents";
    held_out(count, fraction, seed).ok_or_else(|| DataError::CannotHoldOut { path: path.into(), count, unit })
}

fn enough(path: &Path, split: &'static str, tokens: usize, needed: usize, rows: usize) -> Result<usize> {
    if rows == 0 {
        return Err(DataError::TooShort { path: path.into(), split, tokens, needed });
    }
    Ok(rows)
}
