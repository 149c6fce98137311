//! The real program, run in a folder of its own.
#![allow(dead_code)] // each test file uses some of it
use serde_json::Value;
use std::fs;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};
use tempfile::TempDir;

pub const GOLDENS: [&str; 4] = ["llama_mha", "llama_gqa_tied", "internlm2_gqa", "internlm2_mqa"];

pub fn golden(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/goldens").join(name)
}

pub fn golden_json(name: &str) -> Value {
    serde_json::from_str(&fs::read_to_string(golden(name).join("golden.json")).unwrap()).unwrap()
}

/// A folder that the program runs in; paths of commands are relative to it.
pub struct Desk {
    folder: TempDir,
    vars: Vec<(&'static str, PathBuf)>,
}

impl Desk {
    /// On the CPU, whatever else the machine has.
    pub fn new() -> Desk {
        Desk { folder: tempfile::tempdir().unwrap(), vars: vec![("INTERNEVO_DEVICE", "cpu".into())] }
    }

    /// With one more variable of the environment.
    pub fn with(mut self, name: &'static str, value: impl Into<PathBuf>) -> Desk {
        self.vars.push((name, value.into()));
        self
    }

    /// With `run.toml`, which trains a golden as its golden.json says.
    pub fn golden(name: &str) -> Desk {
        let desk = Desk::new();
        desk.write("run.toml", golden_toml(name));
        desk
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    pub fn write(&self, name: &str, contents: impl AsRef<[u8]>) {
        let path = self.path(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, contents).unwrap();
    }

    pub fn read(&self, name: &str) -> Vec<u8> {
        fs::read(self.path(name)).unwrap_or_else(|e| panic!("{name}: {e}"))
    }

    pub fn text(&self, name: &str) -> String {
        String::from_utf8(self.read(name)).unwrap()
    }

    /// A copy of a golden's model that a test may damage.
    pub fn model(&self, name: &str, to: &str) {
        for file in ["config.json", "model.safetensors"] {
            self.write(&format!("{to}/{file}"), fs::read(golden(name).join(file)).unwrap());
        }
    }

    /// Runs a command line, whose words are separated by spaces.
    pub fn run(&self, command: &str) -> Outcome {
        let began = Instant::now();
        let Output { status, stdout, stderr } = self.command(command).output().unwrap();
        let text = |bytes| String::from_utf8(bytes).unwrap();
        Outcome {
            command: command.into(),
            code: status.code(),
            out: text(stdout),
            err: text(stderr),
            took: began.elapsed(),
        }
    }

    /// As `run`; the command succeeds, and this is what it printed.
    pub fn ok(&self, command: &str) -> String {
        let outcome = self.run(command);
        assert_eq!(outcome.code, Some(0), "{command}\n{}", outcome.err);
        outcome.out
    }

    pub fn json(&self, command: &str) -> Value {
        serde_json::from_str(&self.ok(command)).unwrap()
    }

    pub fn start(&self, command: &str) -> Running {
        self.start_into(command, Stdio::null())
    }

    pub fn start_into(&self, command: &str, stdout: impl Into<Stdio>) -> Running {
        let child = self.command(command).stdout(stdout).stderr(Stdio::piped()).spawn().unwrap();
        Running { child, command: command.into() }
    }

    pub fn command(&self, command: &str) -> Command {
        let mut out = Command::new(env!("CARGO_BIN_EXE_internevo"));
        out.args(command.split_whitespace()).current_dir(self.folder.path()).env("RUST_BACKTRACE", "0");
        out.envs(self.vars.iter().map(|(name, value)| (name, value)));
        out
    }

    /// Rows of a run's metrics.jsonl.
    pub fn metrics(&self, run: &str) -> Vec<Value> {
        let text = self.text(&format!("runs/{run}/metrics.jsonl"));
        text.lines().map(|row| serde_json::from_str(row).unwrap_or_else(|e| panic!("{e}: {row}"))).collect()
    }

    /// Rows without what depends on the machine and its ranks.
    pub fn results(&self, run: &str) -> Vec<Value> {
        let mut rows = self.metrics(run);
        for row in &mut rows {
            let row = row.as_object_mut().unwrap();
            ["tgs", "tflops", "step_ms", "memory_bytes"].iter().for_each(|key| drop(row.remove(*key)));
        }
        rows
    }

    /// Weights and optimizer state of a checkpoint.
    pub fn state(&self, run: &str, step: u64) -> [Vec<u8>; 2] {
        ["model.safetensors", "training/optimizer.safetensors"]
            .map(|file| self.read(&format!("runs/{run}/checkpoints/step_{step}/{file}")))
    }

    /// What lies in the checkpoints folders of all runs.
    pub fn checkpoints(&self) -> Vec<String> {
        let list = |dir: &Path| -> Vec<PathBuf> {
            fs::read_dir(dir).map(|d| d.map(|e| e.unwrap().path()).collect()).unwrap_or_default()
        };
        let runs = list(&self.path("runs"));
        let mut out: Vec<String> = runs
            .iter()
            .flat_map(|run| list(&run.join("checkpoints")))
            .map(|path| path.strip_prefix(self.path("runs")).unwrap().display().to_string())
            .collect();
        out.sort();
        out
    }
}

pub struct Outcome {
    pub command: String,
    pub code: Option<i32>,
    pub out: String,
    pub err: String,
    pub took: Duration,
}

impl Outcome {
    /// Ended with one message that says all of `needles`, and no panic.
    #[track_caller]
    pub fn refused(&self, needles: &[&str]) {
        let Outcome { command, err, code, .. } = self;
        assert!(matches!(code, Some(1 | 2)), "{command}: exit code {code:?}\n{err}");
        assert_eq!(err.matches("error:").count(), 1, "{command}: one message\n{err}");
        for panic in ["panicked", "RUST_BACKTRACE"] {
            assert!(!err.contains(panic), "{command}: panics\n{err}");
        }
        for needle in needles {
            assert!(err.contains(needle), "{command}\nsays\n{err}\nwithout `{needle}`");
        }
    }
}

pub struct Running {
    pub child: Child,
    command: String,
}

impl Running {
    /// Looks until `there` is so; the program must not have ended before.
    pub fn until(&mut self, there: impl Fn() -> bool) {
        let began = Instant::now();
        while !there() {
            if let Some(status) = self.child.try_wait().unwrap() {
                let said = self.stderr();
                panic!("{} ended with {status} too early\n{said}", self.command);
            }
            assert!(began.elapsed() < Duration::from_secs(60), "{} does not come so far", self.command);
            std::thread::sleep(Duration::from_millis(1));
        }
    }

