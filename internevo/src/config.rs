//! The run's TOML: parsed, checked as a whole, never changed afterwards. Defaults live on the structs; each crate owns
//! its sections.
mod numerics;
mod saving;
mod text;

pub use numerics::{Precision, PrecisionConfig};
pub use saving::{CheckpointConfig, Content, LoadConfig};

use crate::course::{Course, RampUp, parse_batches};
use crate::device::Device;
use crate::lr::LrScheduleConfig;
use anyhow::{Result, anyhow, bail};
use data::{DataConfig, TokenizerConfig};
use exec::OptimizerConfig;
use model::ModelConfig;
use numerics::LossConfig;
use plan::{ParallelConfig, Recompute};
use serde::{Deserialize, Serialize};
use std::path::{Path, PathBuf};
use text::RunText;

/// More than the cores of any machine.
const MOST_THREADS: usize = 4096;

#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RunConfig {
    /// The run's folder is output/name.
    pub name: String,
    #[serde(default = "default_seed")]
    pub seed: u64,
    #[serde(default = "default_output")]
    pub output: PathBuf,
    #[serde(default)]
    pub device: Device,
    /// Compute threads of all ranks of this machine together; by default one a core.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub threads: Option<usize>,
    pub model: ModelConfig,
    pub data: DataConfig,
    #[serde(default)]
    pub tokenizer: TokenizerConfig,
    pub train: TrainConfig,
    #[serde(default)]
    pub loss: LossConfig,
    #[serde(default)]
    pub optimizer: OptimizerConfig,
    #[serde(default)]
    pub lr_schedule: LrScheduleConfig,
    #[serde(default)]
    pub precision: PrecisionConfig,
    #[serde(default)]
    pub memory: MemoryConfig,
    #[serde(default)]
    pub parallel: ParallelConfig,
    #[serde(default)]
    pub checkpoint: CheckpointConfig,
    #[serde(default)]
    pub metrics: MetricsConfig,
}

fn default_seed() -> u64 {
    1024
}
fn default_output() -> PathBuf {
    "runs".into()
}

#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TrainConfig {
    pub steps: u64,
    /// Per step and data-parallel rank (gradient accumulation).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub micro_batches: Option<usize>,
    /// Sequences per step, instead of micro_batches.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub global_batch_size: Option<usize>,
    /// Norm that the gradient is clipped to; 0: never.
    #[serde(default = "default_clip")]
    pub clip_grad_norm: f64,
    /// Steps between two validations; 0: only at the end.
    #[serde(default)]
    pub validate_every: u64,
    /// N: the same bits for every data-parallel size dividing N.
    #[serde(default)]
    pub reproducible: usize,
    /// The batch grows at the start.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ramp_up: Option<RampUp>,
    /// Batches that are read and left out, counted from 0: "2-4,10".
    #[serde(skip_serializing_if = "String::is_empty", default)]
    pub skip_batches: String,
    /// Steps in a row that may be skipped because their gradient is not finite; one more ends the run.
    #[serde(default = "default_max_skips")]
    pub max_skips: u32,
    /// What the sample at the end of a run of text begins with; by default the beginning of the held-out text.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sample_prompt: Option<String>,
}

fn default_clip() -> f64 {
    1.0
}
fn default_max_skips() -> u32 {
    10
}

#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct MemoryConfig {
    /// Layers whose activations are made again in the backward: a part from 0 to 1, or "selective" for attention alone.
    pub recompute: Recompute,
    /// Of one rank, such as "80GiB"; by default the memory of the machine, shared by its ranks.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub limit: Option<String>,
}
impl Default for MemoryConfig {
    fn default() -> Self {
        MemoryConfig { recompute: Recompute::NONE, limit: None }
    }
}

#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct MetricsConfig {
    /// Event files beside metrics.jsonl.
    pub tensorboard: bool,
    /// A loss so many times the one before is a spike, and said so; 0: never.
    pub spike_factor: f64,
    /// A step so many times as long as the median of the last ones, and half a second longer, is told; 0: never.
    pub slow_factor: f64,
    /// Steps whose timeline is written for Chrome or Perfetto.
    pub trace_steps: Vec<u64>,
}
impl Default for MetricsConfig {
    fn default() -> Self {
        MetricsConfig { tensorboard: true, spike_factor: 1.5, slow_factor: 2.0, trace_steps: vec![] }
    }
}

