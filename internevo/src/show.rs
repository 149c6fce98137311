//! `internevo plan` and `internevo schedule`: a run on paper.
use crate::args::RunFile;
use crate::config::RunConfig;
use crate::job::{self, Beside, Job, human};
use crate::page;
use anyhow::{Context, Result, bail};
use checkpoint::HfDir;
use data::Tokenizer;
use model::Decoder;
use plan::RankId;
use schedule::{Program, RankPrograms, pipeline, text};
use serde_json::json;
use std::io::{BufWriter, Write, stdout};
use std::path::PathBuf;

/// What a run will need: parameters, FLOPs per token, memory by kind. Nothing is loaded or run.
#[derive(clap::Args)]
pub struct PlanArgs {
    #[command(flatten)]
    run: RunFile,
    /// One JSON object
    #[arg(long)]
    json: bool,
}

/// Print the step of a run: the passes of each stage, then every rank's actions in order.
///
/// The output can be edited and run with `internevo train RUN.toml --program FILE`: a legal reordering gives the same
/// bits, an illegal one is refused by name. With --html nothing is printed but a summary.
#[derive(clap::Args)]
// A measured step has no run file.
#[command(mut_arg("config", |config| config.required(false)))]
pub struct ScheduleArgs {
    #[command(flatten)]
    run: Option<RunFile>,
    /// Only this rank
    #[arg(long)]
    rank: Option<usize>,
    /// Write a page that shows the step in time: all ranks and lanes, simulated
    #[arg(long, value_name = "FILE")]
    html: Option<PathBuf>,
    /// On which machine: h100, h200, cpu, or a TOML file like those of profiles/
    #[arg(long, default_value = "h100", value_name = "NAME", requires = "html")]
    profile: String,
    /// Show a step that was measured: what metrics.trace_steps wrote. Takes no run file
    #[arg(long, value_name = "JSON", requires = "html")]
    trace: Option<PathBuf>,
}

fn job(file: &RunFile) -> Result<(RunConfig, Job)> {
    let run = file.load()?;
    let decoder = decoder(&run)?;
    let job = Job::new(&run, decoder, 1, file.ranks()).with_context(|| file.config.display().to_string())?;
    Ok((run, job))
}

/// The shape alone. A tokenizer that is still to be trained is taken at the size it is asked for.
pub fn decoder(config: &RunConfig) -> Result<Decoder> {
    if let Some(dir) = &config.model.init_from {
        return Ok(config.model.beside(HfDir::open(dir)?.decoder().clone()));
    }
    let vocab = match (config.model.vocab_size, &config.tokenizer.path, config.tokenizer.vocab_size) {
        (Some(n), ..) | (None, None, Some(n)) => n,
        (None, Some(path), _) => Tokenizer::load(path)?.vocab_size(),
        (None, None, None) => bail!("model.vocab_size is missing; give it, tokenizer.path or tokenizer.vocab_size"),
    };
    Ok(config.model.decoder(vocab))
}

