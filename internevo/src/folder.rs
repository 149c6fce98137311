//! The folder of a run: locked while in use, and where a run begins.
use crate::config::{Content, LoadConfig, RunConfig};
use anyhow::{Context, Result, bail};
use serde::{Deserialize, Serialize};
use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::Write;
use std::path::{Path, PathBuf};

pub struct RunFolder {
    path: PathBuf,
    /// The run starts again.
    fresh: bool,
    /// Rank 0's, for all. It goes with the process, however that ends.
    _lock: Option<File>,
}

/// What is there to begin from.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub enum Start {
    New,
    /// Parts of a checkpoint of another run.
    Load {
        path: PathBuf,
        content: Vec<Content>,
    },
    /// The newest of these that is whole, by step and folder, newest first. The first one opens.
    Resume {
        candidates: Vec<(u64, PathBuf)>,
    },
}

impl Start {
    /// Where the run's own tokenizer lies.
    pub fn checkpoint(&self) -> Option<&Path> {
        match self {
            Start::New => None,
            Start::Load { path, .. } => Some(path),
            Start::Resume { candidates } => Some(&candidates[0].1),
        }
    }
}

/// A checkpoint as people name it: its folder, or that of a run, of which it is the newest that opens.
pub fn checkpoint_at(path: &Path) -> Result<PathBuf> {
    if path.join("config.json").exists() {
        return Ok(path.into());
    }
    let inside = path.join("checkpoints");
    let checkpoints = if inside.is_dir() { &inside } else { path };
    match checkpoint::newest(checkpoints)? {
        Some((found, _)) => Ok(found.path),
        None => bail!("{} is no checkpoint and has none; give a folder step_N, or a run's", path.display()),
    }
}

impl RunFolder {
    /// `resume`: it was asked for, or the job has been started again.
    pub fn open(config: &RunConfig, resume: bool, fresh: bool) -> Result<(RunFolder, Start)> {
        let path = config.folder();
        checkpoint::create_folder(&path)?;
        let folder = RunFolder { _lock: Some(lock(&path)?), path, fresh };
        let start = folder.start(config, resume)?;
        Ok((folder, start))
    }

    /// As another process than that of rank 0, which has locked it as process `locker` and said where to begin.
    pub fn follow(config: &RunConfig, locker: u32) -> Result<RunFolder> {
        let path = config.folder();
        let lock = path.join(LOCK);
        if fs::read_to_string(&lock).unwrap_or_default() != line(locker) {
            bail!(
                "{} is not what rank 0 has just written: output must be in a folder that all ranks share",
                lock.display()
            );
        }
        // Rank 0 has begun it, so nothing is fresh any more.
        Ok(RunFolder { path, fresh: false, _lock: None })
    }

    fn start(&self, config: &RunConfig, resume: bool) -> Result<Start> {
        let new = || match &config.checkpoint.load {
            None => Ok(Start::New),
            Some(LoadConfig { path, content }) => {
                let path = checkpoint_at(path).context("checkpoint.load.path")?;
                Ok(Start::Load { path, content: content.clone() })
            }
        };
        if self.fresh {
            return new();
        }
        let at = self.path.display();
        let Some((found, broken)) = checkpoint::newest(&self.checkpoints())? else {
            if resume {
                eprintln!("{at} has no checkpoint yet: starting from the beginning");
            }
            return new();
        };
        for broken in broken {
            eprintln!("warning: {broken}; going back to step {}", found.step);
        }
        let (done, steps) = (found.step, config.train.steps);
        if done >= steps {
            bail!("{at} is finished (step {done} of {steps}); --fresh starts again, or raise train.steps and --resume");
        }
        if !resume && !config.checkpoint.auto_resume {
            bail!("{at} has a checkpoint of step {done} of {steps}; --resume goes on from it, --fresh starts again");
        }
        let older = checkpoint::list(&self.checkpoints())?.into_iter().filter(|older| *older <= found);
        let mut candidates: Vec<(u64, PathBuf)> = older.map(|older| (older.step, older.path)).collect();
        candidates.reverse();
        Ok(Start::Resume { candidates })
    }

