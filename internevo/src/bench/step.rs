//! `internevo bench step`: a training step, its parts, and what its matrix products alone cost.
//!
//! Steps, steps with every operation timed, and the products of a step alone, one after the other with nothing between
//! them, take turns: all three see the same machine.
use super::shape::{Preset, Shape};
use super::timed::{Log, Spent, Timed};
use super::traffic::traffic;
use super::{median, peak_memory};
use crate::config::{Precision, RunConfig};
use crate::device::{Device, DeviceArg, Numerics, On};
use crate::job::{self, human};
use crate::show;
use crate::state::fill;
use crate::state::restore::Seed;
use anyhow::Result;
use backend::{Cpu, Meta, Op, Sizes};
use cuda::F32Products;
use exec::{Hyper, Lanes, Rank, StepConfig, World};
use plan::Recompute;
use serde_json::json;
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::{Duration, Instant};

/// Time a training step on random tokens, and its parts.
///
/// "Products alone" are the matrix products of the step (attention's are not among them), replayed one after the other on
/// the same memory: what is above them is the price of everything else.
#[derive(clap::Args)]
pub struct Args {
    /// A run file; its model, micro-batch and context are taken, on one rank
    #[arg(required_unless_present = "preset")]
    config: Option<PathBuf>,
    /// A shape to compare with others
    #[arg(long, conflicts_with = "config")]
    preset: Option<Preset>,
    /// Override a key of the run file, as in --set data.seq_len=256
    #[arg(long = "set", value_name = "KEY.PATH=VALUE", requires = "config")]
    set: Vec<String>,
    /// Steps that count, of each kind
    #[arg(long, default_value_t = 10, value_parser = clap::value_parser!(u32).range(1..))]
    steps: u32,
    #[command(flatten)]
    on: DeviceArg,
    /// Numbers of parameters and activations: f32, tf32, bf16, f16 or f64; by default f32, or as the run file says
    #[arg(long)]
    precision: Option<Precision>,
    /// Gradients of parameters in another type than f32: that of 16-bit parameters
    #[arg(long)]
    grads: Option<Precision>,
    /// So many layers, where a card has no memory for all; everything that is told is of the smaller model
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..))]
    layers: Option<u32>,
    /// Micro-batches of a step
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..=4096))]
    micro_batches: u16,
    /// Make all activations again in the backward
    #[arg(long)]
    recompute: bool,
    /// Compute threads; by default one a core
    #[arg(long, value_parser = clap::value_parser!(u16).range(1..=4096))]
    threads: Option<u16>,
    /// One JSON object
    #[arg(long)]
    json: bool,
}

/// Rounds of arithmetic alone: some 20 milliseconds.
const SPIN: usize = 300_000;
/// Steps that do not count: memory is touched for the first time, clocks settle.
const WARM_UP: u32 = 2;

pub fn main(args: &Args) -> Result<()> {
    let mut shape = match (&args.config, args.preset) {
        (_, Some(preset)) => preset.shape(),
        (Some(config), None) => {
            let run = RunConfig::load(config, &args.set)?;
            let model = show::decoder(&run)?;
            let step = StepConfig { optimizer: run.optimizer.clone(), ..StepConfig::default() };
            Shape {
                model,
                seq_len: run.data.seq_len,
                sequences: run.data.micro_batch_size,
                step,
                precision: run.precision.params,
                grads: run.precision.grads,
                recompute: run.memory.recompute,
                micros: 1,
            }
        }
        (None, None) => unreachable!("clap asks for one of the two"),
    };
    shape.micros = args.micro_batches.into();
    shape.precision = args.precision.unwrap_or(shape.precision);
    shape.grads = args.grads.or(shape.grads);
    shape.model.layers = args.layers.map_or(shape.model.layers, |layers| layers as usize);
    if args.recompute {
        shape.recompute = Recompute::Layers(1.0);
    }
    let threads = args.threads.map_or_else(job::cores, usize::from);
    let numerics = Numerics { f32: shape.precision.products(), ..Numerics::default() };
    let on = On::open(args.on.or(Device::Auto)?, numerics)?;
    let mut bench = Bench::new(&shape, threads, &on)?;
    let peak = Peak::of(&on, shape.precision, threads);
    measure(&mut bench, args.steps, &peak)?.report(&shape, &on, &peak, args.json);
    Ok(())
}

