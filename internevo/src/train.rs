//! `internevo train`: the main job, from the config file to the last checkpoint.
use crate::args::RunFile;
use crate::config::RunConfig;
use crate::control::{self, Control, Gone, Order};
use crate::folder::{RunFolder, Start};
use crate::job::{self, EVAL, Job, TRAIN};
use crate::prepare::{self, Weights};
use crate::report::{Metrics, Report};
use crate::tensorboard::EventFile;
use anyhow::{Context, Result, anyhow, bail};
use checkpoint::{Part, Save};
use data::{Dataset, Tokenizer};
use exec::{Hyper, Loss, Rank, State};
use model::{Family, Inputs, ParamSpec};
use plan::Micro;
use serde_json::{Value, json};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

/// Train a model as a run file says.
///
/// The run lives in output/name: config.toml, metrics.jsonl (one object a step), checkpoints/step_N (Hugging Face
/// directories with the training state beside). Ctrl-C or SIGTERM saves and exits; --resume goes on as if nothing had
/// happened.
#[derive(clap::Args)]
pub struct Args {
    #[command(flatten)]
    run: RunFile,
    /// Go on from the newest checkpoint
    #[arg(long, conflicts_with = "fresh")]
    resume: bool,
    /// Start again, removing the run's checkpoints
    #[arg(long)]
    fresh: bool,
    /// Run an edited schedule, as `internevo schedule` printed it
    #[arg(long, value_name = "FILE")]
    program: Option<PathBuf>,
}

/// Steps that may be skipped one after the other because their gradient is not finite.
const SKIPS_IN_A_ROW: u32 = 10;

/// What all ranks of a training share.
struct Run<'a> {
    config: &'a RunConfig,
    job: &'a Job,
    folder: &'a RunFolder,
    data: &'a data::Splits,
    tokenizer: Option<&'a Tokenizer>,
    weights: Weights,
    /// Steps done before this process.
    first: u64,
    stop: Arc<AtomicBool>,
    memory_bytes: usize,
}

pub fn main(args: &Args) -> Result<()> {
    let config = args.run.load()?;
    let (folder, start) = RunFolder::open(&config, args.resume, args.fresh)?;
    let tokenizer = prepare::tokenizer(&config, &start)?;
    let (weights, decoder) = prepare::weights(&config, &start, tokenizer.as_ref())?;
    let job =
        Job::new(&config, decoder, args.run.ranks.into()).with_context(|| args.run.config.display().to_string())?;
    let programs = match &args.program {
        None => job.programs()?,
        Some(file) => job.programs_from(file)?,
    };
    job::check_memory(
        config.memory_limit(),
        &programs,
        "lower data.micro_batch_size or data.seq_len for activations, use more ranks with parallel.zero.stage = 1 for optimizer state, or a pipeline for the rest",
    )?;
    let data = prepare::open_data(&config, &job, tokenizer.as_ref(), &folder)?;
    folder.begin(&config, &start)?;

    let memory_bytes = job::total(&job::memory_by_kind(&programs[0]));
    let first = if let Start::Resume { step, .. } = start { step } else { 0 };
    let stop = control::stop_signal().context("cannot listen for signals")?;
    let run = Run {
        config: &config,
        job: &job,
        folder: &folder,
        data: &data,
        tokenizer: tokenizer.as_ref(),
        weights,
        first,
        stop,
        memory_bytes,
    };
    let controls: Vec<_> =
        Control::world(args.run.ranks.into()).into_iter().map(|c| std::sync::Mutex::new(Some(c))).collect();
    let results = job.world(&config).launch(programs, |rank| {
        let control = controls[rank.id.0].lock().unwrap().take().expect("a rank starts once");
        train_rank(&run, rank, control)
    });
    first_cause(results)?;
    sample(&run)
}