pub fn plan(args: &PlanArgs) -> Result<()> {
    let (config, job) = job(&args.run)?;
    let (plan, seq_len) = (&job.plan, config.data.seq_len);
    let programs = job.stage_programs()?;
    let kinds = programs
        .iter()
        .map(|of| job::memory_by_kind(of, Beside { workspace: job::WORKSPACE, copy: job.copy_bytes(&config) }))
        .max_by_key(|k| job::total(k))
        .expect("a world has a rank");
    let (parameters, flops) = (plan.model.parameters(), plan.model.flops_per_token(seq_len));
    let live = programs.iter().flat_map(|r| &r.programs).map(|p| p.memory.live).max().unwrap_or(0);
    let total = job::total(&kinds);
    if args.json {
        let mut memory: serde_json::Map<_, _> =
            kinds.iter().map(|(kind, bytes)| (kind.to_string(), json!(bytes))).collect();
        memory.insert("total".into(), json!(total));
        let row = json!({
            "parameters": parameters, "flops_per_token": flops, "memory_bytes": memory, "activation_bound_bytes": live,
            "ranks": plan.mesh.world(), "data": plan.mesh.data, "pipeline": plan.mesh.pipeline,
            "tensor": plan.mesh.tensor.size, "tensor_mode": plan.mesh.tensor.mode, "weight": plan.mesh.weight,
            "zero": plan.mesh.zero,
            "micro_batches": job.full().micros, "tokens_per_step": job.tokens_per_step(),
            "actions": programs[0].programs[job.train.len() - 1].actions.len(),
        });
        println!("{row}");
        return Ok(());
    }
    let m = &plan.model;
    println!(
        "{}: {} layers, hidden {}, {} heads ({} kv) of {}, ffn {}, vocabulary {}",
        config.name, m.layers, m.hidden, m.heads.n, m.heads.kv, m.heads.dim, m.ffn, m.vocab
    );
    println!("parameters       {parameters:>16}  ({:.2} M)", parameters as f64 / 1e6);
    println!("FLOPs per token  {:>16.0}  ({:.3} G, forward and backward at {seq_len} tokens)", flops, flops / 1e9);
    println!(
        "tokens per step  {:>16}  ({} ranks: {}; {} micro-batches of {} tokens a rank)",
        job.tokens_per_step(),
        plan.mesh.world(),
        plan.mesh,
        job.full().micros,
        job.full().t
    );
    println!("memory of the largest rank");
    for (kind, bytes) in &kinds {
        println!("  {kind:14} {:>12}", human(*bytes));
    }
    println!("  {:14} {:>12}", "total", human(total));
    println!(
        "activations: {} planned, {} alive at most at once",
        human(kinds.iter().find(|(k, _)| *k == "activations").map_or(0, |k| k.1)),
        human(live)
    );
    Ok(())
}

pub fn schedule(args: &ScheduleArgs) -> Result<()> {
    let run = match (&args.run, &args.trace) {
        (None, Some(trace)) => return page::measured(trace, args.html.as_ref().expect("clap requires it")),
        (Some(_), Some(_)) => bail!("--trace shows what was measured and needs no run file; leave out one of them"),
        (None, None) => bail!("which run? give its file, as in `internevo schedule RUN.toml`"),
        (Some(run), None) => run,
    };
    let (config, job) = job(run)?;
    if let Some(file) = &args.html {
        return page::simulated(&config, &job, &args.profile, file);
    }
    let (plan, shape) = (&job.plan, job.full());
    let ranks = plan.mesh.world();
    if args.rank.is_some_and(|r| r >= ranks) {
        bail!("--rank {}: there are {ranks} ranks, numbered from 0", args.rank.unwrap_or_default());
    }
    let stages: Vec<Program> = job
        .stage_programs()?
        .into_iter()
        .map(|mut r: RankPrograms| r.programs.swap_remove(job.train.len() - 1))
        .collect();
    println!(
        "# {}: one training step on {ranks} ranks ({}), {} micro-batches a rank",
        config.name, plan.mesh, shape.micros
    );
    for rank in (0..plan.mesh.pipeline).map(|place| plan.mesh.first(place)) {
        let passes = pipeline::order(job.policy, plan.mesh, rank, shape.micros);
        let own: Vec<String> = plan.mesh.stages_of(rank).map(|stage| stage.0.to_string()).collect();
        println!("# stage {}: {}", own.join(", "), passes.iter().map(|p| p.to_string()).collect::<Vec<_>>().join(" "));
    }
    let wanted = args.rank.map_or(0..ranks, |rank| rank..rank + 1);
    let mut out = BufWriter::new(stdout().lock());
    for rank in wanted.map(RankId) {
        text::print_rank(plan, rank, &stages[plan.mesh.place(rank)].actions, &mut out)?;
    }
    out.flush()?;
    Ok(())
}
