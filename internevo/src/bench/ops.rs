//! `internevo bench ops`: every operation of a layer alone, beside what the device could do.
//!
//! The operations are those of a training step of a model with one layer, noted by a device that does nothing. Of those that
//! differ in nothing but where their tensors are, one is timed.
use super::limits::{Limits, time};
use super::shape::{Preset, Shape};
use super::timed::{Log, Timed};
use super::traffic::traffic;
use crate::config::Precision;
use crate::device::{Device, DeviceArg, Numerics, On};
use crate::job;
use anyhow::Result;
use backend::{Backend, DType, Meta, Op, View, draw, upload};
use exec::{Comms, Hyper, Rank};
use plan::{Micro, RankId, Res};
use serde_json::{Value, json};
use std::sync::Arc;

/// Time every operation of one layer, each alone.
///
/// Products and attention are compared with a large product, measured before, and with the card's data sheet; everything else
/// with the speed of a copy. An operation goes through copies of its tensors by turns, so that no cache holds them.
#[derive(clap::Args)]
pub struct Args {
    /// A shape, of which one layer, the embedding and the head are taken
    #[arg(long, default_value = "125m")]
    preset: Preset,
    /// Tokens of a sequence, by default as the preset has it
    #[arg(long, value_parser = clap::value_parser!(u32).range(2..))]
    seq_len: Option<u32>,
    /// Numbers of parameters and activations: f32, tf32, bf16, f16 or f64
    #[arg(long, default_value_t = Precision::F32)]
    precision: Precision,
    /// Gradients of parameters in another type than f32: that of 16-bit parameters
    #[arg(long)]
    grads: Option<Precision>,
    #[command(flatten)]
    on: DeviceArg,
    /// Compute threads; by default one a core
    #[arg(long, value_parser = clap::value_parser!(u16).range(1..=4096))]
    threads: Option<u16>,
    /// What operations are compared with is measured on small sizes, which says nothing about the device
    #[arg(long)]
    quick: bool,
    /// One JSON object
    #[arg(long)]
    json: bool,
}

pub fn main(args: &Args) -> Result<()> {
    let mut shape = args.preset.shape();
    shape.model.layers = 1;
    shape.precision = args.precision;
    shape.grads = args.grads;
    shape.seq_len = args.seq_len.map_or(shape.seq_len, |len| len as usize);
    let threads = args.threads.map_or_else(job::cores, usize::from);
    let numerics = Numerics { f32: shape.precision.products(), ..Numerics::default() };
    let on = On::open(args.on.or(Device::Auto)?, numerics)?;
    let limits = Limits::measure(&on, shape.precision, threads, args.quick)?;
    let (inputs, kinds) = kinds(&shape)?;
    let mut rows = vec![];
    for Kind { op, calls } in kinds {
        let put = |dev: &mut dyn Backend, view: View, place: View| fill(dev, view, place, &inputs);
        rows.push(Row::new(op.name().into(), op, calls, time(&on, op, threads, put)?, &on, &limits));
        // What cuDNN does is also ours to do, where it is not there.
        if let (On::Card(site), Op::Attention { .. } | Op::AttentionBackward { .. }) = (&on, &op)
            && site.facts.cudnn.is_some()
        {
            let ours = On::Card(site.without_cudnn("to be compared"));
            let name = format!("{}, our own", op.name());
            rows.push(Row::new(name, op, calls, time(&ours, op, threads, put)?, &ours, &limits));
        }
    }
    if args.json {
        println!("{}", report(&shape, &on, &limits, &rows));
    } else {
        print(&shape, &on, &limits, &rows);
    }
    Ok(())
}

struct Kind {
    op: Op,
    /// In a step of the model with one layer.
    calls: usize,
}

/// The tokens of a micro-batch.
struct Tokens {
    slab: Vec<u32>,
    at: View,
}

