//! The program: command line in, one of the commands, errors out.
mod alike;
mod args;
mod bench;
mod config;
mod control;
mod convert_config;
mod course;
mod device;
mod doctor;
mod environment;
mod eval;
mod folder;
#[cfg(all(test, target_os = "linux"))]
#[path = "../tests/fuzz/mod.rs"]
mod fuzz;
mod generate;
mod inspect;
mod job;
mod launch;
mod log;
mod lr;
mod nearest;
mod page;
mod prepare;
mod report;
mod sampling;
mod show;
mod solo;
mod state;
mod stop_file;
mod tensorboard;
mod timeline;
mod train;
mod watch;
mod world;

use clap::{Parser, Subcommand};
use signal_hook::consts::SIGPIPE;
use signal_hook::flag::register_conditional_shutdown;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

/// Pre-trains and fine-tunes large language models. One TOML per run; docs/ has a page for each command.
#[derive(Parser)]
#[command(version, max_term_width = 100)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    Train(train::Args),
    Launch(launch::Args),
    Generate(generate::Args),
    Eval(eval::Args),
    Checkpoint(inspect::Args),
    Bench(bench::Args),
    Doctor(doctor::Args),
    ConvertConfig(convert_config::Args),
    Plan(show::PlanArgs),
    Schedule(show::ScheduleArgs),
}

fn main() -> ExitCode {
    launch::follow_launcher();
    let cli = Cli::parse();
    if !matches!(cli.command, Command::Train(_) | Command::Launch(_)) {
        // Whoever reads the output may stop reading, as `head` does: that ends a command quietly, but no training.
        let always = Arc::new(AtomicBool::new(true));
        register_conditional_shutdown(SIGPIPE, 0, always).expect("SIGPIPE can be handled");
    }
    let result = match cli.command {
        Command::Train(args) => train::main(&args),
        Command::Launch(args) => launch::main(&args),
        Command::Generate(args) => generate::main(&args),
        Command::Eval(args) => eval::main(&args),
        Command::Checkpoint(args) => inspect::main(&args),
        Command::Bench(args) => bench::main(&args),
        Command::Doctor(args) => doctor::main(&args),
        Command::ConvertConfig(args) => convert_config::main(&args),
        Command::Plan(args) => show::plan(&args),
        Command::Schedule(args) => show::schedule(&args),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            error.downcast_ref::<launch::Failed>().map_or(ExitCode::FAILURE, |failed| failed.code().into())
        }
    }
}
