//! A run that has a checkpoint, goes on and makes others: the saves whose system calls are broken one by one.
use crate::faults::desk::{Desk, Lab, Layout};
use crate::faults::strace::{self, Point};
use anyhow::{Context, Result, ensure};
use std::fs;
use std::process::Command;

/// The step of the checkpoint that is there before.
pub const BEFORE: u64 = 20;

/// By which a disk is changed.
const SYSCALLS: &[&str] = &[
    "openat",
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
    "unlink",
    "unlinkat",
    "rmdir",
];

pub struct Saves<'a> {
    lab: &'a Lab,
    pub layout: Layout,
    /// The setting of how many checkpoints stay.
    keep: String,
    /// Holds a disk with the first checkpoint.
    base: Desk,
    pub points: Vec<Point>,
}

/// In the background, and while training waits.
pub fn both(lab: &Lab, keep: usize) -> Result<[Saves<'_>; 2]> {
    Ok([Saves::new(lab, Layout::of(0), keep)?, Saves::new(lab, Layout::of(1), keep)?])
}

impl Saves<'_> {
    /// Sees once what the saves of this layout call.
    fn new(lab: &Lab, layout: Layout, keep: usize) -> Result<Saves<'_>> {
        let name = if layout.background { "background" } else { "waiting" };
        let base = lab.desk(&format!("{name}-before"))?;
        let first = base.command(layout, &["--set", &format!("train.steps={BEFORE}")]);
        let (status, said) = base.start(first, "first")?.end()?;
        ensure!(status.success(), "the run to step {BEFORE} fails: {said}");
        let mut saves = Saves { lab, layout, keep: format!("checkpoint.keep_last={keep}"), base, points: vec![] };

        let desk = saves.desk(&format!("{name}-seen"))?;
        let trace = desk.path("trace");
        let (status, said) = desk.start(strace::traced(&saves.command(&desk), SYSCALLS, &trace), "seen")?.end()?;
        ensure!(status.success(), "the run under strace fails: {said}");
        let trace = fs::read_to_string(&trace).with_context(|| format!("cannot read {}", trace.display()))?;
        saves.points = strace::points(&trace);
        ensure!(saves.points.len() > 20, "a save has only these calls: {:?}", saves.points);
        Ok(saves)
    }

    /// Where the first checkpoint is there.
    pub fn desk(&self, name: &str) -> Result<Desk> {
        let desk = self.lab.desk(name)?;
        self.fill(&desk)?;
        Ok(desk)
    }

    /// Puts the first checkpoint on the disk of a desk.
    pub fn fill(&self, desk: &Desk) -> Result<()> {
        let run = self.base.disk().join("run");
        let copied = Command::new("cp").arg("-r").arg(&run).arg(desk.disk()).output().context("cp does not start")?;
        ensure!(copied.status.success(), "cannot copy: {}", String::from_utf8_lossy(&copied.stderr));
        Ok(())
    }

    /// Saves so often that the calls of a save have other numbers than those the program began with.
    pub fn command(&self, desk: &Desk) -> Command {
        let settings = ["--set", "checkpoint.every=2", "--set", "train.steps=44", "--set", &self.keep];
        desk.command(self.layout, &[&["--resume"], &settings[..]].concat())
    }
}
