//! `cargo xtask real-model`: `internevo` and transformers on the same checkpoints, one they trained and one we did.
use crate::cargo;
use crate::python::{Python, TRANSFORMERS, json, quietly};
use anyhow::{Context, Result, bail, ensure};
use serde_json::{Value, from_value};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// Compare with transformers on a real model (SmolLM2-135M, downloaded) and on a checkpoint trained here
///
/// The real model: the loss of a passage must agree to 1e-4, and a greedy continuation token for token. The checkpoint
/// trained here: transformers opens it as it lies on disk, and its tokenizer, loss and most likely next token must agree.
/// Downloads 93 MB, and without --python also PyTorch. Everything is kept in target/real-model.
#[derive(clap::Args)]
pub struct Args {
    /// An interpreter that has torch and transformers 5, and to convert the model pip, gguf, safetensors, tokenizers and
    /// numpy; it is not changed [default: a virtual environment made in target/real-model]
    #[arg(long)]
    python: Option<PathBuf>,
    /// Where the converted model is, or will be [default: target/real-model/smollm2]
    #[arg(long)]
    dir: Option<PathBuf>,
}

const CONVERSION: &[&str] = &["torch", "transformers>=5", "safetensors", "tokenizers", "gguf", "numpy", "pip"];
/// Of a loss in nats per token, float32 here and there.
const TOLERANCE: f64 = 1e-4;

pub fn main(root: &Path, args: &Args) -> Result<()> {
    let folder = ready(root, args)?;
    let python = interpreter(root, args, TRANSFORMERS)?;
    let internevo = build(root)?;
    let results = [smollm2(&internevo, root, &folder), trained_checkpoint(&internevo, root, &python)];
    results.into_iter().collect()
}

/// The folder of the model, which is made if it is not there.
pub fn ready(root: &Path, args: &Args) -> Result<PathBuf> {
    let folder = args.dir.clone().unwrap_or_else(|| default_folder(root));
    if !is_converted(&folder) {
        let python = interpreter(root, args, CONVERSION)?;
        println!("making {} of SmolLM2-135M", folder.display());
        quietly(python.script(root, "smollm2.py").arg(&folder))?;
    }
    Ok(folder)
}

fn interpreter(root: &Path, args: &Args, needs: &'static [&'static str]) -> Result<Python> {
    let python = match &args.python {
        Some(_) => Python::find(args.python.as_deref()),
        None => Python::environment(&scratch(root).join("venv"), needs)?,
    };
    python.require(needs)?;
    Ok(python)
}

fn scratch(root: &Path) -> PathBuf {
    root.join("target/real-model")
}
pub fn default_folder(root: &Path) -> PathBuf {
    scratch(root).join("smollm2")
}
/// The script writes this file last.
pub fn is_converted(folder: &Path) -> bool {
    folder.join("expected.json").exists()
}

/// The release build of the program.
pub fn build(root: &Path) -> Result<PathBuf> {
    let flags = ["build", "--release", "--package", "internevo", "--message-format", "json-render-diagnostics"];
    let out = cargo(root).args(flags).stderr(Stdio::inherit()).output().context("cargo does not start")?;
    ensure!(out.status.success(), "internevo does not build");
    let messages = String::from_utf8(out.stdout)?;
    let program = |line: &str| Some(PathBuf::from(serde_json::from_str::<Value>(line).ok()?["executable"].as_str()?));
    messages.lines().find_map(program).context("cargo built no program")
}

/// A model that others trained: our numbers against those that transformers left beside it.
pub fn smollm2(internevo: &Path, root: &Path, folder: &Path) -> Result<()> {
    let path = folder.join("expected.json");
    let text = fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))?;
    let expected: Value = serde_json::from_str(&text).with_context(|| format!("{} is not JSON", path.display()))?;
    let (passage, greedy) = (&expected["passage"], &expected["greedy"]);
    let mut checks = Checks::of("SmolLM2-135M");

    let file = write(root, "passage.txt", passage["text"].as_str().context("expected.json has no passage")?)?;
    let eval = json(Command::new(internevo).arg("eval").arg(folder).arg("--text").arg(&file).arg("--json"), "")?;
    checks.same("tokens of the passage", &eval["tokens"], &(ids(&passage["ids"])?.len() - 1).into());
    checks.close("loss of the passage", &eval["loss"], &passage["loss"])?;

    let (prompt, wanted) = (ids(&greedy["ids"])?, ids(&greedy["continuation"])?);
    let generate = json(
        Command::new(internevo)
            .arg("generate")
            .arg(folder)
            .args(["--prompt", greedy["prompt"].as_str().context("expected.json has no prompt")?])
            .args(["--max-new-tokens", &wanted.len().to_string(), "--json"]),
        "",
    )?;
    checks.same("tokens of the prompt", &generate["prompt_tokens"], &greedy["ids"]);
    checks.same("greedy continuation", &generate["tokens"], &greedy["continuation"]);
    checks.same("its text", &generate["text"], &greedy["text"]);
    let rate = |tokens: usize, key: &str| tokens as f64 / generate[key].as_f64().unwrap_or(f64::NAN);
    println!(
        "     prefill {:.1} tokens/s, decode {:.1} tokens/s",
        rate(prompt.len(), "prefill_seconds"),
        rate(wanted.len() - 1, "decode_seconds")
    );
    checks.end()
}

