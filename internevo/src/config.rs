//! The run's TOML: parsed, checked as a whole, never changed afterwards. Defaults live on the structs; each crate owns
//! its sections.
use crate::lr::LrScheduleConfig;
use anyhow::{Context, Result, bail};
use data::{DataConfig, TokenizerConfig};
use exec::OptimizerConfig;
use model::ModelConfig;
use plan::ParallelConfig;
use serde::{Deserialize, Serialize};
use std::path::{Path, PathBuf};
use toml::{Table, Value};

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
}

fn default_seed() -> u64 {
    1024
}
fn default_output() -> PathBuf {
    "runs".into()
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Device {
    #[default]
    Cpu,
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
    /// What the sample at the end of a run of text begins with; by default the beginning of the held-out text.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sample_prompt: Option<String>,
}

fn default_clip() -> f64 {
    1.0
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Precision {
    #[default]
    F32,
    /// Everything in double precision: slow, for checks of the numerics.
    F64,
}

#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct PrecisionConfig {
    pub params: Precision,
}

#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct MemoryConfig {
    /// Of one rank, such as "80GiB"; by default the memory of the machine, shared by its ranks.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub limit: Option<String>,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct CheckpointConfig {
    /// Steps between two checkpoints; 0: only at the end.
    pub every: u64,
    /// How many are kept.
    pub keep_last: usize,
}
impl Default for CheckpointConfig {
    fn default() -> Self {
        CheckpointConfig { every: 0, keep_last: 2 }
    }
}

