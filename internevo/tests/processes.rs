//! A training in several processes: the bits of ranks that are threads, and an end for all whatever happens to one.
//! Nothing here waits for ever: whoever misses a rank is told, and the launcher kills after its grace.
mod common;

use common::{Desk, Running};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use std::fs;
use std::net::TcpListener;
use std::process::Stdio;
use std::time::{Duration, Instant};

/// All that is said while ranks fail.
const SECONDS: Duration = Duration::from_secs(9);

fn desk() -> Desk {
    let desk = Desk::new();
    desk.write("text.txt", "To be, or not to be, that is the question.\n".repeat(400));
    desk.write(
        "run.toml",
        "name = \"run\"\nthreads = 1\n[model]\nfamily = \"llama\"\nvocab_size = 211\nhidden_size = 16\nnum_hidden_layers = 4\n\
         num_attention_heads = 2\nintermediate_size = 24\n[data]\nkind = \"random\"\nseq_len = 16\nmicro_batch_size = 1\n\
         [train]\nmicro_batches = 4\nsteps = 6\n[lr_schedule]\nkind = \"constant\"\nwarmup_steps = 0\n",
    );
    desk
}

/// The same training in threads and in processes.
fn train(desk: &Desk, threads: &str, processes: &str, ranks: usize, more: &str) {
    desk.ok(&format!("train run.toml --ranks {ranks} --set name={threads} {more}"));
    desk.ok(&format!("launch -n {ranks} train run.toml --set name={processes} {more}"));
}

/// Rows and checkpoints.
fn results(desk: &Desk, name: &str, step: u64) -> (Vec<Value>, [Vec<u8>; 3]) {
    let [weights, optimizer] = desk.state(name, step);
    let state = desk.read(&format!("runs/{name}/checkpoints/step_{step}/training/state.json"));
    (desk.results(name), [weights, optimizer, state])
}

#[test]
fn processes_have_the_bits_of_threads() {
    let desk = desk();
    for (i, (ranks, more)) in [
        (2, "--set checkpoint.every=2"),
        (2, "--set parallel.pipeline.size=2"),
        (2, "--set parallel.tensor.size=2 --set parallel.tensor.mode=msp"),
        (4, "--set parallel.weight.size=4 --set parallel.tensor.size=2 --set parallel.tensor.mode=isp"),
        (4, "--set parallel.zero.stage=3 --set data.kind=text --set data.path=text.txt --set tokenizer.vocab_size=280 --set model.vocab_size=280"),
    ]
    .into_iter()
    .enumerate()
    {
        let [threads, processes] = ["threads", "processes"].map(|name| format!("{name}-{i}"));
        train(&desk, &threads, &processes, ranks, more);
        assert!(results(&desk, &threads, 6) == results(&desk, &processes, 6), "{ranks} processes, {more}");
        let logs = fs::read_dir(desk.path(&format!("runs/{processes}/logs"))).unwrap().count();
        assert_eq!(logs, ranks, "each rank has a log");
    }
}

#[test]
fn threads_go_on_where_processes_stopped_and_the_other_way_round() {
    let desk = desk();
    train(&desk, "whole", "there", 2, "");
    let half = |start: &str, name: &str, steps: u64, more: &str| {
        desk.ok(&format!("{start} --set name={name} --set train.steps={steps} {more}"));
    };
    half("train run.toml --ranks 2", "down", 3, "");
    half("launch -n 2 train run.toml --resume", "down", 6, "");
    half("launch -n 2 train run.toml", "up", 3, "");
    half("train run.toml --ranks 2 --resume", "up", 6, "");
    for name in ["there", "down", "up"] {
        assert!(results(&desk, name, 6) == results(&desk, "whole", 6), "{name}");
    }
}

#[test]
fn the_timeline_has_all_processes() {
    let desk = desk();
    train(&desk, "threads", "processes", 3, "--set metrics.trace_steps=[2] --set train.steps=2");
    let names = |run: &str| -> Vec<(u64, String)> {
        let trace: Value = serde_json::from_str(&desk.text(&format!("runs/{run}/trace/step_2.json"))).unwrap();
        let events = trace["traceEvents"].as_array().unwrap().iter();
        events.map(|e| (e["pid"].as_u64().unwrap(), e["name"].as_str().unwrap().into())).collect()
    };
    assert_eq!(names("threads"), names("processes"));
}

#[test]
fn ranks_by_hand_share_memory() {
    let desk = desk();
    desk.ok("train run.toml --ranks 2 --set name=threads");
    for outcome in by_hand(&desk, "RANK", "WORLD_SIZE", "", "train run.toml --set name=processes") {
        assert_eq!(outcome.0, Some(0), "{}", outcome.1);
    }
    assert!(results(&desk, "threads", 6) == results(&desk, "processes", 6));
}

#[test]
fn without_its_library_mpi_says_what_to_install() {
    let outcomes = by_hand(&desk(), "PMI_RANK", "PMI_SIZE", "nowhere/libmpi.so", "train run.toml");
    for (code, err) in outcomes {
        assert_eq!(code, Some(1), "{err}");
        assert!(err.contains("no MPI library") && err.contains("nowhere/libmpi.so"), "{err}");
    }
}

/// Two ranks without a launcher that would tell how many there are on this host.
fn by_hand(desk: &Desk, rank_name: &str, size_name: &str, mpi: &str, command: &str) -> Vec<(Option<i32>, String)> {
    let port = TcpListener::bind(("127.0.0.1", 0)).unwrap().local_addr().unwrap().port();
    let start = |rank: usize| {
        let mut process = desk.command(command);
        process.stderr(Stdio::piped());
        process.env(rank_name, rank.to_string()).env(size_name, "2").env("MASTER_PORT", port.to_string());
        process.env("INTERNEVO_MPI_LIB", mpi).spawn().unwrap()
    };
    let ranks = [start(0), start(1)].map(|child| child.wait_with_output().unwrap());
    ranks.map(|output| (output.status.code(), String::from_utf8(output.stderr).unwrap())).into()
}

