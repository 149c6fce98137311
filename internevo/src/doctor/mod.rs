//! `internevo doctor`: what this machine has and what is missing, to read and to paste into a bug report.
mod cards;
mod machine;

use crate::device::{Device, DeviceArg};
use crate::job::human;
use anyhow::{Result, bail};
use cards::CardReport;
pub use cards::Sizes;
use cuda::Nvml;
use machine::{Found, Machine};
use serde::Serialize;

/// What this machine has, what is missing and how to get it; with a card, how fast it is.
///
/// Measures each card, or the one that is asked for, and compares it with what a card of its name reaches. Paste the output
/// into a bug report: it names no files of yours but the folders of libraries. Fails only where the device that was asked
/// for cannot be used.
#[derive(clap::Args)]
pub struct Args {
    #[command(flatten)]
    on: DeviceArg,
    /// Small sizes: a sign of life within seconds, that says nothing about speed
    #[arg(long)]
    quick: bool,
    /// One JSON object
    #[arg(long)]
    json: bool,
}

#[derive(Serialize)]
struct Report {
    version: &'static str,
    #[serde(flatten)]
    machine: Machine,
    nvml: Found,
    cards: Vec<CardReport>,
}

pub fn main(args: &Args) -> Result<()> {
    let asked = args.on.or(Device::Auto)?;
    let nvml = Nvml::open();
    let sizes = if args.quick { Sizes::QUICK } else { Sizes::FULL };
    let cards = cards::all(asked, sizes, nvml.as_ref().ok());
    let report = Report {
        version: env!("CARGO_PKG_VERSION"),
        machine: Machine::look(),
        nvml: Found::new("NVML", nvml.map(|nvml| (format!("driver {}", nvml.driver), String::new()))),
        cards: cards.as_ref().map_or_else(|_| vec![], Vec::clone),
    };
    if args.json {
        println!("{}", serde_json::to_string(&report)?);
    } else {
        report.print();
    }
    if let Device::Card(ordinal) = asked {
        let why = match &cards {
            Ok(cards) => match cards.iter().find(|card| card.ordinal == ordinal) {
                Some(card) => card.unusable.clone(),
                None => Some(format!("there is no card {ordinal}: {} of them are visible", cards.len())),
            },
            Err(why) => Some(why.clone()),
        };
        if let Some(why) = why {
            bail!("device {asked}: {why}");
        }
    }
    Ok(())
}

/// A row of the table.
fn row(name: &str, value: impl AsRef<str>) {
    println!("{name:14} {}", value.as_ref());
}

impl Report {
    fn print(&self) {
        let Machine { system, cpu, memory, mpi, libraries, kernels } = &self.machine;
        row("internevo", format!("{}, {system}", self.version));
        row("CPU", format!("{}, {} cores, {}", cpu.model, cpu.cores, cpu.instructions));
        if let Some(memory) = memory {
            row("memory", format!("{}, {} free", human(memory.total_bytes), human(memory.free_bytes)));
        }
        for Found { name, version, path, missing } in [mpi].into_iter().chain(libraries).chain([&self.nvml]) {
            match missing {
                None if path.is_empty() => row(name, version),
                None => row(name, format!("{version}, {path}")),
                Some(missing) => row(name, format!("missing: {missing}")),
            }
        }
        row(
            "kernel cache",
            match &kernels.folder {
                Some(folder) => format!("{} kernels, {}, in {folder}", kernels.number, human(kernels.bytes)),
                None => "none: neither INTERNEVO_CACHE nor HOME is set, so kernels are compiled anew each time".into(),
            },
        );
        if self.cards.is_empty() {
            row("cards", "none");
        }
        self.cards.iter().for_each(CardReport::print);
    }
}
