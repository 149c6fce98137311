//! `cargo xtask faults`: real processes of the real program, really killed, cut from their power and refused their disk.
//! Nothing here knows more of a checkpoint than its name; docs/faults.md says what must hold.
mod crash_points;
mod desk;
mod disk;
mod kill;
mod mount;
mod power;
mod process;
mod resume;
mod rows;
mod saves;
mod strace;
mod trials;

use crate::real_model;
use anyhow::{Context, Result, ensure};
use clap::ValueEnum;
use desk::Lab;
use std::path::{Path, PathBuf};
use trials::{Tally, Trials};

/// Break trainings that are under way, and see that they go on as if nothing had happened
///
/// Real processes of the release build on the CPU: kill -9 at random moments, a kill at each system call of a save, power
/// cuts of an ext4 in a file, and a disk that is full, fails or has become read-only. Prints a table; a failure prints how
/// to run it again alone, and leaves its folder in target/faults. Needs strace, and root for file systems of its own.
#[derive(clap::Args)]
pub struct Args {
    /// All kinds, if none is named
    kinds: Vec<Kind>,
    /// Faults of each kind [default: 1000 kills, 200 power cuts, and every point of a save]
    #[arg(long)]
    count: Option<usize>,
    /// What all that is random follows from
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Break this program [default: the release build, which is made]
    #[arg(long, value_name = "FILE")]
    program: Option<PathBuf>,
    /// Only the fault of this number, as a failure names it
    #[arg(long, value_name = "NUMBER", requires = "kinds", conflicts_with = "count")]
    only: Option<usize>,
}

#[derive(Clone, Copy, PartialEq, ValueEnum)]
pub enum Kind {
    /// kill -9 of all ranks at random moments
    Kill,
    /// A kill at each system call of a save that changes the disk
    CrashPoints,
    /// Only what has reached the disk is left
    Power,
    /// System calls of a save fail, or the disk is full
    Disk,
}

impl Kind {
    fn name(self) -> String {
        self.to_possible_value().expect("no kind is hidden").get_name().to_string()
    }

    /// Why it cannot run here, if so.
    pub fn skipped(self) -> Option<String> {
        process::lacks().or_else(|| match self {
            Kind::Kill => None,
            Kind::CrashPoints => strace::lacks(),
            Kind::Power | Kind::Disk => strace::lacks().or_else(mount::lacks),
        })
    }

    fn run(self, lab: &Lab, trials: &Trials) -> Result<Tally> {
        match self {
            Kind::Kill => kill::main(lab, trials),
            Kind::CrashPoints => crash_points::main(lab, trials),
            Kind::Power => power::main(lab, trials),
            Kind::Disk => disk::main(lab, trials),
        }
    }
}

pub fn main(root: &Path, args: &Args) -> Result<()> {
    let kinds = if args.kinds.is_empty() { Kind::value_variants() } else { &args.kinds };
    let absent: Vec<String> = kinds.iter().filter_map(|kind| kind.skipped()).collect();
    ensure!(absent.is_empty(), "{}; name the kinds that do not need it", absent.join("; "));
    let trials = Trials { count: args.count, seed: args.seed, only: args.only };
    let program = match &args.program {
        Some(program) => program.canonicalize().with_context(|| format!("cannot find {}", program.display()))?,
        None => real_model::build(root)?,
    };
    tallied(root, &program, kinds, &trials)
}

/// As part of the optional suites: few faults, the same in every run.
pub fn suite(root: &Path, kind: Kind) -> Result<()> {
    let count = match kind {
        Kind::Kill => 40,
        Kind::CrashPoints => 30,
        Kind::Power => 10,
        Kind::Disk => 60,
    };
    tallied(root, &real_model::build(root)?, &[kind], &Trials { count: Some(count), seed: 1, only: None })
}

fn tallied(root: &Path, program: &Path, kinds: &[Kind], trials: &Trials) -> Result<()> {
    let mut failed = vec![];
    let mut table = vec![];
    for kind in kinds {
        let lab = Lab::new(root, program, kind.name())?;
        match kind.run(&lab, trials) {
            Ok(tally) if tally.failed == 0 => table.push(tally.to_string()),
            Ok(tally) => {
                failed.push(kind.name());
                table.push(tally.to_string());
            }
            Err(error) => {
                failed.push(kind.name());
                table.push(format!("{:12} FAILED: {error:#}", kind.name()));
            }
        }
    }
    println!("{}", table.join("\n"));
    ensure!(failed.is_empty(), "{} did what must not be; see above", failed.join(", "));
    Ok(())
}