impl RunConfig {
    /// Reads a run file; `set` holds `key.path=value` overrides. All problems at once, each with its key and a way out.
    pub fn load(path: &Path, set: &[String]) -> Result<RunConfig> {
        let (file, text) = crate::convert_config::run_file(path)?;
        let mut text = RunText::parse(&text).map_err(|e| anyhow!("{file} is not TOML: {}", e.to_string().trim()))?;
        set.iter().try_for_each(|assignment| text.set(assignment))?;
        let mut reading = text.read::<RunConfig>();
        if let Some(config) = &reading.config {
            reading.extend(config.problems());
        }
        let problems: Vec<String> = reading.problems.iter().map(|p| text.located(p)).collect();
        match reading.config {
            Some(config) if problems.is_empty() => Ok(config),
            _ => bail!("{file}: {}", listed(&problems)),
        }
    }

    /// What can be checked without looking at ranks, files or data.
    fn problems(&self) -> Vec<String> {
        let mut problems = vec![];
        if self.name.is_empty() || self.name.contains(['/', '\\']) || self.name.starts_with('.') {
            problems.push(format!("name = {:?}: must be the name of a folder; try \"demo\"", self.name));
        }
        if let Some(threads) = self.threads.filter(|n| !(1..=MOST_THREADS).contains(n)) {
            problems.push(format!(
                "threads = {threads}: must be at least 1 and at most {MOST_THREADS}; remove it for one a core"
            ));
        }
        let shape = self.model.problems();
        if shape.is_empty() && self.model.init_from.is_none() {
            let vocab = self.tokenizer.vocab_size.unwrap_or(1); // of a tokenizer that is loaded later
            problems.extend(self.model.decoder(vocab).problems());
        }
        problems.extend(shape);
        self.data.validate(&mut problems);
        self.tokenizer.validate(&mut problems);
        problems.extend(self.optimizer.problems());
        problems.extend(self.train.problems());
        problems.extend(self.loss.problems());
        problems.extend(self.precision.problems());
        if self.train.reproducible > 0 && self.precision.grads() != self.precision.params.dtype().precise() {
            problems.push(format!(
                "train.reproducible = {} beside precision.grads: gradients in 16 bits are rounded at each sum of a rank and once over ranks; remove one of the two",
                self.train.reproducible
            ));
        }
        problems.extend(self.memory.recompute.problem());
        problems.extend(self.metrics.problems(self.train.steps));
        problems.extend(self.lr_schedule.problems(self.optimizer.lr, self.train.steps));
        problems.extend(self.checkpoint.problems());
        if let Some(limit) = &self.memory.limit
            && parse_bytes(limit).is_none()
        {
            problems.push(format!("memory.limit = {limit:?} is not a size; try \"80GiB\" or \"900MB\""));
        }
        problems
    }

    /// Bytes of `memory.limit`.
    pub fn memory_limit(&self) -> Option<usize> {
        self.memory.limit.as_deref().and_then(parse_bytes)
    }

    /// Micro-batches per step and data-parallel rank.
    pub fn micro_batches(&self, data_ranks: usize) -> Result<usize, String> {
        /// Each is some actions of a program.
        const MOST: usize = 1 << 16;
        let rows = self.data.micro_batch_size * data_ranks;
        match (self.train.micro_batches, self.train.global_batch_size) {
            (Some(n), _) if n > MOST => Err(format!(
                "train.micro_batches = {n} is more than {MOST}; raise data.micro_batch_size instead, or use more ranks"
            )),
            (None, Some(global)) if global / rows > MOST => Err(format!(
                "train.global_batch_size = {global} makes more than {MOST} micro-batches of data.micro_batch_size = {} on each of {data_ranks} data-parallel ranks; raise it, or use more ranks",
                self.data.micro_batch_size
            )),
            (Some(n), _) => Ok(n),
            (None, None) => Ok(1),
            (None, Some(global)) if global.is_multiple_of(rows) => Ok(global / rows),
            (None, Some(global)) => Err(format!(
                "train.global_batch_size = {global} is not a multiple of {rows} (data.micro_batch_size = {} x {data_ranks} data-parallel ranks); try {}",
                self.data.micro_batch_size,
                global.next_multiple_of(rows)
            )),
        }
    }

