//! What a training needs before there are ranks: folder, tokenizer, weights and shape, programs, data. In several
//! processes rank 0 goes first where something is made, and the others find it.
use crate::alike;
use crate::config::{Precision, RunConfig};
use crate::control::{Control, Signals};
use crate::device::On;
use crate::environment::restarted;
use crate::folder::{RunFolder, Start};
use crate::job::{self, Job};
use crate::nearest;
use crate::report;
use crate::train::{Args, Run};
use crate::world::Place;
use anyhow::{Context, Result, bail};
use checkpoint::{HfDir, Training};
use data::Tokenizer;
use model::{Decoder, Family, models};
use schedule::RankPrograms;
use std::path::Path;

/// The run, and the programs of those ranks that this process is.
pub fn run<'a>(
    args: &Args,
    config: &'a RunConfig,
    on: &On,
    place: Place,
    control: &mut Control,
) -> Result<(Run<'a>, Vec<RankPrograms>)> {
    let (folder, start, tokenizer) = begin(args, config, place, control)?;
    let (weights, decoder) = weights(config, &start, tokenizer.as_ref())?;
    let types = data::type_names(&config.data)?.len().max(1);
    let job = Job::new(config, decoder, types, place.world).with_context(|| args.run.config.display().to_string())?;
    let proved = match (&args.program, place.own) {
        (Some(file), _) => job.programs_from(file)?,
        (None, None) => job.programs()?,
        (None, Some(_)) => job.stage_programs()?,
    };
    let step = job.step_config(config);
    let (limit, of_step) = (config.memory_limit(), (&job.plan, &step));
    let memory_bytes =
        job::check_memory(on, limit, of_step, (&proved, job.copy_bytes(config)), place.here, |limit, workspace| {
            let near = nearest::layouts(config, &job.plan.model, types, place.world, [limit, workspace]);
            match near.is_empty() {
                true => {
                    "lower data.micro_batch_size or data.seq_len, or use more ranks with parallel.zero.stage = 3".into()
                }
                false => format!(
                    "layouts of {} ranks that fit:\n{}\nor lower data.micro_batch_size or data.seq_len",
                    place.world,
                    near.join("\n")
                ),
            }
        })?;
    if place.own.is_some() {
        alike::programs(control, &proved)?;
    }
    let leads = control.leads();
    let data = control.first(|| open_data(config, &job, tokenizer.as_ref(), &folder, leads))?;
    if control.leads() && config.checkpoint.enabled && models::directory(&job.plan.model) == Family::Internevo {
        eprintln!(
            "note: no model of transformers has this mixture of parts: checkpoints are written with model_type \"internevo\", which only this program reads"
        );
    }
    let programs = match (&args.program, place.own) {
        (_, None) => proved,
        (None, Some(own)) => vec![job.rank_programs(own)],
        (Some(_), Some(own)) => vec![proved[own.0].clone()],
    };
    let threads = job::threads(config, place.here);
    let signals = Signals::listen().context("cannot listen for signals")?;
    Ok((Run { config, job, folder, data, tokenizer, start, weights, signals, threads, memory_bytes }, programs))
}

/// Rank 0 locks the folder, finds where to begin, and loads or trains the tokenizer.
fn begin(
    args: &Args,
    config: &RunConfig,
    place: Place,
    control: &mut Control,
) -> Result<(RunFolder, Start, Option<Tokenizer>)> {
    let mut own = None;
    let (start, locker, has_tokenizer) = control.agree(|| {
        let (folder, start) = RunFolder::open(config, args.resume || restarted(), args.fresh)?;
        let tokenizer = tokenizer(config, &start)?;
        if let (Some(_), Some(tokenizer)) = (place.own, &tokenizer) {
            tokenizer.save(&folder.tokenizer())?;
        }
        let word = (start, std::process::id(), tokenizer.is_some());
        own = Some((folder, tokenizer));
        Ok(word)
    })?;
    let (folder, tokenizer) = match own {
        Some(own) => own,
        None => {
            let folder = RunFolder::follow(config, locker)?;
            let tokenizer = has_tokenizer.then(|| Tokenizer::load(&folder.tokenizer())).transpose()?;
            (folder, tokenizer)
        }
    };
    Ok((folder, start, tokenizer))
}

/// A run keeps its tokenizer: what was trained or loaded once is used on every resume.
fn tokenizer(config: &RunConfig, start: &Start) -> Result<Option<Tokenizer>> {
    let is_text = config.data.kind.is_text();
    if let Start::Resume { candidates } = start
        && is_text
    {
        return Ok(Some(Tokenizer::load(&candidates[0].1)?));
    }
    let mut wanted = config.tokenizer.clone();
    if is_text && wanted.path.is_none() && wanted.vocab_size.is_none() {
        let given = start.checkpoint().map(Path::to_path_buf).or(config.model.init_from.clone());
        match (given, config.model.vocab_size) {
            (Some(dir), _) => wanted.path = Some(dir),
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

/// Where weights come from that no checkpoint gives, if not from the seed, and the shape, which a checkpoint must have.
fn weights(config: &RunConfig, start: &Start, tokenizer: Option<&Tokenizer>) -> Result<(Option<HfDir>, Decoder)> {
    let (weights, decoder) = match &config.model.init_from {
        Some(path) => {
            let dir = HfDir::open(path)?;
            let decoder = config.model.beside(dir.decoder().clone());
            (Some(dir.for_run(&decoder)), decoder)
        }
        None => (None, config.model.decoder(tokenizer.map_or(0, Tokenizer::vocab_size))),
    };
    if let Some(checkpoint) = start.checkpoint() {
        if config.precision.params == Precision::F64 {
            bail!("precision.params = \"f64\" cannot go on from a checkpoint: checkpoints hold f32");
        }
        Training::open(checkpoint, &decoder)?;
    }
    Ok((weights, decoder))
}

fn open_data(
    config: &RunConfig,
    job: &Job,
    tokenizer: Option<&Tokenizer>,
    folder: &RunFolder,
    aloud: bool,
) -> Result<data::Splits> {
    let text = config.data.path.as_ref().filter(|_| aloud && config.data.kind.is_text());
    let waiting = text.map(|path| report::waiting(&format!("tokenising {}", path.display())));
    let step_micros = job.plan.global_micros(job.full());
    let splits = data::open(&config.data, tokenizer, job.plan.model.vocab, config.seed, step_micros, &folder.cache())?;
    if let Some(waiting) = waiting {
        waiting.finish_and_clear();
    }
    if aloud {
        splits.caches.iter().for_each(|cache| eprintln!("{cache}"));
        splits.notes.iter().for_each(|note| eprintln!("{note}"));
    }
    Ok(splits)
}
