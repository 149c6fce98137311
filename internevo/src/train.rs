//! `internevo train`: the main job, from the config file to the last checkpoint.
mod after;
mod order;

use crate::alike;
use crate::args::RunFile;
use crate::config::RunConfig;
use crate::control::{Control, Signals};
use crate::device::On;
use crate::folder::{RunFolder, Start};
use crate::job::Job;
use crate::log::{Intake, RankLog, StepLine, accuracy, total};
use crate::prepare;
use crate::report::{Metrics, Report, StepFacts};
use crate::state::restore::{self, restore};
use crate::state::saver::{Lines, Saver};
use crate::state::{Origin, Progress};
use crate::tensorboard::EventFile;
use crate::timeline;
use crate::watch::Watch;
use crate::world::{self, Place};
use after::{Ended, after, first_cause};
use anyhow::{Result, bail};
use checkpoint::HfDir;
use comm::launch::Launch;
use data::{Dataset, Tokenizer};
use exec::{Hyper, Losses, Rank};
use model::Inputs;
use plan::{Micro, RankId, StepShape};
use schedule::Action;
use std::mem::ManuallyDrop;
use std::path::PathBuf;
use std::sync::Mutex;
use std::time::{Duration, Instant};

/// Train a model as a run file says.
///
/// The run lives in output/name: config.toml, metrics.jsonl (one object a step), checkpoints/step_N (Hugging Face
/// directories with the training state beside). Ctrl-C or SIGTERM saves and exits; --resume goes on as if nothing had
/// happened.
#[derive(clap::Args)]
pub struct Args {
    #[command(flatten)]
    pub run: RunFile,
    /// Go on from the newest checkpoint
    #[arg(long, conflicts_with = "fresh")]
    pub resume: bool,
    /// Start again, removing the run's checkpoints
    #[arg(long)]
    pub fresh: bool,
    /// Run an edited schedule, as `internevo schedule` printed it
    #[arg(long, value_name = "FILE")]
    pub program: Option<PathBuf>,
}

/// What all ranks of a training share.
pub struct Run<'a> {
    pub config: &'a RunConfig,
    pub job: Job,
    pub folder: RunFolder,
    pub data: data::Splits,
    pub tokenizer: Option<Tokenizer>,
    pub start: Start,
    /// A directory that weights come from; else they come from the seed.
    pub weights: Option<HfDir>,
    pub signals: Signals,
    /// Of a rank.
    pub threads: usize,
    pub memory_bytes: usize,
}

pub fn main(args: &Args) -> Result<()> {
    let launch = world::detect()?;
    let place = Place::new(&launch, args.run.ranks)?;
    let config = args.run.load()?;
    match place.own {
        None => threads(args, &config, place),
        Some(own) => {
            let mut control = Control::process(world::join(&launch)?, own.0, place.world);
            let run = match process(args, &config, place, &launch, &mut control) {
                Ok(run) => run,
                Err(error) => return Err(control.cause(error)),
            };
            control.leave()?;
            run.map_or(Ok(()), |(run, ended)| after(&run, ended, &On::Cpu))
        }
    }
}

fn threads(args: &Args, config: &RunConfig, place: Place) -> Result<()> {
    let alone = &mut Control::threads(1).remove(0);
    let on = args.run.open(config)?;
    eprintln!("on {}", on.name());
    let (run, programs) = prepare::run(args, config, &on, place, alone)?;
    let controls: Vec<_> = Control::threads(place.world).into_iter().map(|c| Mutex::new(Some(c))).collect();
    let world = run.job.world(config, place.here, Duration::ZERO);
    let results = on.launch(&world, programs, true, |rank| {
        let mut control = controls[rank.id.0].lock().unwrap().take().expect("a rank starts once");
        train_rank(&run, rank, &mut control)
    })?;
    after(&run, first_cause(results)?, &on)
}