/// Big enough to have every part of a LLaMA, small enough to train in seconds.
const RUN: &str = r#"
name = "small"
output = "target/real-model"
[model]
family = "llama"
hidden_size = 64
num_hidden_layers = 2
num_attention_heads = 4
num_key_value_heads = 2
intermediate_size = 160
max_position_embeddings = 1024
[tokenizer]
vocab_size = 512
[data]
kind = "text"
path = "LICENSE"
seq_len = 64
micro_batch_size = 4
[train]
steps = 40
[optimizer]
lr = 5e-3
"#;

/// A model that we trained: what transformers makes of its checkpoint against our own numbers.
pub fn trained_checkpoint(internevo: &Path, root: &Path, python: &Python) -> Result<()> {
    let mut checks = Checks::of("a LLaMA trained here");
    let run = write(root, "small.toml", RUN)?;
    quietly(Command::new(internevo).current_dir(root).arg("train").arg(run).arg("--fresh"))?;
    let checkpoint = scratch(root).join("small/checkpoints/step_40");

    let license = fs::read_to_string(root.join("LICENSE")).context("cannot read LICENSE")?;
    let passage = &license[..license.floor_char_boundary(1500)];
    let file = write(root, "license.txt", passage)?;
    let eval = json(Command::new(internevo).arg("eval").arg(&checkpoint).arg("--text").arg(file).arg("--json"), "")?;
    let next = json(
        Command::new(internevo).arg("generate").arg(&checkpoint).args([
            "--prompt",
            passage,
            "--max-new-tokens",
            "1",
            "--ignore-eos",
            "--json",
            "--logits",
        ]),
        "",
    )?;

    let prompt = &next["prompt_tokens"];
    let theirs = json(python.script(root, "open_checkpoint.py").arg(&checkpoint).arg("-"), &prompt.to_string())?;
    checks.same("tokens of the passage", &eval["tokens"], &(ids(prompt)?.len() - 1).into());
    checks.same("their text, by the other's tokenizer", &passage.into(), &theirs["decoded"][0]);
    checks.close("loss of the passage", &eval["loss"], &theirs["loss"][0])?;
    let numbers = |row: &Value| from_value::<Vec<f64>>(row.clone()).context("no logits after the passage");
    let (ours, logits) = (numbers(&next["logits"])?, numbers(&theirs["logits"][0])?);
    checks.logits(&ours, &logits);
    let best = (0..logits.len()).max_by(|a, b| logits[*a].total_cmp(&logits[*b]));
    checks.same("most likely next token", &next["tokens"][0], &best.into());
    checks.end()
}

fn ids(value: &Value) -> Result<Vec<u32>> {
    from_value(value.clone()).with_context(|| format!("{value} is not a list of token ids"))
}

fn write(root: &Path, name: &str, text: &str) -> Result<PathBuf> {
    let folder = scratch(root);
    let path = folder.join(name);
    fs::create_dir_all(&folder)
        .and_then(|()| fs::write(&path, text))
        .with_context(|| format!("cannot write {}", path.display()))?;
    Ok(path)
}

/// Lines of PASS and FAIL: all are printed before the first failure ends it.
struct Checks {
    subject: &'static str,
    failed: usize,
}

impl Checks {
    fn of(subject: &'static str) -> Checks {
        Checks { subject, failed: 0 }
    }

    fn line(&mut self, pass: bool, what: &str, numbers: &str) {
        println!("{} {}: {what}{numbers}", if pass { "PASS" } else { "FAIL" }, self.subject);
        self.failed += usize::from(!pass);
    }

    fn same(&mut self, what: &str, ours: &Value, theirs: &Value) {
        let pass = ours == theirs;
        self.line(pass, what, &if pass { ": the same".into() } else { format!(": {ours} here, {theirs} there") });
    }

    fn close(&mut self, what: &str, ours: &Value, theirs: &Value) -> Result<()> {
        let (Some(a), Some(b)) = (ours.as_f64(), theirs.as_f64()) else {
            bail!("{what}: {ours} or {theirs} is missing")
        };
        let apart = (a - b).abs();
        self.line(apart <= TOLERANCE, what, &format!(": {a:.6} here, {b:.6} there, {apart:.1e} apart"));
        Ok(())
    }

    /// (V) each: equal to 1e-5 of the largest, as the numerics contract says of f32.
    fn logits(&mut self, ours: &[f64], theirs: &[f64]) {
        let largest = theirs.iter().fold(0.0, |a: f64, b| a.max(b.abs()));
        let apart = ours.iter().zip(theirs).fold(0.0, |a: f64, (x, y)| a.max((x - y).abs())) / largest;
        let pass = ours.len() == theirs.len() && apart <= 1e-5;
        self.line(
            pass,
            "logits after the passage",
            &format!(": {apart:.1e} of the largest apart, of {}", theirs.len()),
        );
    }

    fn end(self) -> Result<()> {
        ensure!(self.failed == 0, "{}: {} checks failed", self.subject, self.failed);
        Ok(())
    }
}