    /// What each step takes, with `full` micro-batches a step and rank in the end.
    pub fn course(&self, full: usize) -> Course {
        let skipped = parse_batches(&self.train.skip_batches).expect("problems() has seen them");
        Course::new(full, self.train.ramp_up, skipped)
    }

    /// As it was understood, defaults and overrides included.
    pub fn toml(&self) -> String {
        toml::to_string_pretty(self).expect("a config is TOML")
    }

    pub fn folder(&self) -> PathBuf {
        self.output.join(&self.name)
    }
}

impl TrainConfig {
    fn problems(&self) -> Vec<String> {
        let mut problems = vec![];
        if self.steps == 0 {
            problems.push("train.steps = 0: must be at least 1; try 100".into());
        }
        if self.micro_batches == Some(0) {
            problems.push("train.micro_batches = 0: must be at least 1; try 1".into());
        }
        if self.global_batch_size == Some(0) {
            problems.push("train.global_batch_size = 0: must be at least 1; try data.micro_batch_size".into());
        }
        if self.micro_batches.is_some() && self.global_batch_size.is_some() {
            problems.push("train.micro_batches and train.global_batch_size are both set; keep one".into());
        }
        problems.extend(self.ramp_up.iter().flat_map(RampUp::problems));
        problems.extend(parse_batches(&self.skip_batches).err());
        if self.clip_grad_norm.is_nan() || self.clip_grad_norm < 0.0 {
            problems
                .push(format!("train.clip_grad_norm = {}: must not be negative; 0 means never", self.clip_grad_norm));
        }
        problems
    }
}

impl MetricsConfig {
    fn problems(&self, steps: u64) -> Vec<String> {
        let mut problems = vec![];
        for (key, x) in [("spike_factor", self.spike_factor), ("slow_factor", self.slow_factor)] {
            if !(x == 0.0 || x >= 1.0) || !x.is_finite() {
                problems.push(format!("metrics.{key} = {x}: must be at least 1, or 0 for never; try 1.5"));
            }
        }
        if let Some(step) = self.trace_steps.iter().find(|step| !(1..=steps).contains(step)) {
            problems
                .push(format!("metrics.trace_steps: there is no step {step} of train.steps = {steps}; the first is 1"));
        }
        problems
    }
}

/// "1 problem" or a list of them.
pub fn listed(problems: &[String]) -> String {
    match problems {
        [one] => one.clone(),
        many => format!("{} problems\n  - {}", many.len(), many.join("\n  - ")),
    }
}

/// "80GiB", "900 MB", "4096".
fn parse_bytes(text: &str) -> Option<usize> {
    let text = text.trim();
    let digits = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
    let number: f64 = text[..digits].parse().ok()?;
    let unit = match text[digits..].trim() {
        "" | "B" => 1.0,
        "kB" | "KB" => 1e3,
        "MB" => 1e6,
        "GB" => 1e9,
        "TB" => 1e12,
        "KiB" => 1024.0,
        "MiB" => 1024.0 * 1024.0,
        "GiB" => 1024.0 * 1024.0 * 1024.0,
        "TiB" => 1024.0f64.powi(4),
        _ => return None,
    };
    Some((number * unit) as usize)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes() {
        assert_eq!(parse_bytes("80GiB"), Some(80 << 30));
        assert_eq!(parse_bytes(" 1.5 MB"), Some(1_500_000));
        assert_eq!(parse_bytes("12"), Some(12));
        assert_eq!(parse_bytes("many"), None);
        assert_eq!(parse_bytes("3 apples"), None);
    }
}
