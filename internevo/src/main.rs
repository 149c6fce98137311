//! The program: command line in, one of the commands, errors out.
mod args;
mod bench;
mod config;
mod control;
mod convert_config;
mod course;
mod eval;
mod folder;
mod generate;
mod job;
mod log;
mod lr;
mod page;
mod prepare;
mod report;
mod sampling;
mod show;
mod solo;
mod state;
mod tensorboard;
mod timeline;
mod train;
mod watch;

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
    Generate(generate::Args),
    Eval(eval::Args),
    Bench(bench::Args),
    ConvertConfig(convert_config::Args),
    Plan(show::PlanArgs),
    Schedule(show::ScheduleArgs),
}

fn main() -> ExitCode {
    let cli = Cli::parse();
    if !matches!(cli.command, Command::Train(_)) {
        // Whoever reads the output may stop reading, as `head` does: that ends a command quietly, and a training not.
        let always = Arc::new(AtomicBool::new(true));
        register_conditional_shutdown(SIGPIPE, 0, always).expect("SIGPIPE can be handled");
    }
    let result = match cli.command {
        Command::Train(args) => train::main(&args),
        Command::Generate(args) => generate::main(&args),
        Command::Eval(args) => eval::main(&args),
        Command::Bench(args) => bench::main(&args),
        Command::ConvertConfig(args) => convert_config::main(&args),
        Command::Plan(args) => show::plan(&args),
        Command::Schedule(args) => show::schedule(&args),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}
