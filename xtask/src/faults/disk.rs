//! A disk that is full, fails or has become read-only: system calls of a save that end with its error, and a file system
//! in memory that is too small.
use crate::faults::desk::{Desk, Lab, Layout, acknowledged};
use crate::faults::mount::Mount;
use crate::faults::resume;
use crate::faults::saves::{BEFORE, Saves};
use crate::faults::strace::{self, Point};
use crate::faults::trials::{Outcome, Tally, Trials};
use anyhow::{Context, Result, ensure};
use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

const SYSCALLS: &[&str] = &[
    "write",
    "pwrite64",
    "fsync",
    "fdatasync",
    "fallocate",
    "ftruncate",
    "mkdir",
    "mkdirat",
    "rename",
    "renameat",
    "renameat2",
    "openat",
];
const ERRORS: [&str; 3] = ["ENOSPC", "EIO", "EROFS"];

/// A file system has room for the first checkpoint and so many tenths of a second.
const TENTHS: std::ops::Range<u64> = 1..10;

enum Fault<'a> {
    Call(&'a Point, &'static str),
    Small(u64),
}

pub fn main(lab: &Lab, trials: &Trials) -> Result<Tally> {
    let saves = Saves::new(lab, Layout { processes: false }, 100, SYSCALLS)?;
    let calls = saves.points.iter().flat_map(|point| ERRORS.map(|error| Fault::Call(point, error)));
    let faults: Vec<Fault> = calls.chain(TENTHS.map(Fault::Small)).collect();
    let numbers = trials.of_list(faults.len())?;
    Ok(trials.run(lab, &numbers, |number, _| match faults[number] {
        Fault::Call(point, error) => call(lab, &saves, number, point, error),
        Fault::Small(tenths) => small(lab, &saves, number, tenths),
    }))
}

fn call(lab: &Lab, saves: &Saves, number: usize, point: &Point, error: &str) -> Result<Outcome> {
    let desk = saves.desk(&number.to_string())?;
    // All writes after one of them would be the one that tells of it, too.
    let when = if point.syscall == "write" { point.ordinal.to_string() } else { format!("{}+", point.ordinal) };
    let command = strace::broken(&saves.command(&desk), &point.syscall, &format!("error={error}"), &when);
    let outcome = survives(lab, saves, &desk, command, || Ok(()));
    let outcome = outcome.with_context(|| format!("{} {when} fails with {error}", point.syscall))?;
    desk.clear()?;
    Ok(outcome)
}

fn small(lab: &Lab, saves: &Saves, number: usize, tenths: u64) -> Result<Outcome> {
    let desk = lab.desk(&number.to_string())?;
    let mounted = Mount::memory(64 << 20, &desk.disk())?;
    saves.fill(&desk)?;
    let room = |files: &Files| files.values().map(|bytes| bytes.len().next_multiple_of(4096) as u64).sum::<u64>();
    let (run, checkpoint) = (files(&desk.disk())?, files(&first(&desk))?);
    mounted.resize(room(&run) + room(&checkpoint) * tenths / 10)?;
    let outcome = survives(lab, saves, &desk, saves.command(&desk), || mounted.resize(64 << 20));
    let outcome = outcome.with_context(|| format!("room for {tenths} tenths of a checkpoint"))?;
    drop(mounted);
    desk.clear()?;
    Ok(outcome)
}

/// Runs what meets a fault in its save, and goes on after the repair.
fn survives(
    lab: &Lab,
    saves: &Saves,
    desk: &Desk,
    broken: Command,
    repair: impl FnOnce() -> Result<()>,
) -> Result<Outcome> {
    let before = files(&first(desk))?;
    let (status, said) = desk.start(broken, "broken")?.end()?;
    repair()?;
    ensure!(files(&first(desk))? == before, "the checkpoint before is another now\n{said}");
    let ended = if status.success() {
        ensure!(acknowledged(&said) == desk.published(), "ended well, without its last checkpoint\n{said}");
        "ended well"
    } else {
        tells(&said)?;
        "ended with its error"
    };
    let acknowledged = acknowledged(&said).max(BEFORE);
    let from = resume::goes_on(lab, desk, saves.layout, acknowledged)?;
    resume::has_each_step_once(lab, desk)?;
    Ok(vec![ended.into(), resume::went(from, acknowledged).into()])
}

/// An error names the file, and a way out.
fn tells(said: &str) -> Result<()> {
    let error =
        said.lines().find(|line| line.starts_with("error: ")).with_context(|| format!("no error in: {said}"))?;
    ensure!(!said.contains("panicked"), "a panic: {said}");
    ensure!(error.contains("disk/run"), "an error without a path: {error}");
    let way_out = ["; check ", ": free space ", "; output must be "].iter().any(|words| error.contains(words));
    ensure!(way_out, "an error without a way out: {error}");
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
