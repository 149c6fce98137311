//! `internevo checkpoint`: what lies in checkpoints, and whether it is what was written.
use crate::folder::checkpoint_at;
use crate::job::{self, human};
use anyhow::{Context, Result, bail};
use checkpoint::{CheckpointError, Inspection};
use clap::{Args as ClapArgs, Subcommand};
use indicatif::{ProgressBar, ProgressStyle};
use model::models;
use serde_json::{Value, json};
use std::path::{Path, PathBuf};

/// Look into checkpoints, or check them to the last bit.
///
/// A checkpoint is a folder step_N or snapshot_N of a run's checkpoints: a Hugging Face directory with the training state
/// beside it.
#[derive(ClapArgs)]
pub struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Model, step, layout, files and tensors of a checkpoint, of the newest of a run, or of any Hugging Face directory
    Inspect(InspectArgs),
    /// Read checkpoints to the last bit and compare them with their checksums; damage is named with file, tensor and bytes
    ///
    /// Exits with 1 if anything is not what was written.
    Verify(VerifyArgs),
}

#[derive(ClapArgs)]
struct InspectArgs {
    /// A checkpoint, a run's folder, or a Hugging Face directory
    path: PathBuf,
    /// Every tensor: type, shape, file and bytes
    #[arg(long)]
    tensors: bool,
    /// For machines
    #[arg(long)]
    json: bool,
}

#[derive(ClapArgs)]
struct VerifyArgs {
    /// Checkpoints, or folders of runs with all of theirs
    #[arg(required = true)]
    paths: Vec<PathBuf>,
    /// For machines: one object a checkpoint
    #[arg(long)]
    json: bool,
}

pub fn main(args: &Args) -> Result<()> {
    match &args.command {
        Command::Inspect(args) => inspect(args),
        Command::Verify(args) => verify(args),
    }
}

// ---- inspect -------------------------------------------------------------------------------------------------------

fn inspect(args: &InspectArgs) -> Result<()> {
    let path = checkpoint_at(&args.path)?;
    let found = checkpoint::inspect(&path)?;
    if args.json {
        println!("{}", as_json(&path, &found));
        return Ok(());
    }
    println!("{}", path.display());
    if let (Some(about), Some(state)) = (&found.about, &found.state) {
        let text = |key: &str| about[key].as_str().unwrap_or("?").to_string();
        println!(
            "  step {} of run {}, by {} on {} ranks ({})",
            about["step"],
            text("run"),
            text("program"),
            about["ranks"],
            text("layout")
        );
        let (scheduler, optimizer) = (&state["scheduler"], &state["optimizer"]);
        println!(
            "  {} label tokens, {} updates, {} steps skipped, {} micro-batches of the data",
            scheduler["tokens"], optimizer["updates"], scheduler["skipped"], state["sampler"]["micro_batches"]
        );
    } else {
        println!("  weights alone; a run can begin from them with model.init_from");
    }
    let m = &found.decoder;
    println!(
        "  {}: {} layers, hidden {}, {} heads ({} kv) of {}, ffn {}, vocabulary {}: {:.2} M parameters",
        models::to_json(m, m.family)["model_type"].as_str().unwrap_or("?"),
        m.layers,
        m.hidden,
        m.heads.n,
        m.heads.kv,
        m.heads.dim,
        m.ffn,
        m.vocab,
        m.parameters() as f64 / 1e6
    );
    for (name, bytes) in &found.files {
        let tensors = found.tensors.iter().filter(|row| row.file == *name).count();
        let tensors = if tensors > 0 { format!("  {tensors} tensors") } else { String::new() };
        println!("  {:>10}  {name}{tensors}", human(*bytes as usize));
    }
    for row in found.tensors.iter().filter(|_| args.tensors) {
        println!(
            "  {:4} {:>16}  {}  {}: {}..{}",
            row.dtype,
            format!("{:?}", row.shape),
            row.name,
            row.file,
            row.bytes.start,
            row.bytes.end
        );
    }
    Ok(())
}

fn as_json(path: &Path, found: &Inspection) -> Value {
    let tensors: Vec<Value> = found
        .tensors
        .iter()
        .map(|row| {
            let bytes = [row.bytes.start, row.bytes.end];
            json!({ "name": row.name, "dtype": row.dtype, "shape": row.shape, "file": row.file, "bytes": bytes })
        })
        .collect();
    let files: serde_json::Map<_, _> = found.files.iter().map(|(name, bytes)| (name.clone(), json!(bytes))).collect();
    json!({
        "path": path, "about": found.about, "state": found.state, "parameters": found.decoder.parameters(),
        "config": models::to_json(&found.decoder, found.decoder.family), "files": files, "tensors": tensors,
    })
}

// ---- verify --------------------------------------------------------------------------------------------------------

fn verify(args: &VerifyArgs) -> Result<()> {
    let (mut broken, mut all) = (0, 0);
    for path in args.paths.iter().map(|path| checkpoints(path)).collect::<Result<Vec<_>>>()?.into_iter().flatten() {
        let bar = ProgressBar::no_length().with_message(path.display().to_string());
        bar.set_style(
            ProgressStyle::with_template("{msg}  {bytes}/{total_bytes}  {bytes_per_sec}").expect("a template"),
        );
        let problems = checkpoint::verify(&path, job::cores(), &|done, of| {
            bar.set_length(of);
            bar.set_position(done);
        });
        bar.finish_and_clear();
        (broken, all) = (broken + usize::from(!problems.is_empty()), all + 1);
        let problems: Vec<String> = problems.iter().map(CheckpointError::to_string).collect();
        match (args.json, problems.is_empty()) {
            (true, whole) => println!("{}", json!({ "path": path, "whole": whole, "problems": problems })),
            (false, true) => println!("{}: whole", path.display()),
            (false, false) => problems.iter().for_each(|problem| println!("{problem}")),
        }
    }
    match broken {
        0 => Ok(()),
        n => bail!("{n} of {all} checkpoints are not what was written"),
    }
}

/// The one that is named, or all of a run.
fn checkpoints(path: &Path) -> Result<Vec<PathBuf>> {
    if path.join("config.json").exists() || path.join("training").exists() {
        return Ok(vec![path.into()]);
    }
    let inside = path.join("checkpoints");
    let found = checkpoint::list(if inside.is_dir() { &inside } else { path })?;
    let paths: Vec<PathBuf> = found.into_iter().map(|found| found.path).collect();
    let any = (!paths.is_empty()).then_some(paths);
    any.with_context(|| format!("{} is no checkpoint and has none; give a folder step_N, or a run's", path.display()))
}