// ---- what goes wrong -----------------------------------------------------------------------------------------------

#[test]
fn ranks_with_other_configs_are_named_with_the_key() {
    let desk = desk();
    let exe = format!("#!/bin/sh\nexec {} \"$@\" --set seed=$((7 + RANK / 2))\n", env!("CARGO_BIN_EXE_internevo"));
    desk.write("other", exe);
    let outcome = desk.run("launch -n 3 --exe /bin/sh -- other train run.toml");
    assert_eq!(outcome.code, Some(1), "{}", outcome.err);
    let says = "rank 2 started with another config than rank 0 (seed = 8 there, 7 at rank 0)";
    assert!(outcome.err.lines().any(|line| line.starts_with(&format!("error: {says}"))), "{}", outcome.err);
    assert!(!desk.path("runs").exists(), "nothing was begun");
    assert!(outcome.took < SECONDS);
}

#[test]
fn mistakes_are_told_by_the_rank_that_makes_them() {
    let desk = desk();
    desk.ok("train run.toml --set name=done --ranks 2");
    for (command, needle) in [
        ("train run.toml --ranks 3", "of 2 by internevo launch, but --ranks says 3; leave it out"),
        ("train run.toml --set name=done", "runs/done is finished (step 6 of 6); --fresh starts again"),
        ("train run.toml --set data.kind=tokens --set data.path=nowhere.bin", "cannot open nowhere.bin"),
        ("train run.toml --set parallel.pipeline.size=3", "does not divide the 2 ranks"),
    ] {
        let outcome = desk.run(&format!("launch -n 2 {command}"));
        assert_eq!(outcome.code, Some(1), "{command}: {}", outcome.err);
        assert!(outcome.err.contains(needle), "{command}: {}", outcome.err);
        assert!(outcome.took < SECONDS, "{command}: {:?}", outcome.took);
    }
}

/// A training that goes on until it is ended, and the process of each rank.
fn endless(desk: &Desk, ranks: usize, more: &str) -> (Running, Vec<Pid>) {
    let mut running =
        desk.start(&format!("launch -n {ranks} train run.toml --set name=run --set train.steps=1000000 {more}"));
    running.until_rows(desk, "run", 3);
    let launcher = running.child.id();
    let children = fs::read_to_string(format!("/proc/{launcher}/task/{launcher}/children")).unwrap();
    let pids: Vec<Pid> = children.split_whitespace().map(|id| Pid::from_raw(id.parse().unwrap()).unwrap()).collect();
    assert_eq!(pids.len(), ranks);
    assert_eq!(desk.text("runs/run/lock").trim(), pids[0].to_string(), "they are in the order of their start");
    (running, pids)
}

/// It saves after each step, so it may die in the midst of a save.
#[test]
fn a_rank_that_is_killed_ends_all_and_leaves_whole_checkpoints() {
    for (killed, layout, needle) in [
        (2, "--set parallel.pipeline.size=3", "rank 2 is gone: "),
        (1, "", "rank 1 is gone: "),
        (0, "", "the connection to rank 0 at 127.0.0.1:"),
    ] {
        let desk = desk();
        let (running, pids) = endless(&desk, 3, &format!("--set checkpoint.every=1 {layout}"));
        let began = Instant::now();
        kill_process(pids[killed], Signal::KILL).unwrap();
        let (code, err) = running.end();
        assert_eq!(code, Some(128 + 9), "{err}");
        assert!(began.elapsed() < SECONDS, "{killed}: {:?}\n{err}", began.elapsed());
        for rank in (0..3).filter(|rank| *rank != killed) {
            let begins = if rank == 0 { "error: ".into() } else { format!("[{rank}] error: ") };
            let told = err.lines().any(|line| line.starts_with(&begins) && line.contains(needle));
            assert!(told, "rank {rank} does not say `{needle}`\n{err}");
        }
        // Threads go on from the newest.
        let done = desk.metrics("run").last().unwrap()["step"].as_u64().unwrap();
        desk.ok(&format!("train run.toml --ranks 3 --resume --set name=run --set train.steps={} {layout}", done + 2));
        let drafts = desk.checkpoints().into_iter().filter(|path| path.contains(".tmp-"));
        assert_eq!(drafts.count(), 0);
    }
}

#[test]
fn a_signal_at_any_rank_saves_and_stops_all() {
    for told in [None, Some(0), Some(1)] {
        let desk = desk();
        let (running, pids) = endless(&desk, 2, "");
        match told {
            None => running.signal("TERM"),
            Some(rank) => kill_process(pids[rank], Signal::INT).unwrap(),
        }
        let (code, err) = running.end();
        assert_eq!(code, Some(0), "{told:?}: {err}");
        let step = desk.metrics("run").len() as u64;
        assert!(err.contains(&format!("stopped at step {step} of 1000000; --resume goes on from it")), "{err}");
        assert_eq!(desk.checkpoints(), [format!("run/checkpoints/step_{step}")]);
        // As if nothing had happened.
        let until = step + 2;
        desk.ok(&format!("launch -n 2 train run.toml --resume --set name=run --set train.steps={until}"));
        desk.ok(&format!("train run.toml --ranks 2 --set name=whole --set train.steps={until}"));
        assert!(results(&desk, "run", until) == results(&desk, "whole", until));
    }
}
