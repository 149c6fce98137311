//! Starts the ranks of each run, as processes that share memory, and sees them end.
use std::fs::File;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};
use std::{env, fs, thread};

/// For a machine whose cores are taken.
const LIMIT: Duration = Duration::from_secs(500);

pub fn main() {
    for (n, what) in
        [(1, "properties"), (2, "properties"), (4, "properties"), (2, "faults"), (4, "faults"), (4, "dead")]
    {
        run(n, what);
        println!("processes: {what} on {n} processes that share memory ... ok");
    }
}

fn run(n: usize, what: &str) {
    let folder = tempfile::tempdir().unwrap();
    let memory = folder.path().join("memory");
    File::create(&memory).unwrap().set_len(comm::shared_bytes(n) as u64).unwrap();
    let log = |rank: usize| folder.path().join(format!("{rank}.log"));
    let start = |rank: usize| {
        let out = File::create(log(rank)).unwrap();
        let mut command = Command::new(env::current_exe().unwrap());
        command.args([what, "shared", memory.to_str().unwrap(), &rank.to_string(), &n.to_string()]);
        let out_too = out.try_clone().unwrap();
        command.env("RUST_BACKTRACE", "0").stdin(Stdio::null()).stdout(out).stderr(out_too).spawn().unwrap()
    };
    let mut ranks: Vec<Child> = (0..n).map(start).collect();
    let began = Instant::now();
    // All are looked at in turn: a process that has ended is not gone before its parent has seen it.
    let living = |ranks: &mut [Child]| -> Vec<bool> {
        ranks.iter_mut().map(|rank| rank.try_wait().unwrap().is_none()).collect()
    };
    while living(&mut ranks).contains(&true) && began.elapsed() < LIMIT {
        thread::sleep(Duration::from_millis(10));
    }
    let late = living(&mut ranks);
    ranks.iter_mut().zip(&late).filter(|(_, late)| **late).for_each(|(rank, _)| rank.kill().unwrap());
    for (rank, child) in ranks.iter_mut().enumerate() {
        let status = child.wait().unwrap();
        let text = fs::read_to_string(log(rank)).unwrap();
        let fails = what == "dead" && rank == n - 1;
        let good = text.contains(&format!("rank {rank} of {n} passed: {what}")) && status.success();
        assert!(good != fails && !late[rank], "{what}, rank {rank} of {n}, late {late:?}, {status}:\n{text}");
    }
}
