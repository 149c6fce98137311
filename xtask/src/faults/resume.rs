//! What must be so after every fault: the last checkpoint is found, and the steps after it have the bits of a run that
//! nothing happened to.
use crate::faults::desk::{Desk, Lab, Layout};
use crate::faults::rows;
use anyhow::{Context, Result, ensure};
use std::collections::HashSet;

/// Steps that are compared after a resume.
const STEPS: usize = 20;

/// The step the run went on from: that of the last published checkpoint, which is not before `acknowledged`.
pub fn goes_on(lab: &Lab, desk: &Desk, layout: Layout, acknowledged: u64) -> Result<u64> {
    let published = desk.published();
    ensure!(
        published >= acknowledged,
        "step {acknowledged} was said to be saved, and of the checkpoints there are only {:?}",
        desk.names()
    );
    if published > 0 {
        verify(desk)?;
    }
    let drafts = desk.drafts();
    // A row is known by its times.
    let before: HashSet<String> = rows::lines(&desk.metrics())?.into_iter().collect();
    let mut running = desk.start(desk.command(layout, &["--resume"]), "resumed")?;
    let mut new = vec![];
    running.until("20 steps", || {
        new = rows::lines(&desk.metrics())?;
        new.retain(|line| !before.contains(line));
        Ok(new.len() >= STEPS)
    })?;
    let said = running.said()?;
    running.kill()?;
    new.truncate(STEPS);
    let first = rows::step(new.first().context("there are 20")?)?;
    ensure!(
        first == published + 1,
        "step {published} is published and does not load: the run goes on with step {first}\n{said}"
    );
    rows::compare(&new, first, &lab.reference).with_context(|| format!("resumed from step {published}"))?;
    let left: Vec<String> = desk.drafts().into_iter().filter(|name| drafts.contains(name)).collect();
    ensure!(left.is_empty(), "what the run was writing when it died is still there: {left:?}");
    Ok(published)
}

/// All checkpoints that are there are whole.
fn verify(desk: &Desk) -> Result<()> {
    let out = desk.internevo(&["checkpoint", "verify", "disk/run"]).output().context("internevo does not start")?;
    let said = [out.stdout, out.stderr].concat();
    ensure!(out.status.success(), "a published checkpoint does not verify: {}", String::from_utf8_lossy(&said));
    Ok(())
}

/// What to call that, where `acknowledged` was the last that the run had told of.
pub fn went(from: u64, acknowledged: u64) -> &'static str {
    match from {
        0 => "began again",
        _ if from > acknowledged => "went on from one not yet told of",
        _ => "went on from the last told of",
    }
}

/// Each step of the run has one row.
pub fn has_each_step_once(lab: &Lab, desk: &Desk) -> Result<()> {
    rows::compare(&rows::lines(&desk.metrics())?, 1, &lab.reference)
}
