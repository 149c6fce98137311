//! `internevo launch` with real processes: this program, and this test itself in the roles at the end.
mod common;

use common::{Desk, Outcome, golden_toml};
use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook::iterator::Signals;
use std::fs;
use std::thread::sleep;
use std::time::{Duration, Instant};

/// Ranks in a role, which is one of the ignored tests below.
fn in_role(desk: &Desk, options: &str, role: &str) -> Outcome {
    desk.run(&role_command(options, role))
}

fn role_command(options: &str, role: &str) -> String {
    let exe = std::env::current_exe().unwrap();
    format!("launch {options} --exe {} -- {role} --exact --ignored --nocapture", exe.display())
}

/// Runs the program as a launcher would: with these variables.
fn with_vars(desk: &Desk, vars: &str, command: &str) -> Outcome {
    let vars = vars.split_whitespace().map(|var| var.split_once('=').unwrap());
    let mut process = desk.command(command);
    process.envs(vars);
    let (began, output) = (Instant::now(), process.output().unwrap());
    let text = |bytes| String::from_utf8(bytes).unwrap();
    Outcome {
        command: command.into(),
        code: output.status.code(),
        out: text(output.stdout),
        err: text(output.stderr),
        took: began.elapsed(),
    }
}

#[test]
fn lines_of_ranks_have_their_number_and_those_of_rank_0_have_none() {
    let version = format!("internevo {}", env!("CARGO_PKG_VERSION"));
    let out = Desk::new().ok("launch -n 3 -- --version");
    let mut lines: Vec<&str> = out.lines().collect();
    lines.sort();
    assert_eq!(lines, [format!("[1] {version}"), format!("[2] {version}"), version]);
}

#[test]
fn ranks_meet() {
    let out = Desk::new().ok("launch -n 4 --meet");
    for rank in 0..4 {
        let line =
            format!("started as rank {rank} of 4 by internevo launch, local rank {rank} of 4, meets at 127.0.0.1:");
        assert!(out.contains(&line), "{out}");
    }
    assert_eq!(out.matches("with a secret: all 4 ranks met in").count(), 4, "{out}");
}

#[test]
fn the_code_of_the_rank_that_fails_is_the_launchers() {
    let outcome = in_role(&Desk::new(), "-n 3", "role_rank_1_fails_with_7_and_others_stay");
    assert_eq!(outcome.code, Some(7), "{}", outcome.err);
    assert!(outcome.err.contains("rank 1 ended with exit code 7: ending ranks [0, 2]"), "{}", outcome.err);
    assert!(outcome.err.ends_with("error: rank 1 ended with exit code 7\n"), "{}", outcome.err);
    assert!(outcome.took < Duration::from_secs(9), "nobody had to be killed: {:?}", outcome.took);
}

#[test]
fn who_does_not_end_when_another_fails_is_killed() {
    let outcome = in_role(&Desk::new(), "-n 2 --grace 1", "role_rank_1_fails_and_rank_0_is_deaf");
    assert_eq!(outcome.code, Some(7), "{}", outcome.err);
    assert!(outcome.err.contains("rank 0 did not end within 1s: killing"), "{}", outcome.err);
}

#[test]
fn a_rank_that_is_killed_is_told_as_that() {
    let outcome = in_role(&Desk::new(), "-n 2", "role_rank_0_is_killed");
    assert_eq!(outcome.code, Some(128 + 9), "{}", outcome.err);
    assert!(outcome.err.contains("error: rank 0 was ended by signal 9 (SIGKILL)"), "{}", outcome.err);
}

#[test]
fn signals_reach_every_rank_once() {
    for (name, number) in [("INT", SIGINT), ("TERM", SIGTERM)] {
        let desk = Desk::new();
        let mut running = desk.start(&role_command("-n 3", "role_writes_the_signals_it_gets"));
        running.until(|| (0..3).all(|rank| desk.path(&format!("ready.{rank}")).exists()));
        running.signal(name);
        let (code, err) = running.end();
        assert_eq!(code, Some(0), "{err}");
        for rank in 0..3 {
            assert_eq!(desk.text(&format!("signals.{rank}")), format!("[{number}]"));
        }
    }
}

