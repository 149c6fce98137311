//! A disk that is full, fails or has become read-only: system calls of a save that end with its error, and a file system
//! in memory that is too small.
use crate::faults::desk::{Desk, Lab, acknowledged};
use crate::faults::mount::Mount;
use crate::faults::resume;
use crate::faults::saves::{self, BEFORE, Saves};
use crate::faults::strace::{self, Point};
use crate::faults::trials::{Outcome, Tally, Trials};
use anyhow::{Context, Result, ensure};
use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

/// Of all calls from one on, or of one alone; with what the program says of it.
const ERRORS: [Failing; 4] = [
    Failing { error: "ENOSPC", text: "No space left on device", stays: true },
    Failing { error: "EIO", text: "Input/output error", stays: true },
    Failing { error: "EROFS", text: "Read-only file system", stays: true },
    Failing { error: "EIO", text: "Input/output error", stays: false },
];

#[derive(Clone, Copy)]
struct Failing {
    error: &'static str,
    text: &'static str,
    stays: bool,
}

/// A file system lacks so many pages of what a second checkpoint takes.
const SHORT: [u64; 10] = [1, 2, 3, 4, 5, 6, 8, 16, 32, 48];
const PAGE: u64 = 4096;

#[derive(Clone, Copy)]
enum Fault<'a> {
    Call(&'a Point, Failing),
    Small(u64),
}

pub fn main(lab: &Lab, trials: &Trials) -> Result<Tally> {
    let both = saves::both(lab, 100)?;
    let mut faults = vec![];
    for saves in &both {
        let calls = saves.points.iter().flat_map(|point| ERRORS.map(|failing| Fault::Call(point, failing)));
        faults.extend(calls.chain(SHORT.map(Fault::Small)).map(|fault| (saves, fault)));
    }
    let numbers = trials.of_list(faults.len())?;
    Ok(trials.run(lab, &numbers, |number, _| {
        let (saves, fault) = faults[number];
        let desk = lab.desk(&number.to_string())?;
        let outcome = match fault {
            Fault::Call(point, failing) => call(lab, saves, &desk, point, failing),
            Fault::Small(pages) => small(lab, saves, &desk, pages),
        }?;
        desk.clear()?;
        Ok(outcome)
    }))
}

fn call(lab: &Lab, saves: &Saves, desk: &Desk, point: &Point, failing: Failing) -> Result<Outcome> {
    saves.fill(desk)?;
    let (Point { syscall, ordinal }, Failing { error, text, stays }) = (point, failing);
    // If all writes after one failed, so would the one that tells of it.
    let when = if stays && syscall != "write" { format!("{ordinal}+") } else { ordinal.to_string() };
    let command = strace::broken(&saves.command(desk), syscall, &format!("error={error}"), &when);
    let outcome = survives(lab, saves, desk, command, text, || Ok(()));
    outcome.with_context(|| format!("{syscall} {when} fails with {error}"))
}

fn small(lab: &Lab, saves: &Saves, desk: &Desk, pages: u64) -> Result<Outcome> {
    let mounted = Mount::memory(64 << 20, &desk.disk())?;
    saves.fill(desk)?;
    let room = |files: &Files| files.values().map(|bytes| (bytes.len() as u64).next_multiple_of(PAGE)).sum::<u64>();
    let (run, checkpoint) = (files(&desk.disk())?, files(&first(desk))?);
    mounted.resize(room(&run) + room(&checkpoint) - pages * PAGE)?;
    let outcome = survives(lab, saves, desk, saves.command(desk), "", || mounted.resize(64 << 20));
    outcome.with_context(|| format!("{pages} pages too few for a checkpoint"))
}

/// Runs what meets a fault in its saves, and goes on after the repair.
fn survives(
    lab: &Lab,
    saves: &Saves,
    desk: &Desk,
    broken: Command,
    error: &str,
    repair: impl FnOnce() -> Result<()>,
) -> Result<Outcome> {
    let before = files(&first(desk))?;
    let (status, said) = desk.start(broken, "broken")?.end()?;
    repair()?;
    ensure!(files(&first(desk))? == before, "the checkpoint before is another now\n{said}");
    tells(&said, status.success(), error)?;
    let acknowledged = acknowledged(&said).max(BEFORE);
    ensure!(!status.success() || desk.published() == acknowledged, "ended well, without its last checkpoint\n{said}");
    let from = resume::goes_on(lab, desk, saves.layout, acknowledged)?;
    resume::has_each_step_once(lab, desk)?;
    let ended = if status.success() { "told of it and ended well" } else { "ended with its error" };
    Ok(vec![ended.into(), resume::went(from, acknowledged).into()])
}

/// What failed is told with its cause, a path and a way out: by the error of a run that ends, or by a line of one that
/// could do it again.
fn tells(said: &str, ended_well: bool, cause: &str) -> Result<()> {
    const WAYS_OUT: [&str; 3] = ["; check ", ": free space ", "; output must be "];
    let mut lines = said.lines().filter(|line| ended_well || line.starts_with("error: "));
    let told = |line: &str| {
        line.contains(cause) && line.contains("disk/run") && WAYS_OUT.iter().any(|words| line.contains(words))
    };
    ensure!(lines.any(told), "no line that tells of the fault, of its path and a way out:\n{said}");
    ensure!(!said.contains("panicked"), "a panic:\n{said}");
    Ok(())
}

fn first(desk: &Desk) -> PathBuf {
    desk.checkpoints().join(format!("step_{BEFORE}"))
}

type Files = BTreeMap<PathBuf, Vec<u8>>;

/// All files below a folder, with what is in them.
fn files(folder: &Path) -> Result<Files> {
    let mut found = Files::new();
    for entry in fs::read_dir(folder).with_context(|| format!("cannot list {}", folder.display()))? {
        let path = entry?.path();
        if path.is_dir() {
            found.append(&mut files(&path)?);
        } else {
            let bytes = fs::read(&path).with_context(|| format!("cannot read {}", path.display()))?;
            found.insert(path, bytes);
        }
    }
    Ok(found)
}
