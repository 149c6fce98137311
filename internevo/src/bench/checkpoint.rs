//! `internevo bench checkpoint`: what saves and loads cost, beside the disk alone, and what saves cost a training.
//!
//! Raw writes and saves, and raw reads and loads, take turns, so that all see the same disk.
use super::shape::Preset;
use super::{disk, median};
use crate::config::Content;
use crate::job;
use crate::state::fill;
use crate::state::restore::Seed;
use crate::state::shard::Copied;
use anyhow::{Context, Result, anyhow, bail};
use checkpoint::{Save, Share, Training};
use exec::{Lanes, Rank, State, StepConfig, World};
use model::{Decoder, Phase, models};
use plan::{ParallelConfig, PipelineSchedule, Plan, RankId, StepShape};
use schedule::RankPrograms;
use serde_json::{Value, json};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::Barrier;
use std::thread;
use std::time::{Duration, Instant};

/// Time saves and loads of checkpoints beside the disk alone, and training that saves beside training that does not.
///
/// A save is all from the first file to the rename; its bytes are on the disk then. Loads begin with nothing of the files in
/// memory, into memory that was touched before, and check every bit. All layouts load the checkpoint of one rank.
#[derive(clap::Args)]
pub struct Args {
    /// What is saved
    #[arg(long, default_value = "125m")]
    preset: Preset,
    /// A folder on the disk that is measured
    #[arg(long, default_value = ".")]
    dir: PathBuf,
    /// Rounds of everything
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..))]
    rounds: u32,
    /// Pairs of trainings, one that saves in the background and one that never does; some minutes each
    #[arg(long, default_value_t = 0)]
    pairs: u32,
    /// Steps of such a training that count
    #[arg(long, default_value_t = 40, value_parser = clap::value_parser!(u32).range(1..))]
    steps: u32,
    /// Steps between its saves
    #[arg(long, default_value_t = 10, value_parser = clap::value_parser!(u32).range(1..))]
    every: u32,
    /// One JSON object
    #[arg(long)]
    json: bool,
}

/// The first saves and loads one rank; its checkpoint is what all load.
const LAYOUTS: [(&str, usize, &str); 5] = [
    ("one rank", 1, ""),
    ("tensor 2", 2, "tensor = { size = 2, mode = \"mtp\" }"),
    ("isp 2", 2, "tensor = { size = 2, mode = \"isp\" }\nweight = { size = 2 }"),
    ("pipeline 2", 2, "pipeline = { size = 2 }"),
    ("ZeRO-3, 2", 2, "zero = { stage = 3 }"),
];

pub fn main(args: &Args) -> Result<()> {
    let shape = args.preset.shape();
    let folder = args.dir.join(format!("bench-checkpoint-{}", std::process::id()));
    fs::create_dir_all(&folder).with_context(|| format!("cannot create {}", folder.display()))?;
    let folder = Folder(folder);
    let disk = measure(&shape.model, &folder.0, args.rounds)?;
    let trainings: Vec<[f64; 2]> = (0..args.pairs).map(|_| pair(args, &folder.0)).collect::<Result<_>>()?;
    if args.json {
        let layouts: serde_json::Map<_, _> =
            LAYOUTS.iter().zip(&disk.loads).map(|((name, ..), gbs)| (name.to_string(), json!(gbs))).collect();
        let row = json!({
            "parameters": shape.model.parameters(), "bytes": disk.bytes, "copy_gb_per_s": disk.copy, "raw_write_gb_per_s": disk.raw_write,
            "save_gb_per_s": disk.save, "raw_read_gb_per_s": disk.raw_read, "load_gb_per_s": layouts,
            "saving_and_not_s": trainings,
        });
        println!("{row}");
        return Ok(());
    }
    disk.report(shape.model.parameters());
    for [saving, not] in &trainings {
        println!(
            "{} steps, saved every {}: {saving:.2} s; never: {not:.2} s; {:+.1} %",
            args.steps,
            args.every,
            100.0 * (saving / not - 1.0)
        );
    }
    Ok(())
}

/// Removed at the end.
struct Folder(PathBuf);

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// GB/s.
struct Rates {
    bytes: usize,
    copy: f64,
    raw_write: f64,
    save: f64,
    raw_read: f64,
    /// By layout.
    loads: Vec<f64>,
}