/// The operations of a step, each kind once, in the order in which they come first.
fn kinds(shape: &Shape) -> Result<(Tokens, Vec<Kind>)> {
    let (plan, programs) = shape.programs()?;
    let tokens = Tokens { slab: shape.random_slab(), at: programs.programs[0].memory.view(Res::Batch(Micro(0))) };
    let log = Log::default();
    let dev = Timed::new(Box::new(Meta::new(programs.sizes())), log.clone());
    let programs = Arc::new(programs.programs);
    let mut rank = Rank::new(RankId(0), plan, programs, Box::new(dev), Comms::default(), shape.step.clone());
    log.begin();
    exec::run(&mut rank, 0, Hyper { lr: 3e-4, step: 1 }, &mut |_| tokens.slab.clone())?;
    let mut kinds: Vec<Kind> = vec![];
    let same = |a: &Op, b: &Op| a.name() == b.name() && a.flops() == b.flops() && tensors(a) == tensors(b);
    for spent in log.end() {
        match kinds.iter_mut().find(|kind| same(&kind.op, &spent.op)) {
            Some(kind) => kind.calls += 1,
            None => kinds.push(Kind { op: spent.op, calls: 1 }),
        }
    }
    Ok((tokens, kinds))
}

/// Types and lengths, read and written.
fn tensors(op: &Op) -> [Vec<(DType, usize)>; 2] {
    let (reads, writes) = op.views();
    [reads, writes].map(|views| views.iter().map(|view| (view.dtype, view.len)).collect())
}

/// Integers are those of the micro-batch, scalars are one, everything else is random.
fn fill(dev: &mut dyn Backend, view: View, place: View, tokens: &Tokens) {
    const SCALARS: usize = 16;
    match view.dtype {
        DType::U32 => {
            let at = (view.offset - tokens.at.offset) / DType::U32.bytes();
            upload(dev, &tokens.slab[at..at + view.len], place);
        }
        DType::F64 if view.len <= SCALARS => upload(dev, &vec![1.0; view.len], place),
        _ => draw(dev, place),
    }
}

/// What an operation is measured against.
#[derive(Clone, Copy, PartialEq)]
enum Limit {
    /// Arithmetic, as a large product does it.
    Product,
    /// Attention's arithmetic is no single product: the goal is a number of its own.
    Attention,
    Copy,
    /// So little is moved that starting it is most of it.
    Start,
}

/// Operations that move fewer bytes are over before the memory is busy.
const SMALL: usize = 8 << 20;

struct Row {
    name: String,
    op: Op,
    calls: usize,
    seconds: f64,
    limit: Limit,
    /// Operations or bytes a second.
    rate: f64,
    /// Of the large product or the copy.
    of_measured: f64,
    of_nominal: Option<f64>,
    /// What the rate should be.
    goal: Option<f64>,
}

impl Row {
    fn new(name: String, op: Op, calls: usize, seconds: f64, on: &On, limits: &Limits) -> Row {
        let limit = match op {
            Op::Linear { .. } | Op::LinearBackwardInput { .. } | Op::LinearBackwardWeight { .. } => Limit::Product,
            Op::Attention { .. } | Op::AttentionBackward { .. } => Limit::Attention,
            _ if traffic(&op) < SMALL => Limit::Start,
            _ => Limit::Copy,
        };
        let (work, most) = match limit {
            Limit::Product | Limit::Attention => (arithmetic(&op), limits.arithmetic),
            Limit::Copy | Limit::Start => (traffic(&op) as f64, limits.copy),
        };
        let rate = work / seconds;
        let goal = match limit {
            // Those of a CPU are of whole steps: docs/performance.md.
            _ if !on.is_card() => None,
            Limit::Product => Some(0.95 * limits.arithmetic),
            Limit::Copy => Some(0.9 * limits.copy),
            Limit::Attention => attention_goal(&op, on),
            Limit::Start => None,
        };
        let of_nominal = limits.nominal.filter(|_| matches!(limit, Limit::Product | Limit::Attention));
        let of_nominal = of_nominal.map(|most| rate / most);
        Row { name, op, calls, seconds, limit, rate, of_measured: rate / most, of_nominal, goal }
    }

    fn unit(&self, on: &On) -> (f64, &'static str) {
        match self.limit {
            Limit::Product | Limit::Attention => flops_unit(on),
            Limit::Copy | Limit::Start => (1e9, "GB/s"),
        }
    }
}

/// What numbers of arithmetic are told in.
fn flops_unit(on: &On) -> (f64, &'static str) {
    if on.is_card() { (1e12, "TFLOP/s") } else { (1e9, "GFLOP/s") }
}

