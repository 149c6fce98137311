//! `internevo launch`: starts the ranks of a job on this host, as processes of this program.
mod output;
mod ranks;

pub use ranks::Failed;

use crate::{environment, world};
use anyhow::{Context, Result, bail};
use comm::launch::{Launch, MARK, SECRET};
use comm::store::Secret;
use ranks::Ranks;
use rustix::process::{Pid, Signal, getpid, getppid, kill_process};
use std::ffi::OsString;
use std::net::{Ipv4Addr, TcpListener};
use std::os::fd::OwnedFd;
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

/// How often a rank looks for its launcher.
const LOOK: Duration = Duration::from_millis(500);

/// Start N processes of this program on this host, as the ranks of one job.
///
/// Each process runs COMMAND and is told its rank in the variables that torchrun sets (RANK, WORLD_SIZE, LOCAL_RANK,
/// MASTER_ADDR, MASTER_PORT), with a secret of the job in INTERNEVO_JOB_SECRET. Rank 0 prints as if it were alone; lines
/// of the others begin with [rank]. Ctrl-C and SIGTERM go to all ranks, which may save and end. When a rank fails the
/// others are ended, and the exit code is that of the first that failed.
///
/// Several hosts need a launcher that starts processes on all of them: with GPUs torchrun, mpirun or srun, with CPUs
/// mpirun or srun. They start `internevo train` directly, without `internevo launch`; docs/launch.md has the commands.
#[derive(clap::Args)]
#[command(after_help = "Examples:
  internevo launch -n 2 train run.toml
  internevo launch -n 2 --meet             test that ranks find each other
  mpirun -n 2 internevo launch --show      what does this launcher say?")]
pub struct Args {
    /// Processes to start
    #[arg(short = 'n', long = "ranks", value_name = "N", value_parser = clap::value_parser!(u16).range(1..), required_unless_present_any = ["show", "meet"])]
    ranks: Option<u16>,
    /// Start nothing; print which launcher has started this process, and as which rank
    #[arg(long, conflicts_with_all = ["ranks", "meet", "command"])]
    show: bool,
    /// As --show, and meet the other ranks: a test of addresses, ports and the secret
    #[arg(long, conflicts_with = "command")]
    meet: bool,
    /// Time to end by themselves, for the other ranks when one has failed
    #[arg(long, value_name = "SECONDS", default_value_t = 10)]
    grace: u64,
    /// Start another program, which starts this one (a profiler, numactl)
    #[arg(long, value_name = "FILE")]
    exe: Option<PathBuf>,
    /// What each process runs: a command of internevo with its options
    #[arg(trailing_var_arg = true, allow_hyphen_values = true, required_unless_present_any = ["show", "meet"])]
    command: Vec<OsString>,
}

pub fn main(args: &Args) -> Result<()> {
    match (args.ranks, args.show, args.meet) {
        (None, true, _) => show(),
        (None, false, _) => meet(),
        (Some(ranks), _, false) => start(args, ranks, &args.command),
        (Some(ranks), _, true) => start(args, ranks, &["launch".into(), "--meet".into()]),
    }
}

fn start(args: &Args, ranks: u16, command: &[OsString]) -> Result<()> {
    let around = world::detect()?;
    if around.world > 1 {
        bail!("{around}, which starts the ranks already: give it the command without `internevo launch -n {ranks}`");
    }
    let exe = match &args.exe {
        Some(exe) => exe.clone(),
        None => std::env::current_exe().context("cannot find this program's own file")?,
    };
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).context("no free port on the loopback")?;
    let port = listener.local_addr()?.port();
    let secret = world::secret()?.unwrap_or_else(Secret::random);
    // Only rank 0 listens: if it is gone, nobody waits for it.
    let mut listener = Some(listener);
    let commands = (0..ranks).map(|rank| {
        let mut process = Command::new(&exe);
        process.args(command).env(MARK, std::process::id().to_string()).env(SECRET, secret.as_str());
        process.envs(
            [("RANK", rank), ("LOCAL_RANK", rank), ("WORLD_SIZE", ranks), ("LOCAL_WORLD_SIZE", ranks)]
                .map(|(name, number)| (name, number.to_string())),
        );
        process.env("MASTER_ADDR", Ipv4Addr::LOCALHOST.to_string()).env("MASTER_PORT", port.to_string());
        process.env_remove("TORCHELASTIC_USE_AGENT_STORE");
        process.stdin(listener.take().map_or_else(Stdio::null, |listener| OwnedFd::from(listener).into()));
        // The terminal's Ctrl-C reaches the launcher alone, which hands it on once.
        process.process_group(0);
        process
    });
    let started = Ranks::start(commands).with_context(|| format!("cannot start {}", exe.display()))?;
    Ok(started.watch(Duration::from_secs(args.grace))?)
}

fn show() -> Result<()> {
    println!("{}", described(&world::detect()?)?);
    Ok(())
}

/// One line, since lines of several ranks come in any order.
fn described(launch: &Launch) -> Result<String> {
    let of = launch.local_world.map_or(String::new(), |local| format!(" of {local}"));
    let line = format!("{launch}, local rank {}{of}", launch.local_rank);
    if launch.world == 1 {
        return Ok(line);
    }
    let (address, port) = launch.endpoint()?;
    let secret = if world::secret()?.is_some() { "a secret" } else { "no secret" };
    Ok(format!("{line}, meets at {address}:{port} with {secret}"))
}

fn meet() -> Result<()> {
    let launch = world::detect()?;
    let line = described(&launch)?;
    let began = Instant::now();
    let mut store = world::join(&launch)?;
    let took = began.elapsed();
    store.check_same("version of internevo", env!("CARGO_PKG_VERSION").as_bytes(), world::ARRIVAL)?;
    println!("{line}: all {} ranks met in {took:.0?}", launch.world);
    Ok(store.leave(world::ARRIVAL)?)
}

/// A rank does not outlive its launcher, even if that is killed and cannot tell it. It is told once: the second signal
/// would end it without saving. (Linux can send one at a parent's death, but sends it for each thread of the parent.)
pub fn follow_launcher() {
    let launcher = environment::var(MARK).and_then(|pid| Pid::from_raw(pid.parse().ok()?));
    // Under a profiler the parent is another process.
    if launcher.is_none() || launcher != getppid() {
        return;
    }
    thread::spawn(move || {
        while launcher == getppid() {
            thread::sleep(LOOK);
        }
        kill_process(getpid(), Signal::TERM).expect("a process may signal itself");
    });
}
