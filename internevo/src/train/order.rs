//! What comes after a step: rank 0 decides, from signals, the stop file and the run file, and all ranks do the same.
use super::Run;
use crate::control::Asked;
use crate::stop_file::StopFile;
use anyhow::Result;
use checkpoint::Kind;
use serde::{Deserialize, Serialize};

#[derive(Debug, Serialize, Deserialize)]
pub struct Order {
    pub save: Option<Kind>,
    pub stop: bool,
    /// And Slurm is to start the job again.
    pub requeue: bool,
    pub warning: Option<String>,
}

impl Run<'_> {
    pub fn order(&self, step: u64, asked: Asked, stop_file: &mut StopFile) -> Order {
        let (c, wish) = (&self.config.checkpoint, stop_file.after(step));
        let stop = asked > Asked::Nothing || wish.stop;
        let due = |every: u64| every > 0 && step.is_multiple_of(every);
        let kind = match () {
            _ if stop || wish.save || step == self.config.train.steps || due(c.every) => Some(Kind::Step),
            _ if due(c.snapshot_every) => Some(Kind::Snapshot),
            _ => None,
        };
        let save = kind.filter(|_| c.enabled);
        Order { save, stop, requeue: asked == Asked::Requeue && c.requeue, warning: wish.warning }
    }

    pub fn stop_file(&self) -> Result<StopFile> {
        let named = self.config.checkpoint.stop_file.clone();
        StopFile::begin(&named.unwrap_or_else(|| self.folder.stop_file()))
    }
}