/// Ctrl-Z, then `fg`.
#[test]
#[cfg(target_os = "linux")]
fn ranks_rest_with_their_launcher() {
    let desk = Desk::new();
    let mut running = desk.start(&role_command("-n 2", "role_writes_the_signals_it_gets"));
    let ready = |rank| desk.path(&format!("ready.{rank}"));
    running.until(|| (0..2).all(|rank| fs::read_to_string(ready(rank)).is_ok_and(|pid| !pid.is_empty())));
    let pids: Vec<String> = (0..2).map(|rank| fs::read_to_string(ready(rank)).unwrap()).collect();
    let state = |pid: &String| {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
        stat.rsplit_once(") ").unwrap().1.chars().next().unwrap()
    };
    running.signal("TSTP");
    running.until(|| pids.iter().all(|pid| state(pid) == 'T'));
    let launcher = running.child.id().to_string();
    running.until(|| state(&launcher) == 'T');
    running.signal("CONT");
    running.until(|| pids.iter().all(|pid| state(pid) != 'T'));
    running.signal("INT");
    assert_eq!(running.end().0, Some(0));
}

#[test]
fn the_third_signal_ends_the_deaf() {
    let desk = Desk::new();
    let mut running = desk.start(&role_command("-n 2", "role_is_deaf"));
    running.until(|| (0..2).all(|rank| desk.path(&format!("ready.{rank}")).exists()));
    for _ in 0..3 {
        running.signal("INT");
        // Signals of one kind that are under way together count as one.
        sleep(Duration::from_millis(100));
    }
    let (code, err) = running.end();
    assert_eq!(code, Some(128 + 9), "{err}");
}

#[test]
fn ranks_do_not_outlive_a_launcher_that_is_killed() {
    let desk = Desk::new();
    desk.write("run.toml", golden_toml("llama_mha"));
    let mut running = desk.start("launch -n 1 train run.toml --set train.steps=1000000");
    running.until_rows(&desk, "golden", 2);
    running.signal("KILL");
    running.end();
    // The rank is told, saves and ends.
    let began = Instant::now();
    while !desk.checkpoints().iter().any(|path| path.contains("step_")) {
        assert!(began.elapsed() < Duration::from_secs(30), "the rank goes on alone");
        sleep(Duration::from_millis(20));
    }
}

#[test]
fn one_process_trains_under_any_launcher() {
    for (command, vars) in [
        ("launch -n 1 train run.toml --set train.steps=2", ""),
        (
            "train run.toml --set train.steps=2",
            "RANK=0 WORLD_SIZE=1 LOCAL_RANK=0 MASTER_ADDR=127.0.0.1 MASTER_PORT=29500",
        ),
        ("train run.toml --set train.steps=2", "SLURM_JOB_ID=7 SLURM_NTASKS=4 SLURM_PROCID=0"),
    ] {
        let desk = Desk::golden("llama_mha");
        let outcome = with_vars(&desk, vars, command);
        assert_eq!(outcome.code, Some(0), "{vars} {command}: {}", outcome.err);
        assert_eq!(desk.metrics("golden").len(), 2);
    }
}

#[test]
fn whoever_counts_ranks_counts_them_alone() {
    let desk = Desk::golden("llama_mha");
    for (vars, start) in [
        ("RANK=1 WORLD_SIZE=4", "started as rank 1 of 4 by torchrun (RANK, WORLD_SIZE)"),
        ("OMPI_COMM_WORLD_RANK=1 OMPI_COMM_WORLD_SIZE=4", "started as rank 1 of 4 by mpirun (Open MPI)"),
        ("PMI_RANK=1 PMI_SIZE=4", "started as rank 1 of 4 by mpirun (PMI)"),
        ("SLURM_STEP_ID=0 SLURM_PROCID=1 SLURM_STEP_NUM_TASKS=4", "started as rank 1 of 4 by srun (Slurm)"),
    ] {
        with_vars(&desk, vars, "train run.toml --ranks 2").refused(&[start, "--ranks says 2"]);
        with_vars(&desk, vars, "launch -n 2 train run.toml").refused(&[start, "without `internevo launch -n 2`"]);
    }
    with_vars(&desk, "RANK=1", "train run.toml").refused(&["RANK is set and WORLD_SIZE is not"]);
    assert!(!desk.path("runs").exists(), "nothing was begun");
}

