//! `internevo schedule --html`: the step of a run, simulated on the profile of a machine, or one that was measured, as a page.
use crate::config::RunConfig;
use crate::job::Job;
use anyhow::{Context, Result, anyhow};
use schedule::Program;
use sim::{Profile, Timeline, clock, page, price, trace};
use std::fs;
use std::path::Path;
use std::time::Duration;

/// Of more ranks one at each place of the pipeline is shown for all.
const ALL_RANKS: usize = 64;

/// A profile by its name, or in a file.
fn profile(name: &str) -> Result<Profile> {
    if let Some(profile) = Profile::known(name) {
        return Ok(profile);
    }
    let names = Profile::names().join(", ");
    let text = fs::read_to_string(name)
        .with_context(|| format!("--profile {name} is neither one of {names} nor a file that can be read"))?;
    Profile::parse(&text).map_err(|e| anyhow!("{name}: {e}"))
}

/// The training step as it would be.
pub fn simulated(config: &RunConfig, job: &Job, profile_name: &str, file: &Path) -> Result<()> {
    let (plan, mesh, number) = (&job.plan, job.plan.mesh, job.train.len() - 1);
    let profile = profile(profile_name)?;
    let all = mesh.world() <= ALL_RANKS;
    let ranks = if all { job.programs()? } else { job.stage_programs()? };
    let step = job.world(config, mesh.world(), Duration::ZERO).step;
    let programs: Vec<Program> = ranks.iter().map(|of| of.programs[number].clone()).collect();
    let prices: Vec<Vec<f64>> = ranks.into_iter().map(|of| price(plan, of, number, &step, &profile)).collect();
    let timeline = clock::run(plan, &programs, &prices);
    let chunks = if mesh.chunks > 1 { format!(", {} stages a rank", mesh.chunks) } else { String::new() };
    let (micros, t) = (job.full().micros, job.full().t);
    let title = format!("{}: {mesh}{chunks}; {micros} micro-batches of {t} tokens", config.name);
    let shown = if all { "" } else { ". One rank of each stage is shown for all" };
    let note = format!(
        "Simulated on {}: operations at peak or at full bandwidth, so a bound and not a forecast{shown}.",
        profile.name
    );
    write(&title, &note, &timeline, file)
}

/// A step as `metrics.trace_steps` wrote it.
pub fn measured(trace_file: &Path, file: &Path) -> Result<()> {
    let at = || trace_file.display().to_string();
    let text = fs::read_to_string(trace_file).with_context(|| format!("cannot read {}", at()))?;
    let timeline = trace::read(&text).map_err(|e| anyhow!("{} {e}", at()))?;
    let note = "Measured. A transfer lasts from when it was issued to when it was waited for.";
    write(&format!("{}: {} ranks", at(), timeline.ranks.len()), note, &timeline, file)
}

fn write(title: &str, note: &str, timeline: &Timeline, file: &Path) -> Result<()> {
    fs::write(file, page::html(title, note, timeline)).with_context(|| format!("cannot write {}", file.display()))?;
    println!("{title}");
    println!(
        "step {:.3} ms, bubble {:.1} %, {:.1} % exposed communication: {}",
        timeline.step * 1e3,
        100.0 * timeline.bubble(),
        100.0 * timeline.exposed(),
        file.display()
    );
    Ok(())
}
