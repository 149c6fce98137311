//! What a run tells: a progress bar or plain lines for a person, `metrics.jsonl` for a machine, and its curves
//! for TensorBoard.
use crate::log::{accuracy, total};
use crate::tensorboard::EventFile;
use anyhow::{Context, Result};
use exec::{Losses, StepResult, TypeSums};
use indicatif::{ProgressBar, ProgressStyle};
use serde_json::{Value, json};
use std::fs::File;
use std::io::Write;
use std::path::PathBuf;
use std::time::Duration;

/// Where a row of numbers goes.
pub struct Metrics {
    pub path: PathBuf,
    pub rows: File,
    pub events: Option<EventFile>,
}

impl Metrics {
    fn write(&mut self, row: &Value) -> Result<()> {
        // At once, so that whoever reads it, or is left with it after a kill, has whole rows.
        let written = self.rows.write_all(format!("{row}\n").as_bytes());
        written.with_context(|| format!("cannot write {}; check the space on its disk", self.path.display()))?;
        self.events.as_mut().map_or(Ok(()), |events| events.row(row))
    }
}

pub struct Report {
    metrics: Metrics,
    bar: ProgressBar,
    steps: u64,
    ranks: usize,
    flops_per_token: f64,
    memory_bytes: usize,
    /// Names of the types of tokens, if the data have types.
    types: Vec<String>,
}

/// What is told of a step besides its result.
pub struct StepFacts {
    pub step: u64,
    pub lr: f64,
    pub beta2: f64,
    /// Of the global step.
    pub micro_batches: usize,
    pub took: Duration,
    /// Label tokens since the start of training.
    pub tokens: u64,
}

impl Report {
    pub fn new(
        metrics: Metrics,
        first: u64,
        steps: u64,
        ranks: usize,
        flops_per_token: f64,
        memory_bytes: usize,
        types: Vec<String>,
    ) -> Report {
        let style = ProgressStyle::with_template("{wide_bar:.green/black} step {pos}/{len}  {msg}  ETA {eta}")
            .expect("a template");
        let bar = ProgressBar::new(steps).with_style(style);
        bar.set_position(first);
        bar.reset_eta();
        Report { metrics, bar, steps, ranks, flops_per_token, memory_bytes, types }
    }

    pub fn step(&mut self, facts: &StepFacts, result: &StepResult) -> Result<()> {
        let StepFacts { step, lr, beta2, micro_batches, took, tokens } = *facts;
        let tgs = result.losses.all.tokens / took.as_secs_f64() / self.ranks as f64;
        let loss = result.losses.all.mean();
        let tflops = tgs * self.flops_per_token / 1e12;
        let mut row = json!({
            "step": step, "loss": loss, "grad_norm": result.grad_norm, "lr": lr, "tokens": tokens,
            "tgs": tgs, "tflops": tflops, "mfu": null, "step_ms": took.as_secs_f64() * 1e3,
            "memory_bytes": self.memory_bytes, "skipped": !result.taken, "accuracy": accuracy(&total(&result.losses.types)),
            "micro_batches": micro_batches, "beta2": beta2, "loss_scale": result.loss_scale,
        });
        if !self.types.is_empty() {
            row["types"] = by_type(&self.types, &result.losses.types);
        }
        self.metrics.write(&row)?;
        let rate = tgs * self.ranks as f64;
        self.bar.set_message(format!("loss {loss:.4}  {rate:.0} tokens/s"));
        self.bar.set_position(step);
        if self.bar.is_hidden() && (step == 1 || step == self.steps || step.is_multiple_of(self.steps.div_ceil(20))) {
            let norm = result.grad_norm;
            let steps = self.steps;
            print(&format!(
                "step {step}/{steps}  loss {loss:.4}  grad_norm {norm:.3}  lr {lr:.2e}  {rate:.0} tokens/s"
            ));
        }
        Ok(())
    }

    /// A batch that `train.skip_batches` leaves out.
    pub fn left_out(&mut self, step: u64) -> Result<()> {
        self.metrics.write(&json!({ "step": step, "left_out": true }))?;
        self.bar.set_position(step);
        Ok(())
    }

    /// `set` is empty where there is only one.
    pub fn validation(&mut self, step: u64, set: &str, losses: &Losses) -> Result<()> {
        let mean = losses.all.mean();
        let mut row = json!({
            "step": step, "val_loss": mean, "val_perplexity": mean.exp(), "val_tokens": losses.all.tokens,
            "val_accuracy": accuracy(&total(&losses.types)),
        });
        let mut name = String::new();
        if !set.is_empty() {
            row["set"] = set.into();
            name = format!(" on {set}");
        }
        self.metrics.write(&row)?;
        self.say(&format!("step {step}: held-out loss{name} {mean:.4}  perplexity {:.2}", mean.exp()));
        Ok(())
    }

    /// A line above the bar.
    pub fn say(&self, line: &str) {
        if self.bar.is_hidden() { print(line) } else { self.bar.println(line) }
    }

    pub fn end(&self) {
        self.bar.abandon();
    }
}

/// Whoever read it may be gone, with a terminal that was closed, and the run goes on.
fn print(line: &str) {
    let _ = writeln!(std::io::stderr(), "{line}");
}

fn by_type(names: &[String], types: &[TypeSums]) -> Value {
    let one = |(name, sums): (&String, &TypeSums)| {
        let loss = sums.loss / sums.tokens;
        let row = json!({ "loss": loss, "perplexity": loss.exp(), "accuracy": accuracy(sums), "tokens": sums.tokens });
        (name.clone(), row)
    };
    Value::Object(names.iter().zip(types).map(one).collect())
}

/// For work of unknown length: a spinner on a terminal, a line elsewhere.
pub fn waiting(what: &str) -> ProgressBar {
    let bar = ProgressBar::new_spinner().with_message(what.to_string());
    bar.enable_steady_tick(Duration::from_millis(100));
    if bar.is_hidden() {
        eprintln!("{what}");
    }
    bar
}