impl Rates {
    fn report(&self, parameters: usize) {
        println!("{:.2} M parameters, {} a checkpoint", parameters as f64 / 1e6, job::human(self.bytes));
        println!("copy out of the rank's memory  {:>6.2} GB/s: what training stops for", self.copy);
        println!("raw write                      {:>6.2} GB/s", self.raw_write);
        println!(
            "save                           {:>6.2} GB/s, {:.0} % of it",
            self.save,
            100.0 * self.save / self.raw_write
        );
        println!("raw read                       {:>6.2} GB/s", self.raw_read);
        for ((name, ..), load) in LAYOUTS.iter().zip(&self.loads) {
            let (of_raw, times) = (100.0 * load / self.raw_read, self.loads[0] / load);
            println!("load, {name:24} {load:>6.2} GB/s, {of_raw:.0} % of it; {times:.2} times as long as one rank");
        }
    }
}

fn measure(model: &Decoder, folder: &Path, rounds: u32) -> Result<Rates> {
    let (mut copies, mut raw_writes, mut saves, mut raw_reads) = (vec![], vec![], vec![], vec![]);
    let mut loads = vec![vec![]; LAYOUTS.len()];
    let mut bytes = 0;
    for round in 0..rounds {
        let step = folder.join(format!("step_{round}"));
        let saved = launch(model, LAYOUTS[0], |rank, _| save(rank, &step))?;
        let (copied, took, of) = saved.into_iter().next().expect("one rank");
        copies.push(copied);
        saves.push(took);
        bytes = of;
        raw_writes.push(disk::write(&folder.join("raw"), bytes)?);
        let files = ["model.safetensors", "training/optimizer.safetensors"].map(|name| step.join(name));
        // What was just written may come back faster than what was written long ago.
        disk::read(&files)?;
        for i in 0..LAYOUTS.len() {
            // Each is the first once.
            let i = (i + round as usize) % LAYOUTS.len();
            raw_reads.push(disk::read(&files)?);
            disk::forget(&files)?;
            let took = launch(model, LAYOUTS[i], |rank, all| load(rank, all, &step))?;
            loads[i].push(took.into_iter().max().expect("there is a rank"));
        }
        fs::remove_dir_all(&step).with_context(|| format!("cannot remove {}", step.display()))?;
    }
    let rate = |times: &[Duration]| bytes as f64 / median(times).as_secs_f64() / 1e9;
    Ok(Rates {
        bytes,
        copy: rate(&copies),
        raw_write: rate(&raw_writes),
        save: rate(&saves),
        raw_read: rate(&raw_reads),
        loads: loads.iter().map(|times| rate(times)).collect(),
    })
}

/// Runs `body` on the ranks of a layout, each with the weights of the seed. They come to the barrier before they measure.
fn launch<T: Send>(
    model: &Decoder,
    (_, ranks, parallel): (&str, usize, &str),
    body: impl Fn(&mut Rank, &Barrier) -> Result<T> + Sync,
) -> Result<Vec<T>> {
    const TOKENS: usize = 64;
    let parallel: ParallelConfig = toml::from_str(parallel).expect("a layout of ours");
    let mesh = parallel.mesh(ranks).map_err(|problems| anyhow!(problems.join("; ")))?;
    let mut plan = Plan::new(model.clone(), mesh, backend::DType::F32, TOKENS, 0);
    plan.split = parallel.pipeline.layers.clone();
    let plan = Arc::new(plan);
    let shape = StepShape { phase: Phase::Train, t: TOKENS, micros: mesh.pipeline };
    let programs = mesh.ranks().map(|r: RankId| RankPrograms::new(&plan, r, &[shape], PipelineSchedule::OneFOneB));
    let programs = programs.collect();
    let world = World {
        plan,
        step: StepConfig::default(),
        lanes: Lanes::Direct,
        threads: (job::cores() / ranks).max(1),
        timeout: job::TIMEOUT,
        record: false,
        clock: None,
    };
    let all = Barrier::new(ranks);
    let results = world.launch(programs, |rank| {
        fill::put_params(rank, &Seed(0), job::cores())?;
        body(rank, &all)
    });
    results.into_iter().collect()
}

