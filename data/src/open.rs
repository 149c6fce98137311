//! From a config to datasets: [`open`] and what it does for each kind of ids.

use std::iter;
use std::ops::Range;
use std::path::Path;
use std::sync::Arc;

use crate::cache::{self, Cache, CacheReport};
use crate::config::{DataConfig, HeldOut, Kind};
use crate::dataset::{Content, Dataset, Order};
use crate::error::{DataError, Result};
use crate::ids::TokenIds;
use crate::open_samples::{open_internevo, open_random};
use crate::order::{held_out, held_out_count};
use crate::pack::Stream;
use crate::source::{Corpus, tokens};
use crate::tokenizer::Tokenizer;

/// What [`open`] found.
pub struct Splits {
    pub train: Dataset,
    /// Validation sets and their names; that of `data.valid.fraction` and, but for kind internevo, `path` is "".
    pub valid: Vec<(String, Dataset)>,
    /// What [`Batch::types`](crate::Batch::types) counts; empty for a kind without types.
    pub types: Vec<String>,
    /// What became of each token cache; empty for a kind that needs none.
    pub caches: Vec<CacheReport>,
    /// What is not used, and why: lines for the log.
    pub notes: Vec<String>,
}

/// Open the data of a run. Text is tokenised once, into a folder under `cache_dir`; processes that share
/// `cache_dir` should let one of them go first, or each builds the same cache.
///
/// `vocab_size` is the model's; an id outside it is refused, here or when it is read, and cannot reach an embedding.
/// `step_micros` are the micro-batches of a global step, of which the kinds that shuffle as InternEvo does put a whole
/// number into an epoch.
pub fn open(
    cfg: &DataConfig,
    tokenizer: Option<&Tokenizer>,
    vocab_size: usize,
    seed: u64,
    step_micros: usize,
    cache_dir: &Path,
) -> Result<Splits> {
    assert!(step_micros > 0, "a step without micro-batches");
    let mut problems = Vec::new();
    cfg.validate(&mut problems);
    if !problems.is_empty() {
        return Err(DataError::Config(problems));
    }
    match cfg.kind {
        Kind::Tokens => open_tokens(cfg, vocab_size, seed),
        Kind::Internevo => open_internevo(cfg, vocab_size, seed, step_micros),
        Kind::Random => open_random(cfg, vocab_size, seed, step_micros),
        Kind::Text | Kind::Jsonl => {
            let tokenizer = tokenizer.ok_or(DataError::NoTokenizer { kind: cfg.kind.name() })?;
            if tokenizer.vocab_size() > vocab_size {
                return Err(DataError::VocabularyTooSmall { tokenizer: tokenizer.vocab_size(), model: vocab_size });
            }
            open_documents(cfg, tokenizer, seed, cache_dir)
        }
    }
}

/// `kind = "tokens"`: the file is one long document, and a row has a label for each of its tokens.
fn open_tokens(cfg: &DataConfig, vocab_size: usize, seed: u64) -> Result<Splits> {
    let open = |path: &Path, split| {
        let ids = tokens::open(path, cfg.dtype, vocab_size)?;
        let rows = enough(path, split, ids.len(), cfg.seq_len + 1, ids.len().saturating_sub(1) / cfg.seq_len)?;
        Ok((Arc::new(ids), rows))
    };
    let dataset = |ids: &Arc<TokenIds>, rows: Range<usize>, order| {
        let document = rows.start * cfg.seq_len..rows.end * cfg.seq_len + 1;
        of_rows(cfg, Stream::new(ids.clone(), iter::once(document)), rows.len(), order)
    };
    let path = cfg.path();
    let (ids, rows) = open(path, "training")?;
    let (held, valid) = match cfg.held_out() {
        HeldOut::Nothing => (0, Vec::new()),
        HeldOut::Sets(sets) => {
            let sets = sets.into_iter().map(|(name, path)| {
                let (ids, rows) = open(path, "validation")?;
                Ok((name, dataset(&ids, 0..rows, Order::Straight)))
            });
            (0, sets.collect::<Result<_>>()?)
        }
        HeldOut::Fraction(fraction) => {
            let held = held_out_count(rows, fraction).ok_or_else(|| DataError::CannotHoldOut {
                path: path.into(),
                count: rows,
                unit: "rows",
            })?;
            (held, vec![(String::new(), dataset(&ids, rows - held..rows, Order::Straight))])
        }
        HeldOut::Folder(_) | HeldOut::Random => unreachable!("validated: of other kinds"),
    };
    let train = dataset(&ids, 0..rows - held, order(cfg, seed));
    Ok(Splits { train, valid, types: Vec::new(), caches: Vec::new(), notes: Vec::new() })
}

