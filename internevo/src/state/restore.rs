//! A rank's memory at the beginning: from the seed, from a directory, or from the newest checkpoint that is whole.
use super::fill::{self, Source};
use super::{Origin, origin};
use crate::config::Content;
use crate::control::Control;
use crate::folder::Start;
use crate::train::Run;
use anyhow::{Result, anyhow, bail};
use checkpoint::{CheckpointError, HfDir, Part, Told, Training};
use exec::Rank;
use model::ParamSpec;
use serde::{Deserialize, Serialize};
use std::path::Path;

/// Why a checkpoint is not taken.
#[derive(Serialize, Deserialize)]
struct Refusal {
    why: String,
    /// It is not broken, but not what the run goes on from: an older one would not be either.
    ours: bool,
}

/// All ranks come to the same.
pub fn restore(run: &Run, rank: &mut Rank, control: &mut Control) -> Result<Origin> {
    match &run.start {
        Start::New => {
            put_first(run, rank)?;
            Ok(Origin::default())
        }
        Start::Load { path, content } => {
            if !Content::Model.is_in(content) {
                put_first(run, rank)?;
            }
            let loaded = try_checkpoint(run, rank, control, path, content)?;
            loaded.map_err(|refusal| anyhow!("checkpoint.load.path: {}", refusal.why))
        }
        Start::Resume { candidates } => {
            let mut broken = vec![];
            for (i, (_, path)) in candidates.iter().enumerate() {
                match try_checkpoint(run, rank, control, path, &[Content::All])? {
                    Ok(origin) => return Ok(origin),
                    Err(Refusal { why, ours: true }) => bail!("{why}"),
                    Err(Refusal { why, .. }) => {
                        if let (true, Some((older, _))) = (control.leads(), candidates.get(i + 1)) {
                            eprintln!("warning: {why}; going back to step {older}");
                        }
                        broken.push(why);
                    }
                }
            }
            bail!("none of the checkpoints is whole: {}; repair one, or begin anew with --fresh", broken.join("; "))
        }
    }
}

/// Weights of a run that goes on from nothing.
fn put_first(run: &Run, rank: &mut Rank) -> Result<()> {
    match &run.weights {
        None => fill::put_params(rank, &Seed(run.config.seed), run.threads),
        Some(dir) => fill::put_params(rank, &Directory(dir), run.threads),
    }
}

pub struct Seed(pub u64);

impl Source for Seed {
    fn read(&self, _: Part, whole: &ParamSpec, start: usize, out: &mut [f32]) -> Result<()> {
        model::initial(whole, self.0, start, out);
        Ok(())
    }
    fn is_file(&self) -> bool {
        false
    }
}

struct Directory<'a>(&'a HfDir);

impl Source for Directory<'_> {
    fn read(&self, _: Part, whole: &ParamSpec, start: usize, out: &mut [f32]) -> Result<()> {
        Ok(self.0.read(&whole.name, start, out)?)
    }
    fn is_file(&self) -> bool {
        true
    }
}

/// Every rank reads its share, and rank 0 compares the checksums of all with what was written.
fn try_checkpoint(
    run: &Run,
    rank: &mut Rank,
    control: &mut Control,
    path: &Path,
    content: &[Content],
) -> Result<Result<Origin, Refusal>> {
    let opened = Training::open(path, &run.job.plan.model).map_err(anyhow::Error::from);
    let read = opened.and_then(|training| Ok((read(run, rank, &training, content)?, training)));
    let (own, read) = match read {
        Ok(((told, origin), training)) => (Ok(told), Some((training, origin))),
        Err(error) => (Err(refusal(error)), None),
    };
    let words = control.gather(own)?;
    let refused = control.agree(|| {
        let told: Result<Vec<Told>, Refusal> = words.into_iter().collect();
        Ok(match (told, &read) {
            (Err(refusal), _) => Some(refusal),
            (Ok(told), Some((training, _))) => {
                let damage = training.damage(told);
                let why: Vec<String> = damage.iter().map(CheckpointError::to_string).collect();
                (!why.is_empty()).then(|| Refusal { why: why.join("; "), ours: false })
            }
            (Ok(_), None) => unreachable!("rank 0 has told that it could not read"),
        })
    })?;
    Ok(match (refused, read) {
        (Some(refusal), _) => Err(refusal),
        (None, Some((_, origin))) => Ok(origin),
        (None, None) => unreachable!("this rank has told that it could not read"),
    })
}

fn refusal(error: anyhow::Error) -> Refusal {
    let broken = error.downcast_ref::<CheckpointError>().is_some_and(CheckpointError::is_damage);
    Refusal { why: format!("{error:#}"), ours: !broken }
}

fn read(run: &Run, rank: &mut Rank, training: &Training, content: &[Content]) -> Result<(Told, Origin)> {
    let (origin, loss_scale) = origin(run, training, content)?;
    let told = fill::read(rank, training, content, run.threads)?;
    if Content::Optimizer.is_in(content) && run.config.precision.scaling().1.is_some() {
        rank.set_loss_scale(loss_scale);
    }
    Ok((told, origin))
}

/// Rank 0 makes the folder ready for a run that begins there, before anyone writes into it.
pub fn begin(run: &Run, control: &mut Control, origin: &Origin) -> Result<()> {
    let leads = control.leads();
    control.first(|| match leads {
        true => run.folder.begin(run.config, &run.start, origin.first),
        false => Ok(()),
    })
}
