//! `cargo xtask`: the jobs of this repository that are not `cargo build` or `cargo test`. One file a job.
mod code;
mod emulated;
mod families;
mod faults;
mod fine_tune;
mod fuzz;
mod goldens;
mod gpu_check;
mod kernels;
mod mpi;
mod mutants;
mod python;
mod real_model;
mod schedules;
mod suites;
mod tidy;
mod torch_step;

use anyhow::{Context, Result};
use clap::{Parser, Subcommand};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};

/// Jobs of this repository: checks, golden data, comparisons with PyTorch.
#[derive(Parser)]
#[command(name = "cargo xtask", bin_name = "cargo xtask", max_term_width = 100)]
struct Cli {
    #[command(subcommand)]
    job: Job,
}

#[derive(Subcommand)]
enum Job {
    /// Check the house rules that rustc and clippy do not know
    ///
    /// One line for each violation: file:line, the rule, and a way out. The rules: which crate may depend on which, where
    /// `unsafe` may stand, no unfinished code, short files that open with a doc comment, no paths of one machine, no
    /// links to files that are not there.
    Tidy,
    /// Run the optional test suites whose needs are present
    ///
    /// Prints `ran`, or `skipped` with the reason, for each. What is absent never fails; what runs may. The Python is
    /// `python3`, or what the environment variable INTERNEVO_PYTHON names.
    Suites {
        /// Only these: `kernels`, `card-training-of-all-models`
        names: Vec<String>,
    },
    Goldens(goldens::Args),
    /// Put mistakes into the CPU kernels, one at a time, and fail if the tests of `backend` miss one
    ///
    /// In a copy of the repository, target/mutants. Prints which test caught it; all of them take half an hour.
    Mutants {
        /// Only those of files whose name begins like this, `attention` or `outer`
        #[arg(default_value = "")]
        files: String,
    },
    Fuzz(fuzz::Args),
    RealModel(real_model::Args),
    FineTune(fine_tune::Args),
    Schedules(schedules::Args),
    TorchStep(torch_step::Args),
    GpuCheck(gpu_check::Args),
    Faults(faults::Args),
}

fn main() -> ExitCode {
    let cli = Cli::parse();
    let result = repository().and_then(|root| match &cli.job {
        Job::Tidy => tidy::main(&root),
        Job::Suites { names } => suites::main(&root, names),
        Job::Goldens(args) => goldens::main(&root, args),
        Job::Mutants { files } => mutants::main(&root, files),
        Job::Fuzz(args) => fuzz::main(&root, args),
        Job::RealModel(args) => real_model::main(&root, args),
        Job::FineTune(args) => fine_tune::main(&root, args),
        Job::Schedules(args) => schedules::main(&root, args),
        Job::TorchStep(args) => torch_step::main(&root, args),
        Job::GpuCheck(args) => gpu_check::main(&root, args),
        Job::Faults(args) => faults::main(&root, args),
    });
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// The folder above this crate's.
fn repository() -> Result<PathBuf> {
    let xtask = std::env::var_os("CARGO_MANIFEST_DIR").context("start it as `cargo xtask`")?;
    Ok(Path::new(&xtask).parent().expect("a crate lies in the repository").to_path_buf())
}

/// The Cargo that runs us, in the repository.
fn cargo(root: &Path) -> Command {
    let mut cargo = Command::new(std::env::var_os("CARGO").unwrap_or("cargo".into()));
    cargo.current_dir(root);
    cargo
}

#[test]
fn the_command_line_is_well_formed() {
    use clap::CommandFactory;
    Cli::command().debug_assert();
}
