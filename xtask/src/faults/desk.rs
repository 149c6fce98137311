//! Where a run is broken: a folder with a run file, and the disk that the run writes to.
use crate::faults::mount;
use crate::faults::process::{self, Process};
use crate::faults::rows;
use anyhow::{Context, Result, ensure};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

/// A tiny model of 39 tensors, so that a save is many writes and a step takes less than a millisecond. The data repeat
/// after a few steps; the learning rate does not follow from the number of steps, so that any of these runs is a part of
/// the longest.
const RUN: &str = r#"
name = "run"
output = "disk"
threads = 1
[model]
family = "llama"
vocab_size = 211
hidden_size = 16
num_hidden_layers = 4
num_attention_heads = 2
intermediate_size = 24
[data]
kind = "random"
seq_len = 16
micro_batch_size = 1
[train]
steps = 4000
micro_batches = 1
[lr_schedule]
kind = "constant"
warmup_steps = 20
[checkpoint]
every = 20
snapshot_every = 10
keep_last = 3
[metrics]
tensorboard = false
"#;

/// Two ranks, and who writes their checkpoints.
#[derive(Clone, Copy)]
pub struct Layout {
    /// Started by `internevo launch`; otherwise threads of one process.
    pub processes: bool,
    /// `checkpoint.background`.
    pub background: bool,
}

impl Layout {
    /// Every four numbers have all.
    pub fn of(number: usize) -> Layout {
        Layout { processes: number % 4 > 1, background: number.is_multiple_of(2) }
    }
}

/// What the faults of a kind share.
pub struct Lab {
    pub kind: String,
    pub folder: PathBuf,
    pub internevo: PathBuf,
    /// The bits of each step, of a run that nothing happened to.
    pub reference: Vec<String>,
}

impl Lab {
    pub fn new(root: &Path, internevo: &Path, kind: String) -> Result<Lab> {
        let folder = root.join("target/faults").join(&kind);
        mount::clear(&folder)?;
        clear(&folder)?;
        let mut lab = Lab { folder, kind, internevo: internevo.into(), reference: vec![] };
        let desk = lab.desk("reference")?;
        let command = desk.command(Layout::of(0), &["--set", "checkpoint.enabled=false"]);
        let (status, said) = desk.start(command, "reference")?.end()?;
        ensure!(status.success(), "the run without a fault fails: {said}");
        lab.reference = rows::lines(&desk.metrics())?.iter().map(|line| rows::bits(line)).collect::<Result<_>>()?;
        desk.clear()?;
        Ok(lab)
    }

    /// An empty one.
    pub fn desk(&self, name: &str) -> Result<Desk> {
        let desk = Desk { folder: self.folder.join(name), internevo: self.internevo.clone() };
        desk.clear()?;
        fs::create_dir_all(desk.disk()).with_context(|| format!("cannot create {}", desk.disk().display()))?;
        let run = desk.path("run.toml");
        fs::write(&run, RUN).with_context(|| format!("cannot write {}", run.display()))?;
        Ok(desk)
    }
}

pub struct Desk {
    folder: PathBuf,
    internevo: PathBuf,
}

impl Desk {
    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.join(name)
    }
    /// What the run may write to.
    pub fn disk(&self) -> PathBuf {
        self.path("disk")
    }
    pub fn metrics(&self) -> PathBuf {
        self.path("disk/run/metrics.jsonl")
    }
    pub fn checkpoints(&self) -> PathBuf {
        self.path("disk/run/checkpoints")
    }

    /// A training, with more words at the end of its command line.
    pub fn command(&self, layout: Layout, more: &[&str]) -> Command {
        let (launch, ranks): (&[&str], &[&str]) =
            if layout.processes { (&["launch", "-n", "2"], &[]) } else { (&[], &["--ranks", "2"]) };
        let train = ["train", "run.toml", "--device", "cpu"];
        let background = ["--set", &format!("checkpoint.background={}", layout.background)];
        self.internevo(&[launch, &train, ranks, &background, more].concat())
    }

    pub fn internevo(&self, words: &[&str]) -> Command {
        let mut command = Command::new(&self.internevo);
        command.args(words).current_dir(&self.folder);
        command
    }

    /// What it says goes to NAME.err, beside the disk.
    pub fn start(&self, command: Command, name: &str) -> Result<Process> {
        Process::start(command, &self.path(&format!("{name}.err")))
    }

    pub fn said(&self, name: &str) -> Result<String> {
        process::said(&self.path(&format!("{name}.err")))
    }

    /// Names in the folder of checkpoints; none before there is one.
    pub fn names(&self) -> Vec<String> {
        let entries = fs::read_dir(self.checkpoints()).into_iter().flatten().flatten();
        entries.filter_map(|entry| entry.file_name().into_string().ok()).collect()
    }

    /// What is being written, or was when the run died.
    pub fn drafts(&self) -> Vec<String> {
        self.names().into_iter().filter(|name| name.contains(".tmp-")).collect()
    }

    /// The last of the published checkpoints; 0 if there is none.
    pub fn published(&self) -> u64 {
        self.names().iter().filter_map(|name| step_of(name)).max().unwrap_or(0)
    }

    pub fn clear(&self) -> Result<()> {
        clear(&self.folder)
    }
}

fn clear(folder: &Path) -> Result<()> {
    match folder.exists() {
        true => fs::remove_dir_all(folder).with_context(|| format!("cannot remove {}", folder.display())),
        false => Ok(()),
    }
}

/// The last checkpoint that a run has told of as saved; 0 if there is none.
pub fn acknowledged(said: &str) -> u64 {
    let whole = said.rfind('\n').map_or("", |end| &said[..end]);
    let paths = whole.lines().filter_map(|line| line.strip_prefix("saved ")?.split(' ').next());
    paths.filter_map(|path| step_of(path.rsplit('/').next()?)).max().unwrap_or(0)
}

/// Of `step_N` and `snapshot_N`: a draft has more behind the number.
fn step_of(name: &str) -> Option<u64> {
    name.strip_prefix("step_").or_else(|| name.strip_prefix("snapshot_"))?.parse().ok()
}

#[test]
fn only_whole_lines_acknowledge() {
    let said =
        "on CPU\nsaved disk/run/checkpoints/step_20 in 0.01 s\nstep 21\nsaved disk/run/checkpoints/snapshot_25\n";
    assert_eq!(acknowledged(said), 25);
    assert_eq!(acknowledged(&said[..said.len() - 1]), 20);
    assert_eq!(acknowledged("saved disk/run/checkpoints/step_20.tmp\n"), 0);
}
