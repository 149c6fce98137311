//! The suite on ranks that are processes: every property and every fault, against the same sums, bit for bit.
//!
//! Started by `mpiexec -n 4`, this is one rank of four on MPI; INTERNEVO_MPI_LIB may name the library. Started by
//! itself it has nothing to do: `cargo xtask suites` brings an `mpiexec`. The arguments `faults` and `missing` are about
//! what goes wrong.
#![allow(dead_code, reason = "tests of one process are in `tests/suite`")]
#![allow(clippy::disallowed_methods, reason = "what starts processes says so in the environment")]

#[path = "../suite/engines.rs"]
mod engines;
#[path = "../suite/faults.rs"]
mod faults;
#[path = "../suite/numbers.rs"]
mod numbers;
#[path = "../suite/programs.rs"]
mod programs;
#[path = "../suite/ranks.rs"]
mod ranks;

/// In `tests/suite` these are tests, too.
#[macro_export]
macro_rules! properties {
    ($($name:ident)*) => {
        pub const PROPERTIES: &[(&str, fn(Engine))] = &[$((stringify!($name), $name)),*];
    };
}

use comm::Coll::Barrier;
use comm::{Engine as _, Launcher, MpiSettings, Processes};
use ranks::Engine;
use std::time::Duration;
use std::{env, process, thread};

/// For a machine whose cores are taken: nobody waits so long where all goes well.
const TIMEOUT: Duration = Duration::from_secs(120);
/// Where somebody does.
const SHORT: Duration = Duration::from_secs(8);
/// No test hangs.
const LIMIT: Duration = Duration::from_secs(500);

fn main() {
    let size = |key: &str| env::var(key).ok().and_then(|size| size.parse::<usize>().ok());
    let (launcher, size) = match (size("OMPI_COMM_WORLD_SIZE"), size("PMI_SIZE")) {
        (Some(size), _) => (Launcher::OpenMpi, size),
        (None, Some(size)) => (Launcher::Pmi, size),
        (None, None) => return println!("processes: no mpiexec started this; see `cargo xtask suites`"),
    };
    thread::spawn(|| {
        thread::sleep(LIMIT);
        eprintln!("no end after {LIMIT:?}");
        process::exit(3);
    });
    let library = env::var_os("INTERNEVO_MPI_LIB").map(Into::into);
    let what = env::args().nth(1).unwrap_or("properties".into());
    let (timeout, run): (Duration, fn(&Processes)) = match what.as_str() {
        "properties" => (TIMEOUT, properties),
        "faults" => (TIMEOUT, faults),
        "missing" => (SHORT, missing),
        other => panic!("{other}: want properties, faults or missing"),
    };
    let (world, version) =
        comm::mpi(MpiSettings { library, launcher, size, timeout }).unwrap_or_else(|error| panic!("{error}"));
    run(&world);
    println!("processes: rank {} of {size} passed: {what}, {version}", world.rank());
    // A launcher may end all processes when the first one ends without the common end.
    let mut all = world.join("end", &(0..size).collect::<Vec<_>>()).unwrap();
    let barrier = all.start(Default::default(), Barrier, None, None).unwrap();
    all.wait(barrier).unwrap();
}

/// All operations, alone and many at a time.
fn properties(world: &Processes) {
    for engine in [Engine::Process(world), Engine::QueuedProcess(world, 5)] {
        for (name, property) in engines::PROPERTIES.iter().chain(programs::PROPERTIES) {
            say(world, name);
            property(engine);
        }
    }
}

/// Operations that go wrong. A world where something broke has no common end, so this is a run of its own.
fn faults(world: &Processes) {
    for engine in [Engine::Process(world), Engine::QueuedProcess(world, 5)] {
        for (name, fault) in faults::FAULTS {
            say(world, name);
            fault.check(engine);
        }
    }
}

/// The last rank is late, and all are told its name.
fn missing(world: &Processes) {
    let last = world.size() - 1;
    let name = "late group";
    let all = [(name, (0..=last).collect())];
    for result in ranks::world(Engine::Process(world), last + 1, 0, &all, SHORT, |rank| {
        rank.go(0, Barrier, None, None).unwrap();
        if rank.id == last {
            // The others wait for it at the end, for as long again.
            thread::sleep(SHORT * 3 / 2);
        }
        rank.go(0, Barrier, None, None).unwrap_err().to_string()
    }) {
        let want = format!("{name}, operation 1, Barrier: ranks [{last}] did not come within {SHORT:?}");
        let error = result.unwrap();
        assert!(error.contains(&want), "{error:?} does not tell {want:?}");
    }
}

fn say(world: &Processes, what: &str) {
    if world.rank() == 0 {
        println!("{what}");
    }
}