impl RunConfig {
    /// Reads a run file; `set` holds `key.path=value` overrides. All problems at once, each with its key and a way out.
    pub fn load(path: &Path, set: &[String]) -> Result<RunConfig> {
        let text = std::fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))?;
        let mut table: Table = match text.parse() {
            Ok(table) => table,
            Err(e) => bail!("{} is not TOML: {e}", path.display()),
        };
        for assignment in set {
            put(&mut table, assignment)?;
        }
        let (config, mut problems) = parse(table, &text);
        if let Some(config) = &config {
            config.check(&mut problems);
        }
        match config {
            Some(config) if problems.is_empty() => Ok(config),
            _ => bail!("{}: {}", path.display(), listed(&problems)),
        }
    }

    /// What can be checked without looking at ranks, files or data.
    fn check(&self, problems: &mut Vec<String>) {
        if self.name.is_empty() || self.name.contains(['/', '\\']) || self.name.starts_with('.') {
            problems.push(format!("name = {:?}: must be the name of a folder; try \"demo\"", self.name));
        }
        if self.threads == Some(0) {
            problems.push("threads = 0: must be at least 1; remove it for one a core".into());
        }
        problems.extend(self.model.problems());
        self.data.validate(problems);
        self.tokenizer.validate(problems);
        problems.extend(self.optimizer.problems());
        self.train.check(problems);
        problems.extend(self.lr_schedule.problems(self.optimizer.lr, self.train.steps));
        if self.checkpoint.keep_last == 0 {
            problems.push("checkpoint.keep_last = 0 would delete every checkpoint; try 2".into());
        }
        if let Some(limit) = &self.memory.limit
            && parse_bytes(limit).is_none()
        {
            problems.push(format!("memory.limit = {limit:?} is not a size; try \"80GiB\" or \"900MB\""));
        }
    }

    /// Bytes of `memory.limit`.
    pub fn memory_limit(&self) -> Option<usize> {
        self.memory.limit.as_deref().and_then(parse_bytes)
    }

    /// Micro-batches per step and data-parallel rank.
    pub fn micro_batches(&self, data_ranks: usize) -> Result<usize, String> {
        let rows = self.data.micro_batch_size * data_ranks;
        match (self.train.micro_batches, self.train.global_batch_size) {
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

    pub fn folder(&self) -> PathBuf {
        self.output.join(&self.name)
    }
}

impl TrainConfig {
    fn check(&self, problems: &mut Vec<String>) {
        if self.steps == 0 {
            problems.push("train.steps = 0: must be at least 1; try 100".into());
        }
        if self.micro_batches == Some(0) {
            problems.push("train.micro_batches = 0: must be at least 1; try 1".into());
        }
        if self.global_batch_size == Some(0) {
            problems.push("train.global_batch_size = 0: must be at least 1".into());
        }
        if self.micro_batches.is_some() && self.global_batch_size.is_some() {
            problems.push("train.micro_batches and train.global_batch_size are both set; keep one".into());
        }
        if self.clip_grad_norm.is_nan() || self.clip_grad_norm < 0.0 {
            problems
                .push(format!("train.clip_grad_norm = {}: must not be negative; 0 means never", self.clip_grad_norm));
        }
    }
}

/// "1 problem" or a list of them.
pub fn listed(problems: &[String]) -> String {
    match problems {
        [one] => one.clone(),
        many => format!("{} problems\n  - {}", many.len(), many.join("\n  - ")),
    }
}

/// `key.path=value`; a value that is not TOML is a string.
fn put(table: &mut Table, assignment: &str) -> Result<()> {
    let Some((path, value)) = assignment.split_once('=') else {
        bail!("--set {assignment}: expected key.path=value, as in --set train.steps=10");
    };
    let value = match format!("x = {value}").parse::<Table>() {
        Ok(mut parsed) => parsed.remove("x").expect("it was parsed"),
        Err(_) => Value::String(value.into()),
    };
    let keys: Vec<&str> = path.trim().split('.').collect();
    let (last, sections) = keys.split_last().expect("split gives at least one");
    let mut at = table;
    for section in sections {
        let entry = at.entry(*section).or_insert_with(|| Value::Table(Table::new()));
        let Value::Table(inner) = entry else { bail!("--set {assignment}: `{section}` is not a section") };
        at = inner;
    }
    at.insert((*last).into(), value);
    Ok(())
}

/// Every unknown key is reported, and the rest is parsed without it.
fn parse(mut table: Table, text: &str) -> (Option<RunConfig>, Vec<String>) {
    let mut problems = vec![];
    loop {
        let error = match serde_path_to_error::deserialize::<_, RunConfig>(table.clone()) {
            Ok(config) => return (Some(config), problems),
            Err(error) => error,
        };
        let path = error.path().to_string();
        let message = error.inner().to_string();
        let message = message.trim();
        let Some(unknown) = Unknown::of(message, &path) else {
            let key = if path == "." { String::new() } else { format!("{path}: ") };
            problems.push(format!("{}{key}{message}", line_of(text, &path)));
            return (None, problems);
        };
        problems.push(format!("{}{}", line_of(text, &unknown.path), unknown.problem()));
        if !remove(&mut table, &unknown.path) {
            return (None, problems);
        }
    }
}

/// What serde says of a key that a section does not have.
struct Unknown {
    path: String,
    key: String,
    known: Vec<String>,
}

impl Unknown {
    fn of(message: &str, path: &str) -> Option<Unknown> {
        let rest = message.lines().next()?.strip_prefix("unknown field `")?;
        let (key, rest) = rest.split_once('`')?;
        let known = rest.split('`').skip(1).step_by(2).map(str::to_string).collect();
        let section = path.strip_suffix(key).unwrap_or(path).trim_end_matches('.');
        let full = if section.is_empty() { key.to_string() } else { format!("{section}.{key}") };
        Some(Unknown { path: full, key: key.into(), known })
    }

    fn problem(&self) -> String {
        let near = |k: &&String| strsim::damerau_levenshtein(k, &self.key) <= 2.max(self.key.len() / 4);
        let best = self.known.iter().filter(near).min_by_key(|k| strsim::damerau_levenshtein(k, &self.key));
        match best {
            Some(best) => format!("{} is not a key; did you mean {best}?", self.path),
            None => format!("{} is not a key; there are {}", self.path, self.known.join(", ")),
        }
    }
}

fn remove(table: &mut Table, path: &str) -> bool {
    match path.split_once('.') {
        None => table.remove(path).is_some(),
        Some((section, rest)) => match table.get_mut(section) {
            Some(Value::Table(inner)) => remove(inner, rest),
            _ => false,
        },
    }
}

/// `line 12: ` where the file spells a key in its section; nothing where it does not (inline tables, `--set`).
fn line_of(text: &str, path: &str) -> String {
    let (section, key) = path.rsplit_once('.').unwrap_or(("", path));
    let mut current = String::new();
    for (i, line) in text.lines().enumerate() {
        let line = line.trim();
        if let Some(header) = line.strip_prefix('[').and_then(|l| l.split(']').next()) {
            current = header.trim().to_string();
        } else if current == section && line.split('=').next().is_some_and(|k| k.trim() == key) {
            return format!("line {}: ", i + 1);
        }
    }
    String::new()
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
