//! What a run tells: a progress bar or plain lines for a person, `metrics.jsonl` for a machine, and its curves
//! for TensorBoard.
use crate::tensorboard::EventFile;
use anyhow::{Context, Result};
use exec::{Loss, StepResult};
use indicatif::{ProgressBar, ProgressStyle};
use serde_json::{Value, json};
use std::fs::File;
use std::io::Write;
use std::time::{Duration, Instant};

/// Where a row of numbers goes.
pub struct Metrics {
    pub rows: File,
    pub events: Option<EventFile>,
}

impl Metrics {
    fn write(&mut self, row: &Value) -> Result<()> {
        writeln!(self.rows, "{row}").context("cannot write metrics.jsonl")?;
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
    /// Label tokens since the start of training.
    pub tokens: u64,
    began: Instant,
}

impl Report {
    pub fn new(
        metrics: Metrics,
        first: u64,
        steps: u64,
        ranks: usize,
        flops_per_token: f64,
        memory_bytes: usize,
        tokens: u64,
    ) -> Report {
        let style = ProgressStyle::with_template("{wide_bar:.green/black} step {pos}/{len}  {msg}  ETA {eta}")
            .expect("a template");
        let bar = ProgressBar::new(steps).with_style(style);
        bar.set_position(first);
        bar.reset_eta();
        Report { metrics, bar, steps, ranks, flops_per_token, memory_bytes, tokens, began: Instant::now() }
    }

    /// A step begins.
    pub fn begin(&mut self) {
        self.began = Instant::now();
    }

    pub fn step(&mut self, step: u64, lr: f64, result: &StepResult) -> Result<()> {
        let took = self.began.elapsed();
        let tgs = result.loss.tokens / took.as_secs_f64() / self.ranks as f64;
        self.tokens += result.loss.tokens as u64;
        let loss = result.loss.mean();
        let tflops = tgs * self.flops_per_token / 1e12;
        self.metrics.write(&json!({
            "step": step, "loss": loss, "grad_norm": result.grad_norm, "lr": lr, "tokens": self.tokens,
            "tgs": tgs, "tflops": tflops, "mfu": null, "step_ms": took.as_secs_f64() * 1e3,
            "memory_bytes": self.memory_bytes, "skipped": !result.taken,
        }))?;
        let rate = tgs * self.ranks as f64;
        self.bar.set_message(format!("loss {loss:.4}  {rate:.0} tokens/s"));
        self.bar.set_position(step);
        if self.bar.is_hidden() && (step == 1 || step == self.steps || step.is_multiple_of(self.steps.div_ceil(20))) {
            let norm = result.grad_norm;
            eprintln!(
                "step {step}/{}  loss {loss:.4}  grad_norm {norm:.3}  lr {lr:.2e}  {rate:.0} tokens/s",
                self.steps
            );
        }
        if !result.taken {
            self.say(&format!(
                "step {step}: the gradient is not finite (norm {}); the step was skipped",
                result.grad_norm
            ));
        }
        Ok(())
    }

    pub fn validation(&mut self, step: u64, loss: Loss) -> Result<()> {
        let mean = loss.mean();
        self.metrics.write(
            &json!({ "step": step, "val_loss": mean, "val_perplexity": mean.exp(), "val_tokens": loss.tokens }),
        )?;
        self.say(&format!("step {step}: held-out loss {mean:.4}  perplexity {:.2}", mean.exp()));
        Ok(())
    }

    /// A line above the bar.
    pub fn say(&self, line: &str) {
        if self.bar.is_hidden() { eprintln!("{line}") } else { self.bar.println(line) }
    }

    pub fn end(&self) {
        self.bar.abandon();
    }
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
