//! The state of a training beside its tensors: how far it has come, and what a run that goes on from it must share.
pub mod fill;
pub mod restore;
pub mod saver;
pub mod shard;

use crate::config::Content;
use crate::train::Run;
use anyhow::{Context, Result, bail};
use checkpoint::Training;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

/// How far a training has come, besides its step.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Progress {
    /// Label tokens.
    pub tokens: u64,
    /// All tokens of the steps that were taken, as the original counts.
    pub consumed: u64,
    /// Steps that were taken: Adam's count.
    pub updates: u64,
    /// Steps that were skipped because their gradient was not finite.
    pub skipped: u64,
}

/// Where this process begins.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Origin {
    /// Steps done before.
    pub first: u64,
    /// Micro-batches of all ranks that were taken from the data before.
    pub micro_batches: u64,
    pub progress: Progress,
}

/// `training/state.json`. Random numbers have no state: they are functions of the seed and of what they are for.
#[derive(Serialize, Deserialize)]
struct Saved {
    step: u64,
    optimizer: OptimizerState,
    scheduler: SchedulerState,
    sampler: SamplerState,
}

#[derive(Serialize, Deserialize)]
struct OptimizerState {
    updates: u64,
    /// Loss scale, steps without overflow, overflows.
    loss_scale: [f64; 3],
}

#[derive(Serialize, Deserialize)]
struct SchedulerState {
    tokens: u64,
    consumed: u64,
    skipped: u64,
    /// What a run that goes on must share.
    same: Map<String, Value>,
}

#[derive(Serialize, Deserialize)]
struct SamplerState {
    micro_batches: u64,
    same: Map<String, Value>,
}

/// After `step`. `loss_scale` is that of a rank, and all have the same.
pub fn saved(run: &Run, origin: &Origin, step: u64, progress: Progress, loss_scale: [f64; 3]) -> Value {
    let Progress { tokens, consumed, updates, skipped } = progress;
    let saved = Saved {
        step,
        optimizer: OptimizerState { updates, loss_scale },
        scheduler: SchedulerState { tokens, consumed, skipped, same: of_steps(run) },
        sampler: SamplerState { micro_batches: run.first_micro(origin, step), same: of_data(run) },
    };
    serde_json::to_value(saved).expect("plain data")
}

/// For a person and `internevo checkpoint inspect`: which run wrote a checkpoint.
pub fn about(run: &Run, step: u64) -> Value {
    let mesh = run.job.plan.mesh;
    json!({
        "step": step, "program": concat!("internevo ", env!("CARGO_PKG_VERSION")), "run": run.config.name,
        "ranks": mesh.world(), "layout": mesh.to_string(),
    })
}

fn load(training: &Training) -> Result<Saved> {
    serde_json::from_value(training.state().clone())
        .context("training/state.json of the checkpoint is not what this version writes; go back to an older one")
}

/// Where a run goes on, with those parts of a checkpoint that `content` names; refused by name where it would go on with
/// other data or other steps.
fn origin(run: &Run, training: &Training, content: &[Content]) -> Result<(Origin, [f64; 3])> {
    let Saved { step, optimizer, scheduler, sampler } = load(training)?;
    let mut origin = Origin::default();
    if Content::Scheduler.is_in(content) {
        unchanged(&scheduler.same, &of_steps(run), "steps would not be those that were planned")?;
        let SchedulerState { tokens, consumed, skipped, .. } = scheduler;
        (origin.first, origin.progress) = (step, Progress { tokens, consumed, skipped, updates: 0 });
    }
    if Content::Optimizer.is_in(content) {
        origin.progress.updates = optimizer.updates;
    }
    if Content::Sampler.is_in(content) {
        unchanged(&sampler.same, &of_data(run), "the data would not go on where it stopped")?;
        origin.micro_batches = sampler.micro_batches;
    }
    Ok((origin, optimizer.loss_scale))
}

fn unchanged(then: &Map<String, Value>, now: &Map<String, Value>, else_: &str) -> Result<()> {
    for (key, value) in now {
        let before = then.get(key).unwrap_or(&Value::Null);
        if before != value {
            bail!(
                "{key} = {value} differs from the {before} of the checkpoint, so {else_}; restore it, or use --fresh, with checkpoint.load for what shall stay"
            );
        }
    }
    Ok(())
}

fn of_steps(run: &Run) -> Map<String, Value> {
    object(json!({
        "micro-batches of a step": run.job.course.full() * run.job.plan.mesh.data,
        "train.ramp_up": run.config.train.ramp_up,
    }))
}

fn of_data(run: &Run) -> Map<String, Value> {
    let d = &run.config.data;
    object(json!({
        "seed": run.config.seed,
        "data.seq_len": d.seq_len,
        "data.micro_batch_size": d.micro_batch_size,
        "data.kind": d.kind,
        "data.shuffle": d.shuffle,
        "data.cross_documents": d.cross_documents,
        "data.min_length": d.min_length,
        "data.min_length_of": d.min_length_of,
        "data.fixed_length": d.fixed_length,
        "rows of training data": run.data.train.rows(),
    }))
}

fn object(value: Value) -> Map<String, Value> {
    match value {
        Value::Object(map) => map,
        other => unreachable!("{other} was written as an object"),
    }
}