/// Text kinds: tokenise or reuse, then lay the documents of each split end to end.
fn open_documents(cfg: &DataConfig, tokenizer: &Tokenizer, seed: u64, cache_dir: &Path) -> Result<Splits> {
    let open = |path: &Path| cache::open(&Corpus::open(cfg, path)?, tokenizer, cache_dir);
    let dataset = |cache: &Cache, path: &Path, split, chosen: &dyn Fn(usize) -> bool, order| {
        let documents = cache.documents().enumerate().filter(|(i, _)| chosen(*i)).map(|(_, ids)| ids);
        let stream = Stream::new(cache.ids.clone(), documents);
        let rows = enough(path, split, stream.len(), cfg.seq_len, stream.len() / cfg.seq_len)?;
        Ok(of_rows(cfg, stream, rows, order))
    };
    let (path, order) = (cfg.path(), order(cfg, seed));
    let (cache, report) = open(path)?;
    let mut caches = vec![report];
    let (train, valid) = match cfg.held_out() {
        HeldOut::Nothing => (dataset(&cache, path, "training", &|_| true, order)?, Vec::new()),
        HeldOut::Sets(sets) => {
            let train = dataset(&cache, path, "training", &|_| true, order)?;
            let sets = sets.into_iter().map(|(name, path)| {
                let (cache, report) = open(path)?;
                caches.push(report);
                Ok((name, dataset(&cache, path, "validation", &|_| true, Order::Straight)?))
            });
            (train, sets.collect::<Result<_>>()?)
        }
        HeldOut::Fraction(fraction) => {
            let held = hold_out_documents(path, cache.documents().len(), fraction, seed)?;
            let valid = dataset(&cache, path, "validation", &|i| held[i], Order::Straight)?;
            (dataset(&cache, path, "training", &|i| !held[i], order)?, vec![(String::new(), valid)])
        }
        HeldOut::Folder(_) | HeldOut::Random => unreachable!("validated: of other kinds"),
    };
    Ok(Splits { train, valid, types: Vec::new(), caches, notes: Vec::new() })
}

/// Text a tokenizer may learn from: a sample of the documents that [`open`] will train on.
pub(crate) fn training_text(cfg: &DataConfig, seed: u64) -> Result<Vec<String>> {
    if !cfg.kind.is_text() {
        return Err(DataError::NoTrainingText { kind: cfg.kind.name() });
    }
    let corpus = Corpus::open(cfg, cfg.path())?;
    match cfg.held_out() {
        HeldOut::Fraction(fraction) => {
            let held = hold_out_documents(cfg.path(), corpus.documents(), fraction, seed)?;
            corpus.sample(seed, |i| !held[i])
        }
        HeldOut::Nothing | HeldOut::Sets(_) | HeldOut::Folder(_) | HeldOut::Random => corpus.sample(seed, |_| true),
    }
}

fn of_rows(cfg: &DataConfig, stream: Stream, rows: usize, order: Order) -> Dataset {
    let content = Content::Rows { stream, count: rows as u64 };
    Dataset { content, order, seq_len: cfg.seq_len, micro_batch_size: cfg.micro_batch_size }
}

fn order(cfg: &DataConfig, seed: u64) -> Order {
    if cfg.shuffle { Order::Keyed { seed } } else { Order::Straight }
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
