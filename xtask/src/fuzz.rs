//! `cargo xtask fuzz`: damaged files, as many as are asked for, through every reader of the program.
use crate::cargo;
use crate::python::succeed;
use anyhow::Result;
use std::path::Path;

/// Give every reader of files damaged ones: no panic, no hang, no memory without bound
///
/// The targets and what damages their inputs are in internevo/tests/fuzz. An input follows from target, seed and number: each
/// failure is printed with the command that makes it again. Ten thousand of each target take a minute of CPU, a million as much as one and a half hours.
#[derive(clap::Args)]
pub struct Args {
    /// One target: `weights`, `tokenizer`, ...; a name that is none lists them [default: all]
    target: Option<String>,
    /// Inputs of each target
    #[arg(long, default_value_t = COUNT)]
    count: u64,
    #[arg(long, default_value_t = SEED)]
    seed: u64,
    /// This one input alone, which is left in a folder to be looked at
    #[arg(long)]
    number: Option<u64>,
}

const COUNT: u64 = 10_000;
const SEED: u64 = 1;

pub fn main(root: &Path, args: &Args) -> Result<()> {
    let mut cargo = cargo(root);
    cargo.args(["test", "--release", "--locked", "--package", "internevo", "--bin", "internevo", "--"]);
    cargo.args(["--exact", "fuzz::every_reader_takes_hostile_files", "--nocapture"]);
    cargo.env("INTERNEVO_FUZZ_COUNT", args.count.to_string()).env("INTERNEVO_FUZZ_SEED", args.seed.to_string());
    cargo.envs(args.target.iter().map(|target| ("INTERNEVO_FUZZ_TARGET", target)));
    cargo.envs(args.number.iter().map(|number| ("INTERNEVO_FUZZ_NUMBER", number.to_string())));
    succeed(&mut cargo)
}

/// Limits of processes and what they take are asked of Linux.
pub fn skipped() -> Option<String> {
    (!cfg!(target_os = "linux")).then(|| "the limits of its processes are those of Linux".into())
}

pub fn suite(root: &Path) -> Result<()> {
    main(root, &Args { target: None, count: COUNT, seed: SEED, number: None })
}
