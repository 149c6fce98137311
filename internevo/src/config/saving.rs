//! `[checkpoint]`: when a run saves, and what it begins from.
use serde::{Deserialize, Serialize};
use std::path::PathBuf;

#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct CheckpointConfig {
    /// False: nothing is saved, also at the end.
    pub enabled: bool,
    /// Go on from the newest checkpoint if there is one, as if --resume were given.
    pub auto_resume: bool,
    /// Steps between two checkpoints; 0: only at the end.
    pub every: u64,
    /// Steps between two snapshots, which come between the checkpoints and of which two are kept; 0: none.
    pub snapshot_every: u64,
    /// How many checkpoints are kept.
    pub keep_last: usize,
    /// And each whose step is a multiple of this; 0: none.
    pub keep_every: u64,
    /// Training goes on while a copy of the state is written; false: it waits, and needs no memory for a copy.
    pub background: bool,
    /// Saves in a row that may fail; one more ends the run.
    pub max_failures: u32,
    /// A file whose number N is looked at after each step: after step N a positive one saves and ends the run, a negative
    /// one saves; by default output/name/stop.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub stop_file: Option<PathBuf>,
    /// After SIGUSR1 and its save, Slurm is asked to start the job again.
    pub requeue: bool,
    /// What a new run takes from a checkpoint of another.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub load: Option<LoadConfig>,
}
impl Default for CheckpointConfig {
    fn default() -> Self {
        CheckpointConfig {
            enabled: true,
            auto_resume: false,
            every: 0,
            snapshot_every: 0,
            keep_last: 2,
            keep_every: 0,
            background: true,
            max_failures: 3,
            stop_file: None,
            requeue: false,
            load: None,
        }
    }
}

impl CheckpointConfig {
    pub fn problems(&self) -> Vec<String> {
        let mut problems = vec![];
        if self.keep_last == 0 {
            problems.push("checkpoint.keep_last = 0 would delete every checkpoint; try 2".into());
        }
        if self.load.as_ref().is_some_and(|load| load.content.is_empty()) {
            problems.push("checkpoint.load.content is empty; try [\"model\"] or [\"all\"]".into());
        }
        problems
    }
}

/// `checkpoint.load`.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LoadConfig {
    /// A checkpoint, or the folder of a run, whose newest it is.
    pub path: PathBuf,
    #[serde(default = "default_content")]
    pub content: Vec<Content>,
}

/// Part of a checkpoint.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Content {
    /// Weights.
    Model,
    /// Running means, the number of updates and the loss scale.
    Optimizer,
    /// The step, from which the learning rate follows.
    Scheduler,
    /// Where the data stand.
    Sampler,
    All,
}

impl Content {
    pub fn is_in(self, content: &[Content]) -> bool {
        content.contains(&self) || content.contains(&Content::All)
    }
}

fn default_content() -> Vec<Content> {
    vec![Content::Model]
}