/// The backward of attention makes the scores again: five products, and those who publish speeds count all of them.
fn arithmetic(op: &Op) -> f64 {
    match op {
        Op::AttentionBackward { .. } => op.flops() * 5.0 / 4.0,
        _ => op.flops(),
    }
}

/// Of a Hopper card in 16 bits, heads of 128, from 4096 tokens on.
fn attention_goal(op: &Op, on: &On) -> Option<f64> {
    let (qkv, heads, goal) = match *op {
        Op::Attention { qkv, heads, .. } => (qkv, heads, 560e12),
        Op::AttentionBackward { qkv, heads, .. } => (qkv, heads, 450e12),
        _ => return None,
    };
    let On::Card(site) = on else { return None };
    let long = heads.dim == 128 && qkv.len / heads.qkv() >= 4096 && qkv.dtype.bytes() == 2;
    (long && cuda::usual(&site.card.name).is_some()).then_some(goal)
}

/// Of a product its dimensions, of others what they move.
fn what(op: &Op) -> String {
    match *op {
        Op::Linear { dims: [t, d, f], .. } => format!("{t} x {d} x {f}"),
        Op::LinearBackwardInput { dims: [t, d, f], .. } => format!("{t} x {f} x {d}"),
        Op::LinearBackwardWeight { dims: [t, d, f], .. } => format!("{f} x {t} x {d}"),
        Op::Attention { qkv, heads, .. } | Op::AttentionBackward { qkv, heads, .. } => {
            format!("{} tokens, {}/{} x {}", qkv.len / heads.qkv(), heads.n, heads.kv, heads.dim)
        }
        _ => job::human(traffic(op)),
    }
}

fn report(shape: &Shape, on: &On, limits: &Limits, rows: &[Row]) -> Value {
    let row = |row: &Row| {
        let (unit, name) = row.unit(on);
        json!({
            "operation": row.name, "what": what(&row.op), "calls": row.calls, "us": row.seconds * 1e6,
            "rate": row.rate / unit, "unit": name, "of_measured": row.of_measured, "of_nominal": row.of_nominal,
            "goal": row.goal.map(|goal| goal / unit), "met": row.goal.map(|goal| row.rate >= goal),
        })
    };
    json!({
        "on": on.name(), "precision": shape.precision, "tokens": shape.tokens(), "seq_len": shape.seq_len,
        "copy_gb_per_s": limits.copy / 1e9, "product_flops": limits.arithmetic,
        "nominal_flops": limits.nominal, "operations": rows.iter().map(row).collect::<Vec<_>>(),
    })
}

fn print(shape: &Shape, on: &On, limits: &Limits, rows: &[Row]) {
    println!(
        "one layer, embedding and head, {} sequences of {}, {}, on {}",
        shape.sequences,
        shape.seq_len,
        shape.precision,
        on.name()
    );
    println!("a copy             {:>9.1} GB/s, read and written", limits.copy / 1e9);
    let whose = if on.is_card() { "a large product" } else { "in registers" };
    let (unit, name) = flops_unit(on);
    println!("{whose:18} {:>9.1} {name}", limits.arithmetic / unit);
    if let Some(nominal) = limits.nominal {
        println!("data sheet         {:>9.1} {name}", nominal / unit);
    }
    println!(
        "\n{:32} {:28} {:>5} {:>10} {:>10} {:8} {:>10} {:>8}  goal",
        "operation", "what", "calls", "us", "rate", "", "% measured", "% sheet"
    );
    for row in rows {
        let (unit, name) = row.unit(on);
        let percent = |part: f64| format!("{:.1}", 100.0 * part);
        let goal = match row.goal {
            Some(goal) if row.rate >= goal => format!("{:.2} met", goal / unit),
            Some(goal) => format!("{:.2}", goal / unit),
            None => String::new(),
        };
        println!(
            "{:32} {:28} {:>5} {:>10.1} {:>10.2} {name:8} {:>10} {:>8}  {goal}",
            row.name,
            what(&row.op),
            row.calls,
            row.seconds * 1e6,
            row.rate / unit,
            percent(row.of_measured),
            row.of_nominal.map_or(String::new(), percent)
        );
    }
}