/// One rank in this process. Rank 0 gives the run, and how it ended.
fn process<'a>(
    args: &Args,
    config: &'a RunConfig,
    place: Place,
    launch: &Launch,
    control: &mut Control,
) -> Result<Option<(Run<'a>, Ended)>> {
    alike::config(control, config)?;
    if args.run.open(config)?.is_card() {
        bail!(
            "several processes on cards need NCCL, which this version does not speak; use threads (--ranks N) or --device cpu"
        );
    }
    let (engine, name) = world::engine(launch, control)?;
    // Dropped where all is well: an engine comes to its end together with all others, and if this rank fails they do not.
    let engine = ManuallyDrop::new(engine);
    if control.leads() {
        eprintln!("{} processes by {}, over {name}", place.world, launch.kind);
    }
    let (run, mut programs) = prepare::run(args, config, &On::Cpu, place, control)?;
    let own = programs.pop().expect("those of this rank");
    let after = world::after_first(control)?;
    let mut rank = run.job.world(config, place.here, after).join(own, &*engine)?;
    let ended = train_rank(&run, &mut rank, control)?;
    drop(rank);
    drop(ManuallyDrop::into_inner(engine));
    Ok(control.leads().then_some((run, ended)))
}

/// The loop of one rank.
fn train_rank(run: &Run, rank: &mut Rank, control: &mut Control) -> Result<Ended> {
    let (config, steps) = (run.config, run.config.train.steps);
    let origin = restore(run, rank, control)?;
    restore::begin(run, control, &origin)?;
    let mut at = Loop {
        origin,
        progress: origin.progress,
        in_a_row: 0,
        log: RankLog::open(&run.folder.logs(), rank.id.0)?,
        watch: Watch::new(config.metrics.spike_factor, config.metrics.slow_factor),
        report: control.leads().then(|| run.report(origin.first)).transpose()?,
        ahead: None,
    };
    let mut saver = Saver::new(run);
    let mut stop_file = control.leads().then(|| run.stop_file()).transpose()?;
    if origin.first == 0 && config.train.validate_every > 0 {
        validate(run, rank, 0, &mut at)?;
    }
    for index in origin.first..steps {
        let step = index + 1;
        if run.job.course.skips(index) {
            at.report.as_mut().map_or(Ok(()), |report| report.left_out(step))?;
            at.log.line("INFO", &format!("batch {index} is left out, as train.skip_batches says"))?;
        } else {
            train_step(run, rank, control, index, (&mut at, &mut saver))?;
        }

        let asked = control.asked(run.signals.asked())?;
        let order = control.agree(|| Ok(run.order(step, asked, stop_file.as_mut().expect("rank 0 has it"))))?;
        if step == steps || (config.train.validate_every > 0 && step.is_multiple_of(config.train.validate_every)) {
            validate(run, rank, step, &mut at)?;
        }
        order.warning.map_or(Ok(()), |warning| at.say("WARNING", &warning))?;
        let ends = step == steps || order.stop;
        at.say_all(saver.settle(rank, control, ends || order.save.is_some())?)?;
        if let Some(kind) = order.save {
            at.say_all(saver.begin(rank, control, (kind, step), (&origin, at.progress))?)?;
            at.say_all(saver.settle(rank, control, ends || !config.checkpoint.background)?)?;
        }
        if let Some(why) = saver.failure().filter(|_| ends) {
            bail!("the last step, {step}, is not saved, and is lost with the end of this process: {why}");
        }
        if order.stop && step < steps {
            if let Some(report) = &at.report {
                report.end();
                let saved = if config.checkpoint.enabled { "--resume goes on from it" } else { "nothing was saved" };
                eprintln!("stopped at step {step} of {steps}; {saved}");
            }
            return Ok(if order.requeue { Ended::Requeue } else { Ended::Stopped });
        }
    }
    if let Some(report) = &at.report {
        report.end();
    }
    Ok(Ended::Finished)
}

/// Where a rank's loop is, and to whom it tells it.
struct Loop {
    origin: Origin,
    progress: Progress,
    /// Steps skipped one after the other.
    in_a_row: u32,
    log: RankLog,
    watch: Watch,
    /// Of rank 0.
    report: Option<Report>,
    /// Number and inputs of the next step, or why it will fail.
    ahead: Option<(u64, Result<StepInputs>)>,
}