    /// Until metrics.jsonl of a run has so many rows.
    pub fn until_rows(&mut self, desk: &Desk, run: &str, rows: usize) {
        let metrics = desk.path(&format!("runs/{run}/metrics.jsonl"));
        self.until(|| fs::read_to_string(&metrics).is_ok_and(|text| text.lines().count() >= rows));
    }

    pub fn signal(&self, name: &str) {
        let sent = Command::new("kill").args([&format!("-{name}"), &self.child.id().to_string()]).status().unwrap();
        assert!(sent.success());
    }

    /// Exit code (none after a kill) and what was said.
    pub fn end(mut self) -> (Option<i32>, String) {
        let err = self.stderr();
        (self.child.wait().unwrap().code(), err)
    }

    fn stderr(&mut self) -> String {
        let mut err = String::new();
        self.child.stderr.take().unwrap().read_to_string(&mut err).unwrap();
        err
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // A test that failed half-way leaves no process.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The run file of a golden.
pub fn golden_toml(name: &str) -> String {
    let (dir, g) = (golden(name), golden_json(name));
    let (schedule, adam) = (&g["schedule"], &g["adam"]);
    format!(
        r#"name = "golden"
threads = 1
[model]
init_from = {dir:?}
[data]
kind = "tokens"
path = {tokens:?}
seq_len = {seq_len}
micro_batch_size = {micro_batch_size}
[train]
steps = {steps}
micro_batches = {micro_batches}
clip_grad_norm = {clip}
[optimizer]
lr = {lr}
beta1 = {beta1}
beta2 = {beta2}
eps = {eps}
weight_decay = {weight_decay}
[lr_schedule]
kind = {kind}
min_lr = {min_lr}
warmup_steps = {warmup_steps}
"#,
        tokens = dir.join("tokens.bin"),
        seq_len = g["seq_len"],
        micro_batch_size = g["micro_batch_size"],
        micro_batches = g["micro_batches"],
        clip = g["clip"],
        steps = schedule["steps"],
        lr = schedule["lr"],
        kind = schedule["kind"],
        min_lr = schedule["min_lr"],
        warmup_steps = schedule["warmup_steps"],
        beta1 = adam["beta1"],
        beta2 = adam["beta2"],
        eps = adam["eps"],
        weight_decay = adam["weight_decay"],
    )
}

/// Documents that a small model can learn from.
pub fn stories(documents: usize) -> Vec<String> {
    const WHO: [&str; 6] = ["a fox", "the miller", "an old king", "the crow", "a child", "the river"];
    const DOES: [&str; 5] = ["sees", "calls", "follows", "forgets", "carries"];
    const WHAT: [&str; 7] = ["the moon", "a stone", "the bread", "its name", "a song", "the snow", "two coins"];
    let sentence = |i: usize| format!("{} {} {}.\n", WHO[i * 7 % 6], DOES[i * 3 % 5], WHAT[i * i % 7]);
    (0..documents).map(|d| (0..12).map(|i| sentence(d * 5 + i)).collect()).collect()
}