    pub fn checkpoints(&self) -> PathBuf {
        self.path.join("checkpoints")
    }
    /// Where `checkpoint.stop_file` does not say otherwise.
    pub fn stop_file(&self) -> PathBuf {
        self.path.join("stop")
    }
    pub fn cache(&self) -> PathBuf {
        self.path.join("cache")
    }
    /// For ranks that are other processes: what is trained or loaded once is the same for all.
    pub fn tokenizer(&self) -> PathBuf {
        self.cache().join("tokenizer")
    }
    pub fn logs(&self) -> PathBuf {
        self.path.join("logs")
    }
    pub fn trace(&self, step: u64) -> PathBuf {
        self.path.join("trace").join(format!("step_{step}.json"))
    }
    pub fn tensorboard(&self) -> PathBuf {
        self.path.join("tensorboard")
    }

    /// Everything has been checked, and the run begins after step `first`: what it gives up goes, and its config is
    /// written as it was understood, defaults and overrides included.
    pub fn begin(&self, config: &RunConfig, start: &Start, first: u64) -> Result<()> {
        let resumes = matches!(start, Start::Resume { .. });
        match resumes {
            true => checkpoint::rewind(&self.checkpoints(), Some(first))?,
            false if self.fresh => remove(&self.checkpoints())?,
            false => checkpoint::rewind(&self.checkpoints(), None)?,
        }
        if !resumes {
            remove(&self.tensorboard())?;
            remove(&self.logs())?;
            remove(&self.path.join("trace"))?;
        }
        let path = self.path.join("config.toml");
        fs::write(&path, config.toml()).with_context(|| format!("cannot write {}", path.display()))
    }

    /// `metrics.jsonl`, without the rows after `step`: each step stands there once, also after a resume.
    pub fn metrics(&self, step: u64) -> Result<(PathBuf, File)> {
        let path = self.path.join("metrics.jsonl");
        let context = || format!("cannot write {}; check the space on its disk", path.display());
        let text = if path.exists() { fs::read_to_string(&path).with_context(context)? } else { String::new() };
        let kept = |line: &&str| {
            let row: Option<serde_json::Value> = serde_json::from_str(line).ok();
            row.and_then(|r| r["step"].as_u64()).is_some_and(|s| step > 0 && s <= step)
        };
        let mut rows: Vec<&str> = text.lines().filter(kept).collect();
        rows.push(""); // a line ends with a line feed
        // Renamed into place, so that a full disk or a crash loses no rows.
        let new = self.path.join("metrics.jsonl.tmp");
        let mut file = File::create(&new).with_context(context)?;
        file.write_all(rows.join("\n").as_bytes()).and_then(|()| fs::rename(&new, &path)).with_context(context)?;
        Ok((path, file))
    }
}

const LOCK: &str = "lock";

fn line(locker: u32) -> String {
    format!("{locker}\n")
}

fn lock(path: &Path) -> Result<File> {
    let name = path.join(LOCK);
    let context = || format!("cannot open {}", name.display());
    let mut file = OpenOptions::new().create(true).truncate(false).write(true).open(&name).with_context(context)?;
    match file.try_lock() {
        Ok(()) => {}
        Err(TryLockError::WouldBlock) => {
            let pid = fs::read_to_string(&name).unwrap_or_default();
            bail!("{} is in use by process {}; wait for it, or give this run another name", path.display(), pid.trim());
        }
        Err(TryLockError::Error(e)) => return Err(e).with_context(|| format!("cannot lock {}", name.display())),
    }
    let own = line(std::process::id());
    // On the disk: other hosts read it.
    file.set_len(0)
        .and_then(|()| file.write_all(own.as_bytes()))
        .and_then(|()| file.sync_data())
        .with_context(context)?;
    Ok(file)
}

fn remove(path: &Path) -> Result<()> {
    if path.exists() {
        fs::remove_dir_all(path).with_context(|| format!("cannot remove {}", path.display()))?;
    }
    Ok(())
}
