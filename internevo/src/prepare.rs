//! What a training needs before there are ranks: tokenizer, weights and shape, data.
use crate::config::{Precision, RunConfig};
use crate::folder::{RunFolder, Start};
use crate::job::Job;
use crate::report;
use anyhow::{Result, bail};
use checkpoint::{HfDir, Training};
use data::{Kind, Tokenizer};
use model::Decoder;

/// Where the weights come from.
pub enum Weights {
    Random,
    Directory(HfDir),
    Checkpoint(Training),
}

/// A run keeps its tokenizer: what was trained or loaded once is used on every resume.
pub fn tokenizer(config: &RunConfig, start: &Start) -> Result<Option<Tokenizer>> {
    let is_text = config.data.kind != Kind::Tokens;
    if let Start::Resume { checkpoint, .. } = start
        && is_text
    {
        return Ok(Some(Tokenizer::load(checkpoint)?));
    }
    let mut wanted = config.tokenizer.clone();
    if is_text && wanted.path.is_none() && wanted.vocab_size.is_none() {
        match (&config.model.init_from, config.model.vocab_size) {
            (Some(dir), _) => wanted.path = Some(dir.clone()),
            (None, Some(size)) => wanted.vocab_size = Some(size),
            (None, None) => bail!(
                "tokenizer: data.kind is text, but there is no tokenizer; give tokenizer.path, or tokenizer.vocab_size to train one"
            ),
        }
    }
    let training = wanted.vocab_size.filter(|_| wanted.path.is_none());
    let waiting = training
        .map(|n| report::waiting(&format!("training a tokenizer of {n} tokens on {}", config.data.path.display())));
    let tokenizer = Tokenizer::from_config(&wanted, &config.data, config.seed)?;
    if let Some(waiting) = waiting {
        waiting.finish_and_clear();
    }
    Ok(tokenizer)
}

pub fn weights(config: &RunConfig, start: &Start, tokenizer: Option<&Tokenizer>) -> Result<(Weights, Decoder)> {
    let from_config = || config.model.decoder(tokenizer.map_or(0, Tokenizer::vocab_size));
    match (start, &config.model.init_from) {
        (Start::Resume { checkpoint, .. }, init_from) => {
            if config.precision.params == Precision::F64 {
                bail!("precision.params = \"f64\" cannot be resumed: checkpoints hold f32");
            }
            let decoder = match init_from {
                Some(dir) => HfDir::open(dir)?.decoder().clone(),
                None => from_config(),
            };
            Ok((Weights::Checkpoint(Training::open(checkpoint, &decoder)?), decoder))
        }
        (Start::New, Some(path)) => {
            let dir = HfDir::open(path)?;
            let decoder = dir.decoder().clone();
            Ok((Weights::Directory(dir), decoder))
        }
        (Start::New, None) => Ok((Weights::Random, from_config())),
    }
}

pub fn open_data(
    config: &RunConfig,
    job: &Job,
    tokenizer: Option<&Tokenizer>,
    folder: &RunFolder,
) -> Result<data::Splits> {
    let waiting = (config.data.kind != Kind::Tokens)
        .then(|| report::waiting(&format!("tokenising {}", config.data.path.display())));
    let splits = data::open(&config.data, tokenizer, job.plan.model.vocab, config.seed, &folder.cache())?;
    if let Some(waiting) = waiting {
        waiting.finish_and_clear();
    }
    for cache in &splits.caches {
        eprintln!("{cache}");
    }
    Ok(splits)
}
