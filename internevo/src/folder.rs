//! The folder of a run: locked while in use, and where a run begins.
use crate::config::RunConfig;
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
    Resume { step: u64, checkpoint: PathBuf },
}

impl RunFolder {
    pub fn open(config: &RunConfig, resume: bool, fresh: bool) -> Result<(RunFolder, Start)> {
        let path = config.folder();
        fs::create_dir_all(&path).with_context(|| format!("cannot create {}", path.display()))?;
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
        if self.fresh {
            return Ok(Start::New);
        }
        let at = self.path.display();
        let Some(found) = checkpoint::newest(&self.checkpoints())? else {
            if resume {
                eprintln!("{at} has no checkpoint yet: starting from the beginning");
            }
            return Ok(Start::New);
        };
        for broken in &found.broken {
            eprintln!("warning: {broken}; going back to step {}", found.step);
        }
        let (done, steps) = (found.step, config.train.steps);
        if done >= steps {
            bail!("{at} is finished (step {done} of {steps}); --fresh starts again, or raise train.steps and --resume");
        }
        if !resume && !config.checkpoint.auto_resume {
            bail!("{at} has a checkpoint of step {done} of {steps}; --resume goes on from it, --fresh starts again");
        }
        Ok(Start::Resume { step: done, checkpoint: found.path })
    }

    pub fn checkpoints(&self) -> PathBuf {
        self.path.join("checkpoints")
    }
    pub fn checkpoint(&self, step: u64) -> PathBuf {
        self.checkpoints().join(format!("step_{step}"))
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

    /// Everything has been checked: what the run gives up goes, and its config is written as it was understood, defaults
    /// and overrides included.
    pub fn begin(&self, config: &RunConfig, start: &Start) -> Result<()> {
        match start {
            Start::New if self.fresh => remove(&self.checkpoints())?,
            Start::New => checkpoint::rewind(&self.checkpoints(), None)?,
            Start::Resume { step, .. } => checkpoint::rewind(&self.checkpoints(), Some(*step))?,
        }
        if let Start::New = start {
            remove(&self.tensorboard())?;
            remove(&self.logs())?;
            remove(&self.path.join("trace"))?;
        }
        let path = self.path.join("config.toml");
        fs::write(&path, config.toml()).with_context(|| format!("cannot write {}", path.display()))
    }

    /// `metrics.jsonl`, without the rows after `step`: each step stands there once, also after a resume.
    pub fn metrics(&self, step: u64) -> Result<File> {
        let path = self.path.join("metrics.jsonl");
        let context = || format!("cannot write {}", path.display());
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
        Ok(file)
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