struct Bench {
    rank: Rank,
    log: Log,
    slab: Vec<u32>,
    step: u64,
}

impl Bench {
    fn new(shape: &Shape, threads: usize, on: &On) -> Result<Bench> {
        let (plan, programs) = shape.programs()?;
        job::check_memory(on, None, (&plan, &shape.step), (std::slice::from_ref(&programs), 0), 1, |_, _| {
            "try a smaller micro-batch".into()
        })?;
        let world = World {
            plan,
            step: shape.step.clone(),
            lanes: Lanes::Direct,
            threads,
            timeout: Duration::ZERO,
            record: false,
            clock: None,
        };
        let (mut rank, log) = (on.solo(&world, programs)?, Log::default());
        let device = std::mem::replace(&mut rank.dev, Box::new(Meta::new(Sizes::default())));
        rank.dev = Box::new(Timed::new(device, log.clone()));
        fill::put_params(&mut rank, &Seed(0), threads)?;
        Ok(Bench { rank, log, slab: shape.random_slab(), step: 0 })
    }

    fn step(&mut self) -> Result<Duration> {
        self.step += 1;
        let began = Instant::now();
        exec::run(&mut self.rank, 0, Hyper { lr: 3e-4, step: self.step }, &mut |_| self.slab.clone())?;
        let result = self.rank.step_result(0);
        assert!(result.taken, "the step was skipped: gradient norm {}", result.grad_norm);
        Ok(began.elapsed())
    }

    /// A step whose operations are timed.
    fn timed_step(&mut self) -> Result<Vec<Spent>> {
        self.log.begin();
        self.step()?;
        Ok(self.log.end())
    }

    /// The products of a step alone. They write activations and gradients, which the next step writes anew.
    fn products(&mut self, step: &[Spent]) -> Duration {
        let products: Vec<Op> = step.iter().filter_map(|spent| product(&spent.op)).collect();
        let began = Instant::now();
        products.into_iter().for_each(|op| self.rank.dev.run(op));
        self.rank.dev.synchronize();
        began.elapsed()
    }
}

/// The matrix product that an operation is.
fn product(op: &Op) -> Option<Op> {
    match *op {
        Op::Linear { x, w, y, dims, .. } => Some(Op::Linear { x, w, add: None, y, dims }),
        Op::LinearBackwardInput { .. } | Op::LinearBackwardWeight { .. } => Some(*op),
        _ => None,
    }
}

/// What one kind of operation cost in each timed step.
#[derive(Default)]
struct Kind {
    times: Vec<Duration>,
    calls: usize,
    bytes: usize,
    flops: f64,
}

fn by_kind(steps: &[Vec<Spent>]) -> Vec<(&'static str, Kind)> {
    let mut kinds: BTreeMap<&'static str, Kind> = BTreeMap::new();
    for (i, step) in steps.iter().enumerate() {
        for Spent { op, time } in step {
            let kind = kinds.entry(op.name()).or_default();
            kind.times.resize(i + 1, Duration::ZERO);
            kind.times[i] += *time;
            if i == 0 {
                kind.calls += 1;
                kind.bytes += traffic(op);
                kind.flops += op.flops();
            }
        }
    }
    let mut kinds: Vec<_> = kinds.into_iter().collect();
    kinds.sort_by_key(|(_, kind)| std::cmp::Reverse(median(&kind.times)));
    kinds
}

/// What a step could reach at most.
enum Peak {
    /// Arithmetic alone, measured.
    Cpu(Cpu),
    /// What its maker promises of a card, FLOP/s, if that is known.
    Card(Option<f64>),
}

impl Peak {
    fn of(on: &On, precision: Precision, threads: usize) -> Peak {
        match on {
            On::Cpu => Peak::Cpu(Cpu::new(Sizes::default(), threads)),
            On::Card(site) => {
                let tf32 = precision.products() == F32Products::Tf32;
                Peak::Card(cuda::nominal(&site.card.name, precision.dtype(), tf32))
            }
        }
    }

    /// GFLOP/s.
    fn measure(&self) -> Option<f64> {
        match self {
            Peak::Cpu(units) => {
                let (began, flops) = (Instant::now(), units.spin(SPIN));
                Some(flops / began.elapsed().as_secs_f64() / 1e9)
            }
            Peak::Card(nominal) => nominal.map(|flops| flops / 1e9),
        }
    }