#[test]
fn show_says_what_is_detected() {
    let desk = Desk::new();
    for (vars, line) in [
        ("", "started as rank 0 of 1 by nobody (no launcher), local rank 0 of 1"),
        (
            "RANK=1 WORLD_SIZE=2 LOCAL_RANK=1 LOCAL_WORLD_SIZE=2 MASTER_PORT=1234 INTERNEVO_JOB_SECRET=0123456789abcdef",
            "started as rank 1 of 2 by torchrun (RANK, WORLD_SIZE), local rank 1 of 2, meets at 127.0.0.1:1234 with a secret",
        ),
        ("SLURM_STEP_ID=0 SLURM_PROCID=0 SLURM_NTASKS=1", "started as rank 0 of 1 by srun (Slurm), local rank 0"),
    ] {
        let outcome = with_vars(&desk, vars, "launch --show");
        assert_eq!((outcome.code, outcome.out.trim_end()), (Some(0), line), "{}", outcome.err);
    }
}

#[test]
fn mistakes() {
    let desk = Desk::new();
    for (vars, command, needles) in [
        ("", "launch", &["COMMAND", "--ranks"][..]),
        ("", "launch -n 0 train", &["0 is not in 1..=65535"]),
        ("", "launch -n 2 --exe nowhere train", &["cannot start nowhere"]),
        ("INTERNEVO_JOB_SECRET=short", "launch -n 2 -- --version", &["INTERNEVO_JOB_SECRET", "5 characters"]),
        ("RANK=0 WORLD_SIZE=x", "launch --show", &["WORLD_SIZE = \"x\" is not a whole number"]),
        ("RANK=1 WORLD_SIZE=2 MASTER_ADDR=node7", "launch --meet", &["node7", "INTERNEVO_JOB_SECRET", "openssl"]),
    ] {
        with_vars(&desk, vars, command).refused(needles);
    }
}

// ---- roles ---------------------------------------------------------------------------------------------------------

fn rank() -> usize {
    std::env::var("RANK").unwrap().parse().unwrap()
}

fn stay() -> ! {
    sleep(Duration::from_secs(60));
    panic!("nobody has ended this rank");
}

#[test]
#[ignore = "a role that other tests start"]
fn role_rank_1_fails_with_7_and_others_stay() {
    match rank() {
        1 => std::process::exit(7),
        _ => stay(),
    }
}

#[test]
#[ignore = "a role that other tests start"]
fn role_rank_1_fails_and_rank_0_is_deaf() {
    let _signals = Signals::new([SIGTERM]).unwrap();
    if rank() == 1 {
        while !fs::exists("ready.0").unwrap() {
            sleep(Duration::from_millis(5));
        }
        std::process::exit(7);
    }
    fs::write("ready.0", "").unwrap();
    stay()
}

#[test]
#[ignore = "a role that other tests start"]
fn role_is_deaf() {
    let _signals = Signals::new([SIGINT]).unwrap();
    fs::write(format!("ready.{}", rank()), "").unwrap();
    stay()
}

#[test]
#[ignore = "a role that other tests start"]
fn role_rank_0_is_killed() {
    if rank() == 0 {
        signal_hook::low_level::raise(signal_hook::consts::SIGKILL).unwrap();
    }
    stay()
}

#[test]
#[ignore = "a role that other tests start"]
fn role_writes_the_signals_it_gets() {
    let mut signals = Signals::new([SIGINT, SIGTERM]).unwrap();
    fs::write(format!("ready.{}", rank()), std::process::id().to_string()).unwrap();
    let mut got: Vec<i32> = signals.wait().collect();
    sleep(Duration::from_millis(300));
    got.extend(signals.pending());
    fs::write(format!("signals.{}", rank()), format!("{got:?}")).unwrap();
}
