//! `internevo bench`: how fast this machine does it, and where the time goes.
mod checkpoint;
mod decode;
mod disk;
mod limits;
mod ops;
mod shape;
mod step;
mod timed;
mod traffic;

use anyhow::Result;
use clap::Subcommand;
use std::time::Duration;

/// Measure this machine on a model.
///
/// Times are medians. Other programs disturb them: compare only what ran side by side, a few times over.
#[derive(clap::Args)]
pub struct Args {
    #[command(subcommand)]
    what: What,
}

#[derive(Subcommand)]
enum What {
    Step(step::Args),
    Ops(ops::Args),
    Decode(decode::Args),
    Checkpoint(checkpoint::Args),
}

pub fn main(args: &Args) -> Result<()> {
    match &args.what {
        What::Step(args) => step::main(args),
        What::Ops(args) => ops::main(args),
        What::Decode(args) => decode::main(args),
        What::Checkpoint(args) => checkpoint::main(args),
    }
}

fn median(times: &[Duration]) -> Duration {
    let mut sorted = times.to_vec();
    sorted.sort_unstable();
    sorted[sorted.len() / 2]
}

/// The most memory this process ever had, as Linux counts it; elsewhere nothing is known.
fn peak_memory() -> Option<usize> {
    let text = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = text.lines().find_map(|l| l.strip_prefix("VmHWM:"))?;
    line.trim().strip_suffix("kB")?.trim().parse::<usize>().ok().map(|kib| kib << 10)
}
