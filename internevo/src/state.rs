//! The state of a training in and out of a checkpoint: weights, optimizer, and how far it has come.
use crate::control::Control;
use crate::prepare::{self, Weights};
use crate::train::Run;
use anyhow::{Result, anyhow, bail};
use checkpoint::{CheckpointError, Part, Save, Share};
use exec::{Rank, State};
use model::{ParamSpec, models};
use serde_json::{Value, json};
use std::ops::Range;
use std::path::Path;

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

/// Parameters of this rank, and on a resume its optimizer state.
pub fn put(run: &Run, rank: &mut Rank) -> Result<Progress> {
    for (part, whole) in rank.parts() {
        let (kept, own) = (rank.kept(&part), rank.stepped(&part));
        fill(rank, State::Param, &part, &whole, kept, &|start, out| {
            match &run.weights {
                Weights::Random => prepare::initial(&whole, run.config.seed, start, out),
                Weights::Directory(dir) => dir.read(&whole.name, start, out)?,
                Weights::Checkpoint(training) => training.read(Part::Param, &whole.name, start, out)?,
            }
            Ok(())
        })?;
        if let Weights::Checkpoint(training) = &run.weights {
            for (state, of) in [(State::ExpAvg, Part::ExpAvg), (State::ExpAvgSq, Part::ExpAvgSq)] {
                let read = |start: usize, out: &mut [f32]| Ok(training.read(of, &whole.name, start, out)?);
                fill(rank, state, &part, &whole, own.clone(), &read)?;
            }
        }
    }
    let Weights::Checkpoint(training) = &run.weights else { return Ok(Progress::default()) };
    let (then, now) = (&training.state()["run"], identity(run));
    let damaged = |key: &str| anyhow!("training/state.json of the checkpoint has no `{key}`; go back to an older one");
    for (key, value) in now.as_object().expect("it is an object") {
        if *then.get(key).ok_or_else(|| damaged(key))? != *value {
            bail!(
                "{key} = {value} differs from the {} of the checkpoint, so the data would not go on where it stopped; restore it, or use --fresh",
                then[key]
            );
        }
    }
    let number = |key: &str| training.state()[key].as_u64().ok_or_else(|| damaged(key));
    if run.config.precision.scaling().1.is_some()
        && let Some(scale) = training.state()["loss_scale"].as_array()
    {
        let scale: Option<Vec<f64>> = scale.iter().map(Value::as_f64).collect();
        rank.set_loss_scale(scale.and_then(|s| s.try_into().ok()).ok_or_else(|| damaged("loss_scale"))?);
    }
    Ok(Progress {
        tokens: number("tokens")?,
        consumed: number("consumed")?,
        updates: number("updates")?,
        skipped: number("skipped")?,
    })
}

/// Elements `range` of what the rank has of a parameter, from where they stand in the whole. Rows that fill up the vocabulary are
/// zeros.
fn fill(
    rank: &mut Rank,
    state: State,
    part: &ParamSpec,
    whole: &ParamSpec,
    range: Range<usize>,
    read: &dyn Fn(usize, &mut [f32]) -> Result<()>,
) -> Result<()> {
    const PIECE: usize = 1 << 20;
    for start in range.clone().step_by(PIECE) {
        let end = (start + PIECE).min(range.end);
        let mut piece = vec![0.0; end - start];
        for (here, there, len) in rank.plan.stretches(rank.id, part, whole, start..end) {
            read(there, &mut piece[here - start..][..len])?;
        }
        rank.set(state, part, start, &piece);
    }
    Ok(())
}

/// What a resumed run must share with the one it goes on from.
fn identity(run: &Run) -> Value {
    let d = &run.config.data;
    json!({
        "seed": run.config.seed,
        "data.seq_len": d.seq_len,
        "data.micro_batch_size": d.micro_batch_size,
        "data.kind": d.kind,
        "data.shuffle": d.shuffle,
        "data.cross_documents": d.cross_documents,
        "data.min_length": d.min_length,
        "data.min_length_of": d.min_length_of,
        "data.fixed_length": d.fixed_length,
        "micro-batches of a step": run.job.course.full() * run.job.plan.mesh.data,
        "train.ramp_up": run.config.train.ramp_up,
        "rows of training data": run.data.train.rows(),
    })
}

/// Every rank writes its shard into the draft; rank 0, whose save it is, makes the checkpoint whole, and only there this
/// is true.
pub fn write(
    run: &Run,
    rank: &mut Rank,
    control: &mut Control,
    draft: &Path,
    save: Option<Save>,
    step: u64,
    progress: Progress,
) -> Result<bool> {
    rank.finish()?; // gathers may still be under way
    let own = match &save {
        Some(save) => write_shard(run, rank, &mut |part, name, start, data| save.write(part, name, start, data))
            .map(|()| String::new()),
        None => write_share(run, rank, draft),
    };
    let reports = control.gather(own.map_err(|error| format!("{error:#}")))?;
    // Rank 0 tells of what others could not write; if it is gone, that has been told.
    let Some(save) = save else { return Ok(false) };
    for (id, report) in reports.into_iter().enumerate() {
        match report {
            Ok(_) if id == 0 => {}
            Ok(ranges) => save.add(id, &ranges),
            Err(why) => bail!("rank {id}: {why}"),
        }
    }
    let Progress { tokens, consumed, updates, skipped } = progress;
    let state = json!({
        "version": 1, "step": step, "tokens": tokens, "consumed": consumed, "updates": updates, "skipped": skipped,
        "loss_scale": rank.loss_scale(), "run": identity(run),
    });
    save.commit(&state)?;
    checkpoint::prune(&run.folder.checkpoints(), run.config.checkpoint.keep_last)?;
    Ok(true)
}

/// Of another rank than 0, which hears what it was.
fn write_share(run: &Run, rank: &mut Rank, draft: &Path) -> Result<String> {
    let model = &run.job.plan.model;
    let mut share = Share::open(draft, model, models::directory(model), true)?;
    write_shard(run, rank, &mut |part, name, start, data| share.write(part, name, start, data))?;
    Ok(share.finish()?)
}

type Write<'a> = dyn FnMut(Part, &str, usize, &[f32]) -> Result<(), CheckpointError> + 'a;

fn write_shard(run: &Run, rank: &mut Rank, write: &mut Write) -> Result<()> {
    let states = [(State::Param, Part::Param), (State::ExpAvg, Part::ExpAvg), (State::ExpAvgSq, Part::ExpAvgSq)];
    // What the last stage holds of the first is written there.
    let plan = &run.job.plan;
    let computed = plan.computed(rank.id);
    for (part, whole) in rank.parts().into_iter().filter(|(part, _)| computed.contains(&part.unit)) {
        if !plan.tells(rank.id, &part) {
            continue;
        }
        let own = rank.stepped(&part);
        for (state, of) in states {
            let values = rank.get(state, &part, own.clone());
            for (here, there, len) in plan.stretches(rank.id, &part, &whole, own.clone()) {
                write(of, &whole.name, there, &values[here - own.start..][..len])?;
            }
        }
    }
    Ok(())
}