/// The loop of one rank.
fn train_rank(run: &Run, rank: &mut Rank, control: Control) -> Result<()> {
    let (config, job) = (run.config, run.job);
    let tokens = put_weights(run, rank)?;
    let steps = config.train.steps;
    let mut report = if control.is_leader() { Some(run.report(tokens)?) } else { None };
    if run.first == 0 && config.train.validate_every > 0 {
        validate(run, rank, 0, report.as_mut())?;
    }
    let mut skipped = 0;
    for index in run.first..steps {
        let (step, lr) = (index + 1, config.lr_schedule.lr(config.optimizer.lr, index, steps));
        if let Some(report) = &mut report {
            report.begin();
        }
        let first_micro = index * job.plan.global_micros(job.train) as u64;
        let id = rank.id;
        exec::run(rank, TRAIN, Hyper { lr, step }, &mut |m: Micro| {
            let number = first_micro + job.plan.global_micro(id, m, job.train) as u64;
            slab(&run.data.train.micro_batch(number))
        })?;
        let result = rank.step_result(TRAIN);
        if let Some(report) = &mut report {
            report.step(step, lr, &result)?;
        }
        skipped = if result.taken { 0 } else { skipped + 1 };
        if skipped == SKIPS_IN_A_ROW || (skipped == 1 && step == 1) {
            bail!(
                "step {step}: the gradient is not finite (loss {}, norm {}); lower optimizer.lr, or look at the data and at the weights the run began with",
                result.loss.mean(),
                result.grad_norm
            );
        }

        let order = control.agree(|| run.order(step))?;
        let last = step == steps;
        if last || (config.train.validate_every > 0 && step.is_multiple_of(config.train.validate_every)) {
            validate(run, rank, step, report.as_mut())?;
        }
        if let Some(save) = order.save {
            write(run, rank, &control, save, step, report.as_mut())?;
        }
        if order.stop {
            if let Some(report) = report {
                report.end();
                eprintln!("stopped at step {step} of {steps}; --resume goes on from it");
            }
            return Ok(());
        }
    }
    if let Some(report) = report {
        report.end();
    }
    Ok(())
}

impl Run<'_> {
    /// Rank 0 decides after each step.
    fn order(&self, step: u64) -> Result<Order> {
        let (every, last) = (self.config.checkpoint.every, step == self.config.train.steps);
        let stop = control::is_set(&self.stop) && !last;
        let due = last || stop || (every > 0 && step.is_multiple_of(every));
        let save = due.then(|| self.begin_save(step)).transpose()?;
        Ok(Order { save, stop })
    }

    /// InternLM2 has no class in transformers: a checkpoint is written as the equal LLaMA.
    fn begin_save(&self, step: u64) -> Result<Arc<Save>> {
        let save = Save::create(&self.folder.checkpoint(step), &self.job.plan.model, Family::Llama, true)?;
        if let Some(tokenizer) = self.tokenizer {
            tokenizer.save(save.path())?;
        }
        Ok(Arc::new(save))
    }

    fn report(&self, tokens: u64) -> Result<Report> {
        let (job, steps) = (self.job, self.config.train.steps);
        let flops = job.plan.model.flops_per_token(self.config.data.seq_len);
        let rows = self.folder.metrics(self.first)?;
        let dir = self.config.metrics.tensorboard.then(|| self.folder.tensorboard());
        let events = dir.map(|dir| EventFile::create(&dir, self.first, &self.config.toml())).transpose()?;
        let metrics = Metrics { rows, events };
        Ok(Report::new(metrics, self.first, steps, job.plan.mesh.world(), flops, self.memory_bytes, tokens))
    }

    /// What a resumed run must share with the one it goes on from.
    fn identity(&self) -> Value {
        let d = &self.config.data;
        json!({
            "seed": self.config.seed,
            "data.seq_len": d.seq_len,
            "data.micro_batch_size": d.micro_batch_size,
            "data.shuffle": d.shuffle,
            "micro-batches of a step": self.job.plan.global_micros(self.job.train),
            "rows of training data": self.data.train.rows(),
        })
    }
}

// ---- before the first step -----------------------------------------------------------------------------------------

/// Parameters of this rank, and on a resume its optimizer state. Gives the tokens seen so far.
fn put_weights(run: &Run, rank: &mut Rank) -> Result<u64> {
    const PIECE: usize = 1 << 20;
    let fill = |rank: &mut Rank,
                state: State,
                spec: &ParamSpec,
                range: std::ops::Range<usize>,
                read: &dyn Fn(usize, &mut [f32]) -> Result<()>| {
        for start in range.clone().step_by(PIECE) {
            let mut piece = vec![0.0; PIECE.min(range.end - start)];
            read(start, &mut piece)?;
            rank.set(state, spec, start, &piece);
        }
        anyhow::Ok(())
    };
    for spec in rank.params() {
        fill(rank, State::Param, &spec, 0..spec.len(), &|start, out| {
            match &run.weights {
                Weights::Random => model::initial(&spec, run.config.seed, start, out),
                Weights::Directory(dir) => dir.read(&spec.name, start, out)?,
                Weights::Checkpoint(training) => training.read(Part::Param, &spec.name, start, out)?,
            }
            Ok(())
        })?;
        if let Weights::Checkpoint(training) = &run.weights {
            let own = rank.stepped(&spec);
            for (state, part) in [(State::ExpAvg, Part::ExpAvg), (State::ExpAvgSq, Part::ExpAvgSq)] {
                fill(rank, state, &spec, own.clone(), &|start, out| Ok(training.read(part, &spec.name, start, out)?))?;
            }
        }
    }
    let Weights::Checkpoint(training) = &run.weights else { return Ok(0) };
    let (then, now) = (&training.state()["run"], run.identity());
    let damaged = |key: &str| anyhow!("training/state.json of the checkpoint has no `{key}`; go back to an older one");
    for (key, value) in now.as_object().expect("it is an object") {
        if *then.get(key).ok_or_else(|| damaged(key))? != *value {
            bail!(
                "{key} = {value} differs from the {} of the checkpoint, so the data would not go on where it stopped; restore it, or use --fresh",
                then[key]
            );
        }
    }
    training.state()["tokens"].as_u64().ok_or_else(|| damaged("tokens"))
}

