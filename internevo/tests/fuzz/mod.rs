//! Hostile files: every reader against inputs that are damaged at random, made again from a seed.
//!
//! Each target is a reader with good inputs. They are damaged with some knowledge of their format ([`bytes`], [`text`],
//! [`json`], [`headers`]) and given to the reader, which may accept or refuse. It may not panic, nor work for more than a
//! second, nor take more than 256 MiB: so each target runs in a process of its own, under [`watch`].
//!
//! `cargo xtask fuzz` runs many, `cargo test` some. It stands in the program's own tests, and not beside them, to reach what
//! reads run files.
mod bytes;
mod headers;
mod json;
mod numbers;
mod outside;
mod targets;
mod text;
mod watch;

use numbers::Numbers;
use std::env;
use std::fmt;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use targets::broken::BROKEN;
use targets::{TARGETS, Target};
use tempfile::TempDir;

/// Of one target; more say little.
const MOST_FAILURES: usize = 10;

/// Of so many inputs some are accepted and some refused.
const MANY: u64 = 5000;

/// In `cargo test`; `cargo xtask fuzz` asks for more.
const FEW: u64 = 300;

#[derive(Clone, Copy)]
struct Inputs {
    seed: u64,
    first: u64,
    end: u64,
}

struct Failure {
    target: &'static str,
    seed: u64,
    number: u64,
    what: String,
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        let Failure { target, seed, number, what } = self;
        write!(f, "{target}: {what}\n  alone: cargo xtask fuzz {target} --seed {seed} --number {number}")
    }
}

#[test]
fn every_reader_takes_hostile_files() {
    let number = |name: &str| env::var(name).ok().map(|n| n.parse::<u64>().expect(name));
    let only = env::var("INTERNEVO_FUZZ_TARGET").ok();
    let seed = number("INTERNEVO_FUZZ_SEED").unwrap_or(1);
    let inputs = match number("INTERNEVO_FUZZ_NUMBER") {
        Some(number) => Inputs { seed, first: number, end: number + 1 },
        None => Inputs { seed, first: 0, end: number("INTERNEVO_FUZZ_COUNT").unwrap_or(FEW) },
    };
    let asked: Vec<&Target> = TARGETS.iter().filter(|t| only.as_ref().is_none_or(|name| name == t.name)).collect();
    let known: Vec<&str> = TARGETS.iter().map(|t| t.name).collect();
    assert!(!asked.is_empty(), "there is no target {only:?}; there are {}", known.join(", "));
    let failures: Vec<String> = asked.iter().flat_map(|t| failures(t, inputs)).map(|f| f.to_string()).collect();
    assert!(failures.is_empty(), "{} inputs fail\n{}", failures.len(), failures.join("\n"));
}

#[test]
fn a_reader_that_fails_is_named_with_its_input() {
    for (target, says) in BROKEN {
        let found = failures(target, Inputs { seed: 5, first: 0, end: 4 });
        let [Failure { seed: 5, number: 2, what, .. }] = &found[..] else { panic!("{}: {}", target.name, found.len()) };
        assert!(what.contains(says), "{}: {what}", target.name);
    }
}

/// Runs the inputs of a target: in one process, and after each failure the rest in another.
fn failures(target: &Target, mut inputs: Inputs) -> Vec<Failure> {
    let (desk, began) = (desk(), std::time::Instant::now());
    let (mut out, count, single) = (vec![], inputs.end - inputs.first, inputs.end - inputs.first == 1);
    while inputs.first < inputs.end && out.len() < MOST_FAILURES {
        let ended = child(target, inputs, desk.path()).output().expect("this program starts");
        let said = String::from_utf8_lossy(&ended.stderr).into_owned() + &String::from_utf8_lossy(&ended.stdout);
        if ended.status.success() {
            let told = said.lines().find(|line| line.starts_with(target.name)).unwrap_or_default();
            println!("{told} {:.1} s", began.elapsed().as_secs_f64());
            break;
        }
        let number = watch::last(&desk.path().join(NUMBER));
        let number = number.unwrap_or_else(|| panic!("{}: not even good inputs are read: {said}", target.name));
        out.push(Failure {
            target: target.name,
            seed: inputs.seed,
            number,
            what: what(&said, &ended.status.to_string()),
        });
        inputs.first = number + 1;
    }
    println!("{}: {} of {count} inputs fail", target.name, out.len());
    if single {
        println!("the input lies in {}", desk.keep().display());
    }
    out
}

/// The number of the input at hand.
const NUMBER: &str = "number";

/// A folder in memory, where there is one.
fn desk() -> TempDir {
    let memory = Path::new("/dev/shm");
    let folder = if memory.is_dir() { memory.to_owned() } else { env::temp_dir() };
    TempDir::with_prefix_in("internevo-fuzz-", folder).expect("a folder for files can be made")
}

/// This program again, as [`inputs_of_one_target`] alone.
fn child(target: &Target, inputs: Inputs, desk: &Path) -> Command {
    let Inputs { seed, first, end } = inputs;
    let mut command = Command::new(env::current_exe().expect("this program has a path"));
    command.args(["--exact", "fuzz::inputs_of_one_target", "--ignored", "--nocapture"]);
    command.env("INTERNEVO_FUZZ_CHILD", format!("{} {seed} {first} {end}", target.name));
    command.env("INTERNEVO_FUZZ_DESK", desk).env("RUST_BACKTRACE", "0");
    // A thread with the stack of a main thread; and none that only reserves memory.
    command.env("RUST_MIN_STACK", "8388608").env("RAYON_NUM_THREADS", "1").env("MALLOC_ARENA_MAX", "1");
    command
}

#[test]
#[ignore = "a process that `every_reader_takes_hostile_files` starts"]
fn inputs_of_one_target() {
    let asked = env::var("INTERNEVO_FUZZ_CHILD").expect("started by the other test");
    let desk = PathBuf::from(env::var_os("INTERNEVO_FUZZ_DESK").expect("started by the other test"));
    let [name, seed, first, end] = asked.split(' ').collect::<Vec<_>>()[..] else { panic!("{asked}") };
    let [seed, first, end] = [seed, first, end].map(|n| n.parse::<u64>().expect("a number"));
    let mut known = TARGETS.iter().chain(BROKEN.iter().map(|(target, _)| target));
    let target = known.find(|t| t.name == name).expect("a known target");

    let files = desk.join("files");
    drop(fs::remove_dir_all(&files));
    fs::create_dir(&files).expect("the desk can be written");
    let mut read = (target.prepare)(&files);
    let watch = watch::Watch::begin(&desk.join(NUMBER));
    let mut accepted = 0;
    for number in first..end {
        watch.next(number);
        accepted += u64::from(read(&mut Numbers::of(seed, number)));
    }
    let count = end - first;
    println!("\n{name}: {count} inputs, {accepted} accepted,");
    // Where all are refused at the door, or all are as good as before, nothing was tried.
    assert!(count < MANY || (1..count).contains(&accepted), "{name}: {accepted} of {count} inputs were accepted");
}

/// Why a process ended, in a line.
fn what(said: &str, status: &str) -> String {
    let lines: Vec<&str> = said.lines().collect();
    let marks = ["panicked at", "memory allocation of", "no end after", "overflowed its stack"];
    match lines.iter().position(|line| marks.iter().any(|mark| line.contains(mark))) {
        Some(at) => format!("{} {}", lines[at], lines.get(at + 1).unwrap_or(&"")),
        None => format!("{status}: {}", lines.last().unwrap_or(&"")),
    }
}