    fn is_of(&self) -> &'static str {
        match self {
            Peak::Cpu(_) => "in registers",
            Peak::Card(_) => "of the card's data sheet",
        }
    }
}

/// The most that this process had, or what of a card is taken, by whomever: a run takes all of its memory before it begins.
fn memory(on: &On) -> Option<usize> {
    match on {
        On::Cpu => peak_memory(),
        On::Card(site) => Some(site.card.memory - site.card.free()),
    }
}

struct Results {
    step: Duration,
    best: Duration,
    products: Duration,
    /// GFLOP/s, the most that was seen.
    peak: Option<f64>,
    kinds: Vec<(&'static str, Kind)>,
}

fn measure(bench: &mut Bench, steps: u32, peak: &Peak) -> Result<Results> {
    let (mut whole, mut products, mut timed, mut most) = (vec![], vec![], vec![], None);
    for i in 0..WARM_UP + steps {
        let (step, spent) = (bench.step()?, bench.timed_step()?);
        let alone = bench.products(&spent);
        if i >= WARM_UP {
            whole.push(step);
            most = peak.measure().into_iter().chain(most).max_by(f64::total_cmp);
            products.push(alone);
            timed.push(spent);
        }
    }
    let best = *whole.iter().min().expect("there are steps");
    let (step, products) = (median(&whole), median(&products));
    Ok(Results { step, best, products, peak: most, kinds: by_kind(&timed) })
}

impl Results {
    fn report(&self, shape: &Shape, on: &On, peak: &Peak, json: bool) {
        let (tokens, seconds) = (shape.tokens_per_step() as f64, self.step.as_secs_f64());
        let millis = |d: Duration| d.as_secs_f64() * 1e3;
        let flops = shape.model.flops_per_token(shape.seq_len) * tokens;
        let in_products: f64 = self.kinds.iter().filter(|(n, _)| n.starts_with("linear")).map(|(_, k)| k.flops).sum();
        let (rate, alone) = (tokens / seconds, in_products / self.products.as_secs_f64() / 1e9);
        let over = seconds / self.products.as_secs_f64();
        let gflops = flops / seconds / 1e9;
        if json {
            let kinds: serde_json::Map<_, _> =
                self.kinds.iter().map(|(name, k)| (name.to_string(), json!(millis(median(&k.times))))).collect();
            let row = json!({
                "parameters": shape.model.parameters(), "tokens_per_step": shape.tokens_per_step(), "on": on.name(), "precision": shape.precision,
                "step_ms": millis(self.step), "best_step_ms": millis(self.best), "tokens_per_s": rate,
                "products_ms": millis(self.products), "step_over_products": over, "gflops": gflops,
                "products_gflops": alone, "peak_gflops": self.peak, "mfu": self.peak.map(|peak| gflops / peak), "peak_memory_bytes": memory(on), "operations_ms": kinds,
            });
            println!("{row}");
            return;
        }
        println!(
            "{:.2} M parameters, {} x {} sequences of {}, {}, on {}",
            shape.model.parameters() as f64 / 1e6,
            shape.micros,
            shape.sequences,
            shape.seq_len,
            shape.precision,
            on.name()
        );
        println!("step            {:>9.1} ms  (best {:.1})", millis(self.step), millis(self.best));
        println!("tokens/s        {rate:>9.0}     {gflops:.0} GFLOP/s of useful work");
        println!(
            "products alone  {:>9.1} ms  {alone:.0} GFLOP/s; the step takes {over:.2} times that",
            millis(self.products)
        );
        if let Some(most) = self.peak {
            println!(
                "peak            {most:>9.0} GFLOP/s {}: products {:.1} % of it, the step {:.1} % (MFU)",
                peak.is_of(),
                100.0 * alone / most,
                100.0 * gflops / most
            );
        }
        if let Some(bytes) = memory(on) {
            println!("peak memory     {:>12}", human(bytes));
        }
        println!("\n{:24} {:>6} {:>9} {:>7} {:>9} {:>7}", "operation", "calls", "ms", "%", "GFLOP/s", "GB/s");
        for (name, kind) in &self.kinds {
            let time = median(&kind.times).as_secs_f64();
            println!(
                "{name:24} {:>6} {:>9.2} {:>7.1} {:>9.1} {:>7.1}",
                kind.calls,
                time * 1e3,
                100.0 * time / seconds,
                kind.flops / time / 1e9,
                kind.bytes as f64 / time / 1e9
            );
        }
    }
}
