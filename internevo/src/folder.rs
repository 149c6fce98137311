//! The folder of a run: locked while in use, and where a run begins.
use crate::config::RunConfig;
use anyhow::{Context, Result, bail};
use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::Write;
use std::path::{Path, PathBuf};

pub struct RunFolder {
    path: PathBuf,
    /// The lock goes with the process, however it ends.
    _lock: File,
}

/// What is there to begin from.
pub enum Start {
    New,
    Resume { step: u64, checkpoint: PathBuf },
}

impl RunFolder {
    pub fn open(config: &RunConfig, resume: bool, fresh: bool) -> Result<(RunFolder, Start)> {
        let path = config.folder();
        fs::create_dir_all(&path).with_context(|| format!("cannot create {}", path.display()))?;
        let folder = RunFolder { _lock: lock(&path)?, path };
        let start = folder.start(config, resume, fresh)?;
        Ok((folder, start))
    }

    fn start(&self, config: &RunConfig, resume: bool, fresh: bool) -> Result<Start> {
        let at = self.path.display();
        if fresh {
            remove(&self.checkpoints())?;
            remove(&self.tokenizer())?;
            return Ok(Start::New);
        }
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
        if !resume {
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
    pub fn tokenizer(&self) -> PathBuf {
        self.path.join("tokenizer")
    }
    pub fn cache(&self) -> PathBuf {
        self.path.join("cache")
    }

    /// The config as it was understood, defaults and overrides included.
    pub fn write_config(&self, config: &RunConfig) -> Result<()> {
        let path = self.path.join("config.toml");
        let text = toml::to_string_pretty(config).expect("a config is TOML");
        fs::write(&path, text).with_context(|| format!("cannot write {}", path.display()))
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
        let mut file = File::create(&path).with_context(context)?;
        for line in text.lines().filter(kept) {
            writeln!(file, "{line}").with_context(context)?;
        }
        Ok(file)
    }
}

fn lock(path: &Path) -> Result<File> {
    let name = path.join("lock");
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
    file.set_len(0).and_then(|()| writeln!(file, "{}", std::process::id())).with_context(context)?;
    Ok(file)
}

fn remove(path: &Path) -> Result<()> {
    if path.exists() {
        fs::remove_dir_all(path).with_context(|| format!("cannot remove {}", path.display()))?;
    }
    Ok(())
}
