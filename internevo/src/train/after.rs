//! What comes after the loop.
use super::Run;
use crate::control::{self, Asked};
use crate::device::On;
use crate::{environment, generate, job};
use anyhow::{Context, Result, ensure};
use checkpoint::Kind;
use std::process::Command;

/// How a run came to an end.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Ended {
    /// With its last step.
    Finished,
    /// It was asked to stop.
    Stopped,
    /// And to have the job started again.
    Requeue,
}

/// One rank's failure makes the others fail: the cause is the error that does not follow from another.
pub fn first_cause(results: Vec<Result<Ended>>) -> Result<Ended> {
    let (ended, mut errors): (Vec<_>, Vec<_>) = results.into_iter().partition(Result::is_ok);
    if errors.is_empty() {
        return ended.into_iter().next().expect("a world has a rank");
    }
    let is_cause = |result: &Result<Ended>| result.as_ref().is_err_and(|error| !control::follows(error));
    errors.swap_remove(errors.iter().position(is_cause).unwrap_or(0))
}

pub fn after(run: &Run, ended: Ended, on: &On) -> Result<()> {
    match ended {
        Ended::Finished => sample(run, on),
        Ended::Stopped => Ok(()),
        Ended::Requeue => requeue(),
    }
}

/// The state is saved: Slurm starts the job again, which goes on from it.
fn requeue() -> Result<()> {
    let Some(job) = environment::slurm_job() else {
        eprintln!("note: checkpoint.requeue is set, but this is no job of Slurm");
        return Ok(());
    };
    let asked = Command::new("scontrol").args(["requeue", &job]).status().context("cannot run scontrol")?;
    ensure!(asked.success(), "`scontrol requeue {job}` failed ({asked}); submit the job again to go on");
    eprintln!("job {job} is queued again");
    Ok(())
}

/// What the model writes by now.
fn sample(run: &Run, on: &On) -> Result<()> {
    let saved = run.config.checkpoint.enabled && run.signals.asked() == Asked::Nothing;
    let Some(tokenizer) = run.tokenizer.as_ref().filter(|_| saved) else { return Ok(()) };
    let dir = Kind::Step.folder(&run.folder.checkpoints(), run.config.train.steps);
    let prompt = match &run.config.train.sample_prompt {
        Some(prompt) => prompt.clone(),
        None => {
            let set = run.data.valid.first().map_or(&run.data.train, |(_, set)| set);
            tokenizer.decode(&set.eval_batch(0)?.ids[..16.min(run.config.data.seq_len)])?
        }
    };
    generate::show_sample(&dir, &prompt, run.config.threads.unwrap_or_else(job::cores), on)
}
