//! What a training needs before there are ranks: tokenizer, weights and shape, data.
use crate::config::{Precision, RunConfig};
use crate::folder::{RunFolder, Start};
use crate::job::{self, Job};
use crate::report;
use anyhow::{Result, bail};
use checkpoint::{HfDir, Training};
use data::Tokenizer;
use model::{Decoder, ParamSpec};

/// Where the weights come from.
pub enum Weights {
    Random,
    Directory(HfDir),
    Checkpoint(Training),
}

/// A run keeps its tokenizer: what was trained or loaded once is used on every resume.
pub fn tokenizer(config: &RunConfig, start: &Start) -> Result<Option<Tokenizer>> {
    let is_text = config.data.kind.is_text();
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
        .zip(config.data.path.as_ref())
        .map(|(n, path)| report::waiting(&format!("training a tokenizer of {n} tokens on {}", path.display())));
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
                Some(dir) => config.model.beside(HfDir::open(dir)?.decoder().clone()),
                None => from_config(),
            };
            Ok((Weights::Checkpoint(Training::open(checkpoint, &decoder)?), decoder))
        }
        (Start::New, Some(path)) => {
            let dir = HfDir::open(path)?;
            let decoder = config.model.beside(dir.decoder().clone());
            Ok((Weights::Directory(dir.for_run(&decoder)), decoder))
        }
        (Start::New, None) => Ok((Weights::Random, from_config())),
    }
}

/// Initial values of a parameter from element `start` on: each is a function of its place, so all cores share the work.
pub fn initial(spec: &ParamSpec, seed: u64, start: usize, out: &mut [f32]) {
    let piece = out.len().div_ceil(job::cores()).max(1 << 16);
    std::thread::scope(|scope| {
        for (i, out) in out.chunks_mut(piece).enumerate() {
            scope.spawn(move || model::initial(spec, seed, start + i * piece, out));
        }
    });
}

pub fn open_data(
    config: &RunConfig,
    job: &Job,
    tokenizer: Option<&Tokenizer>,
    folder: &RunFolder,
) -> Result<data::Splits> {
    let text = config.data.path.as_ref().filter(|_| config.data.kind.is_text());
    let waiting = text.map(|path| report::waiting(&format!("tokenising {}", path.display())));
    let step_micros = job.plan.global_micros(job.full());
    let splits = data::open(&config.data, tokenizer, job.plan.model.vocab, config.seed, step_micros, &folder.cache())?;
    if let Some(waiting) = waiting {
        waiting.finish_and_clear();
    }
    for cache in &splits.caches {
        eprintln!("{cache}");
    }
    for note in &splits.notes {
        eprintln!("{note}");
    }
    Ok(splits)
}