/// The copy, the save, and the bytes of both.
fn save(rank: &mut Rank, step: &Path) -> Result<(Duration, Duration, usize)> {
    // Memory of the first copy is touched for the first time.
    let first = Copied::of(rank, vec![]).into_values();
    let began = Instant::now();
    let copied = Copied::of(rank, first);
    let copy = began.elapsed();
    let model = &rank.plan.model;
    let began = Instant::now();
    let save = Save::create(step, model, models::directory(model), true)?;
    let mut share = Share::of(save.path(), model, models::directory(model), true);
    copied.write(&mut share)?;
    save.add(0, &share.finish()?);
    save.commit(json!({}), &json!({}))?;
    Ok((copy, began.elapsed(), copied.bytes()))
}

fn load(rank: &mut Rank, all: &Barrier, step: &Path) -> Result<Duration> {
    // The system takes its time for memory that is touched for the first time, whatever it is touched for.
    for part in rank.params() {
        let own = rank.stepped(&part);
        for state in [State::ExpAvg, State::ExpAvgSq] {
            rank.set(state, &part, own.start, &vec![0.0; own.len()]);
        }
    }
    all.wait();
    let began = Instant::now();
    let training = Training::open(step, &rank.plan.model)?;
    let told = fill::read(rank, &training, &[Content::All], (job::cores() / rank.plan.mesh.world()).max(1))?;
    all.wait();
    let took = began.elapsed();
    // Of one rank that is all; of several it is compared by the program that gathers.
    if rank.plan.mesh.world() == 1 && !training.damage([told]).is_empty() {
        bail!("what was read is not what was written");
    }
    Ok(took)
}

// ---- training ------------------------------------------------------------------------------------------------------

/// Seconds of the steps of a training that saves, and of one that does not, in turns.
fn pair(args: &Args, folder: &Path) -> Result<[f64; 2]> {
    Ok([train(args, folder, true)?, train(args, folder, false)?])
}

fn train(args: &Args, folder: &Path, saves: bool) -> Result<f64> {
    let shape = args.preset.shape();
    let (m, name) = (&shape.model, if saves { "saves" } else { "never" });
    let run: Value = json!({
        "name": name, "output": folder,
        "model": {
            "family": "llama", "vocab_size": m.vocab, "hidden_size": m.hidden, "num_hidden_layers": m.layers, "num_attention_heads": m.heads.n,
            "num_key_value_heads": m.heads.kv, "intermediate_size": m.ffn, "max_position_embeddings": shape.seq_len,
        },
        "data": { "kind": "random", "seq_len": shape.seq_len, "micro_batch_size": shape.sequences },
        // The last save is waited for: it comes after what counts.
        "train": { "steps": args.steps + args.every / 2 + 2 },
        "checkpoint": { "enabled": saves, "every": args.every, "keep_last": 1 },
        "metrics": { "tensorboard": false },
    });
    let file = folder.join(format!("{name}.toml"));
    fs::write(&file, toml::to_string(&run).expect("a table"))
        .with_context(|| format!("cannot write {}", file.display()))?;
    // Rows of an earlier one would count.
    drop(Folder(folder.join(name)));
    let program = std::env::current_exe().context("where is this program?")?;
    let mut child = Command::new(program)
        .args(["train", "--fresh", "--device", "cpu"])
        .arg(&file)
        .stderr(Stdio::null())
        .spawn()
        .context("cannot start a training")?;
    let metrics = folder.join(name).join("metrics.jsonl");
    let rows = || fs::read_to_string(&metrics).map_or(0, |text| text.lines().count());
    let mut until = |n: usize| -> Result<Instant> {
        while rows() < n {
            if let Some(status) = child.try_wait()? {
                bail!("the training of {} ended early: {status}", file.display());
            }
            thread::sleep(Duration::from_millis(1));
        }
        Ok(Instant::now())
    };
    let began = until(1)?;
    let ended = until(1 + args.steps as usize)?;
    let status = child.wait()?;
    if !status.success() {
        bail!("the training of {} failed: {status}", file.display());
    }
    Ok((ended - began).as_secs_f64())
}