/// The micro-batches of a rank for a step, and what they are made of.
type StepInputs = (Vec<Vec<u32>>, Intake);

impl Loop {
    /// Into the rank's log, and by rank 0 on the screen.
    fn say(&mut self, level: &str, line: &str) -> Result<()> {
        if let Some(report) = &self.report {
            report.say(line);
        }
        self.log.line(level, line)
    }

    fn say_all(&mut self, lines: Lines) -> Result<()> {
        lines.into_iter().try_for_each(|(level, line)| self.say(level, &line))
    }
}

fn train_step(
    run: &Run,
    rank: &mut Rank,
    control: &mut Control,
    index: u64,
    (at, saver): (&mut Loop, &mut Saver),
) -> Result<()> {
    let (config, job, id) = (run.config, &run.job, rank.id);
    let (step, program) = (index + 1, job.step_program(index));
    let (shape, lr) = (job.train[program], config.lr_schedule.lr(config.optimizer.lr, index, config.train.steps));
    let began = Instant::now();
    let ahead = at.ahead.take().filter(|(of, _)| *of == index);
    let (slabs, intake) = ahead.map_or_else(|| inputs(run, &at.origin, id, index), |(_, inputs)| inputs)?;
    let update = at.progress.updates + 1;
    exec::run(rank, program, Hyper { lr, step: update }, &mut |m| slabs[m.0].clone())?;
    // A card is at work now, and the host need not wait.
    if step < config.train.steps && !job.course.skips(step) {
        at.ahead = Some((step, inputs(run, &at.origin, id, step)));
    }
    let result = rank.step_result(program);
    let took = began.elapsed();

    let tokens = (job.plan.global_micros(shape) * shape.t) as u64;
    at.progress.tokens += result.losses.all.tokens as u64;
    if result.taken {
        at.progress.consumed += tokens;
        at.progress.updates += 1;
        at.in_a_row = 0;
    } else {
        at.progress.skipped += 1;
        at.in_a_row += 1;
    }
    let (beta2, ranks) = (config.optimizer.beta2_at(update), job.plan.mesh.world());
    if let Some(report) = &mut at.report {
        let tokens = at.progress.tokens;
        let micro_batches = job.plan.global_micros(shape);
        report.step(&StepFacts { step, lr, beta2, micro_batches, took, tokens }, &result)?;
    }
    at.log.step(&StepLine {
        batch: index,
        result: &result,
        types: &run.data.types,
        lr,
        beta2,
        took,
        forward_backward: forward_backward(rank, program),
        intake,
        rank_tokens: tokens as f64 / ranks as f64,
        consumed_tokens: at.progress.consumed,
        skipped: at.progress.skipped,
        flops: tokens as f64 * job.plan.model.flops_per_token(config.data.seq_len),
        ranks,
    })?;
    if !result.taken {
        let norm = result.grad_norm;
        at.say("WARNING", &format!("step {step}: the gradient is not finite (norm {norm}); the step was skipped"))?;
    }
    for warning in [at.watch.loss(result.losses.all.mean()), at.watch.time(took)].into_iter().flatten() {
        at.say("WARNING", &format!("step {step}: {warning}"))?;
    }
    if config.metrics.trace_steps.contains(&step) {
        timeline::bring(control, rank, program, &run.folder.trace(step))?;
    }
    // With loss scaling the first steps may overflow until the scale has come down.
    let hopeless = at.in_a_row == 1 && step == 1 && config.precision.scaling().1.is_none();
    if at.in_a_row > config.train.max_skips || hopeless {
        // What was saved before is not to be lost with this.
        at.say_all(saver.settle(rank, control, true)?)?;
        bail!(
            "step {step}: the gradient is not finite (loss {}, norm {}); lower optimizer.lr, or look at the data and at the weights the run began with",
            result.losses.all.mean(),
            result.grad_norm
        );
    }
    Ok(())
}