// ---- between steps -------------------------------------------------------------------------------------------------

fn slab(batch: &data::Batch) -> Vec<u32> {
    Inputs::packed(&batch.ids, &batch.positions, &batch.labels, &batch.cu_seqlens)
}

/// Loss over the held-out set, each rank its share.
fn validate(run: &Run, rank: &mut Rank, step: u64, report: Option<&mut Report>) -> Result<()> {
    let Some(valid) = &run.data.valid else { return Ok(()) };
    let loss = evaluate(run.job, rank, valid)?;
    if let Some(report) = report {
        report.validation(step, loss)?;
    }
    Ok(())
}

fn evaluate(job: &Job, rank: &mut Rank, set: &Dataset) -> Result<Loss> {
    let per_run = job.plan.global_micros(job.eval) as u64;
    let mut all = Loss { sum: 0.0, tokens: 0.0 };
    for first in (0..set.eval_len()).step_by(per_run as usize) {
        let id = rank.id;
        exec::run(rank, EVAL, Hyper { lr: 0.0, step: 1 }, &mut |m| {
            slab(&set.eval_batch(first + job.plan.global_micro(id, m, job.eval) as u64))
        })?;
        let loss = rank.eval_loss(EVAL)?;
        all = Loss { sum: all.sum + loss.sum, tokens: all.tokens + loss.tokens };
    }
    Ok(all)
}

/// Every rank writes its shard; rank 0 makes the checkpoint whole.
fn write(
    run: &Run,
    rank: &mut Rank,
    control: &Control,
    save: Arc<Save>,
    step: u64,
    report: Option<&mut Report>,
) -> Result<()> {
    rank.finish()?; // gathers may still be under way
    let own = write_shard(run, rank, &save).map_err(|e| format!("{e:#}"));
    // The others let go of it before they say that they have written.
    let save = control.is_leader().then_some(save);
    control.written(own).map_err(|e| anyhow!(e))?;
    let (Some(report), Some(save)) = (report, save) else { return Ok(()) };
    let state = json!({ "version": 1, "step": step, "tokens": report.tokens, "run": run.identity() });
    let path = run.folder.checkpoint(step);
    Arc::into_inner(save).expect("the others have let go").commit(&state)?;
    checkpoint::prune(&run.folder.checkpoints(), run.config.checkpoint.keep_last)?;
    report.say(&format!("saved {}", path.display()));
    Ok(())
}

fn write_shard(run: &Run, rank: &mut Rank, save: &Save) -> Result<()> {
    let parts = [(State::Param, Part::Param), (State::ExpAvg, Part::ExpAvg), (State::ExpAvgSq, Part::ExpAvgSq)];
    // Without optimizer shards all replicas hold the same.
    if !run.job.plan.mesh.shard_optimizer && run.job.plan.mesh.replica(rank.id) > 0 {
        return Ok(());
    }
    for spec in rank.params() {
        let own = rank.stepped(&spec);
        for (state, part) in parts {
            let values = rank.get(state, &spec, own.clone());
            save.write(part, &spec.name, own.start, &values)?;
        }
    }
    Ok(())
}

// ---- after the last step -------------------------------------------------------------------------------------------

/// One rank's failure makes the others fail: the cause is the error that is not about a missing rank.
fn first_cause(results: Vec<Result<()>>) -> Result<()> {
    let mut errors: Vec<anyhow::Error> = results.into_iter().filter_map(Result::err).collect();
    let follows = |e: &anyhow::Error| e.is::<Gone>() || e.is::<comm::CommError>();
    match errors.iter().position(|e| !follows(e)) {
        Some(cause) => Err(errors.swap_remove(cause)),
        None => errors.into_iter().next().map_or(Ok(()), Err),
    }
}

/// What the model writes by now.
fn sample(run: &Run) -> Result<()> {
    let Some(tokenizer) = run.tokenizer.filter(|_| !control::is_set(&run.stop)) else { return Ok(()) };
    let dir = run.folder.checkpoint(run.config.train.steps);
    let prompt = match &run.config.train.sample_prompt {
        Some(prompt) => prompt.clone(),
        None => {
            let set = run.data.valid.as_ref().unwrap_or(&run.data.train);
            tokenizer.decode(&set.eval_batch(0).ids[..16.min(run.config.data.seq_len)])?
        }
    };
    crate::generate::show_sample(&dir, &prompt, run.config.threads.unwrap_or_else(job::cores))
}