fn inputs(run: &Run, origin: &Origin, id: RankId, index: u64) -> Result<StepInputs> {
    let (job, mut intake) = (&run.job, Intake::default());
    let (shape, first_micro) = (job.train[job.step_program(index)], run.first_micro(origin, index));
    let slabs = slabs(job, id, shape, |k| {
        let batch = run.data.train.micro_batch(first_micro + k)?;
        intake.add(&batch.cu_seqlens);
        Ok(batch)
    })?;
    Ok((slabs, intake))
}

/// From the first forward to the end of the last backward.
fn forward_backward(rank: &Rank, program: usize) -> Duration {
    let passes = rank.programs()[program].actions.iter().zip(rank.spans());
    let passes = passes.filter(|(a, _)| matches!(a, Action::Forward { .. } | Action::Backward { .. }));
    let (first, last) = passes.fold((Duration::MAX, Duration::ZERO), |(first, last), (_, [began, ended])| {
        (first.min(*began), last.max(*ended))
    });
    last.saturating_sub(first)
}

impl Run<'_> {
    /// Micro-batches of all ranks before step `index`, of a run that began at `origin`.
    pub fn first_micro(&self, origin: &Origin, index: u64) -> u64 {
        origin.micro_batches + self.job.first_micro(index) - self.job.first_micro(origin.first)
    }

    fn report(&self, first: u64) -> Result<Report> {
        let (job, steps) = (&self.job, self.config.train.steps);
        let flops = job.plan.model.flops_per_token(self.config.data.seq_len);
        let (path, rows) = self.folder.metrics(first)?;
        let dir = self.config.metrics.tensorboard.then(|| self.folder.tensorboard());
        let events = dir.map(|dir| EventFile::create(&dir, first, &self.config.toml())).transpose()?;
        let metrics = Metrics { path, rows, events };
        Ok(Report::new(metrics, first, steps, job.plan.mesh.world(), flops, self.memory_bytes, self.data.types.clone()))
    }
}

// ---- between steps -------------------------------------------------------------------------------------------------

/// The micro-batches of a rank for one run of a program, read before it begins: a file may turn out to be damaged.
fn slabs(
    job: &Job,
    id: RankId,
    shape: StepShape,
    mut read: impl FnMut(u64) -> Result<data::Batch, data::DataError>,
) -> Result<Vec<Vec<u32>>> {
    let slab = |m| {
        let batch = read(job.plan.global_micro(id, Micro(m), shape) as u64)?;
        Ok(Inputs::packed(&batch.ids, &batch.positions, &batch.labels, &batch.cu_seqlens, &batch.types))
    };
    (0..shape.micros).map(slab).collect()
}

/// Losses over the held-out sets, each rank its share.
fn validate(run: &Run, rank: &mut Rank, step: u64, at: &mut Loop) -> Result<()> {
    for (name, set) in &run.data.valid {
        let losses = evaluate(&run.job, rank, set)?;
        if let Some(report) = &mut at.report {
            report.validation(step, name, &losses)?;
        }
        let shown = if name.is_empty() { "held-out" } else { name };
        let (loss, acc) = (losses.all.mean(), accuracy(&total(&losses.types)));
        let values = format!("val/{shown}_loss={loss} val/{shown}_acc={acc} val/{shown}_plex={}", loss.exp());
        at.log.line("INFO", &format!("Validation on {shown}: step={step} {values}"))?;
    }
    Ok(())
}

fn evaluate(job: &Job, rank: &mut Rank, set: &Dataset) -> Result<Losses> {
    let (program, per_run) = (job.eval_program(), job.plan.global_micros(job.eval) as u64);
    let mut all = vec![];
    for first in (0..set.eval_len()).step_by(per_run as usize) {
        let slabs = slabs(job, rank.id, job.eval, |k| set.eval_batch(first + k))?;
        exec::run(rank, program, Hyper { lr: 0.0, step: 1 }, &mut |m| slabs[m.0].clone())?;
        all.extend(rank.eval_losses(program)?);
    }
    Ok(Losses::sum(all))
}
