//! The suite on ranks that are processes: every property and every fault, against the same sums, bit for bit.
//!
//! Started by itself it starts processes that share memory, as many copies of itself. Started by `mpiexec -n 4` it is one
//! rank of four on MPI; INTERNEVO_MPI_LIB may name the library. `cargo xtask suites` does that where there is a pip. The
//! argument says what is run: `properties`, `faults`, `missing`, `dead`; or `speed`, which asserts nothing.
#![allow(dead_code, unused_imports, reason = "tests of one process are in `tests/suite`")]
#![allow(clippy::disallowed_methods, reason = "what starts processes tells them in arguments and the environment")]

#[path = "../suite/engines.rs"]
mod engines;
#[path = "../suite/faults.rs"]
mod faults;
#[path = "../suite/numbers.rs"]
mod numbers;
mod parent;
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

use backend::{DType, download, upload};
use comm::Coll::{AllReduce, Barrier};
use comm::{Engine as _, Launcher, MpiSettings, Processes};
use ranks::{Engine, Rank, view};
use std::fs::File;
use std::time::{Duration, Instant};
use std::{env, process, thread};

/// For a machine whose cores are taken: nobody waits so long where all goes well.
const TIMEOUT: Duration = Duration::from_secs(120);
/// Where somebody does.
const SHORT: Duration = Duration::from_secs(8);
/// No test hangs.
const LIMIT: Duration = Duration::from_secs(500);

fn main() {
    let arguments: Vec<String> = env::args().skip(1).collect();
    let size = |key: &str| env::var(key).ok().and_then(|size| size.parse::<usize>().ok());
    let mpi = match (size("OMPI_COMM_WORLD_SIZE"), size("PMI_SIZE")) {
        (Some(size), _) => Some((Launcher::OpenMpi, size)),
        (None, Some(size)) => Some((Launcher::Pmi, size)),
        (None, None) => None,
    };
    match (&arguments[..], mpi) {
        ([what], Some((launcher, size))) => rank(what, |timeout| {
            let library = env::var_os("INTERNEVO_MPI_LIB").map(Into::into);
            comm::mpi(MpiSettings { library, launcher, size, timeout }).unwrap_or_else(|error| panic!("{error}"))
        }),
        ([what, shared, path, rank_of, size], None) if shared == "shared" => rank(what, |timeout| {
            let file = File::options().read(true).write(true).open(path).unwrap();
            let [rank, size] = [rank_of, size].map(|number| number.parse().unwrap());
            (comm::shared(&file, rank, size, timeout).unwrap(), "shared memory".into())
        }),
        (_, None) => parent::main(),
        _ => panic!("{arguments:?}: want properties, faults, missing, dead or speed"),
    }
}

fn rank(what: &str, world: impl Fn(Duration) -> (Processes, String)) {
    thread::spawn(|| {
        thread::sleep(LIMIT);
        eprintln!("no end after {LIMIT:?}");
        process::exit(3);
    });
    let (timeout, run): (Duration, fn(&Processes)) = match what {
        "properties" => (TIMEOUT, properties),
        "faults" => (TIMEOUT, faults),
        "missing" => (SHORT, missing),
        "dead" => (TIMEOUT, dead),
        "speed" => (TIMEOUT, speed),
        other => panic!("{other}: want properties, faults, missing, dead or speed"),
    };
    let (world, version) = world(timeout);
    run(&world);
    println!("processes: rank {} of {} passed: {what}, {version}", world.rank(), world.size());
    if what == "dead" {
        return;
    }
    // A launcher may end all processes when the first one ends without the common end.
    let mut all = world.join("end", &(0..world.size()).collect::<Vec<_>>()).unwrap();
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
    last_one_fails(world, &format!("did not come within {SHORT:?}"), |rank| {
        // The others wait for it at the end, for as long again.
        thread::sleep(SHORT * 3 / 2);
        Some(rank.go(0, Barrier, None, None).unwrap_err().to_string())
    });
}

/// The last rank ends without a word.
fn dead(world: &Processes) {
    last_one_fails(world, "left before it", |_| process::abort());
}

fn last_one_fails(world: &Processes, how: &str, fails: fn(&mut Rank) -> Option<String>) {
    let last = world.size() - 1;
    let all = [("late group", (0..=last).collect())];
    let errors = ranks::world(Engine::Process(world), last + 1, 0, &all, TIMEOUT, |rank| {
        rank.go(0, Barrier, None, None).unwrap();
        if rank.id == last { fails(rank) } else { Some(rank.go(0, Barrier, None, None).unwrap_err().to_string()) }
    });
    for error in errors {
        let want = format!("late group, operation 1, Barrier: ranks [{last}] {how}");
        let error = error.unwrap().unwrap();
        assert!(error.contains(&want), "{error:?} does not tell {want:?}");
    }
}

/// For a look, on a machine where nothing else runs.
fn speed(world: &Processes) {
    const LEN: usize = 1 << 24;
    let all = [("all", (0..world.size()).collect())];
    let seconds = ranks::world(Engine::Process(world), world.size(), 4 * LEN, &all, TIMEOUT, |rank| {
        let x = view(DType::F32, 0, LEN);
        upload(&mut *rank.dev, &vec![1f32; LEN], x);
        let mut seconds: Vec<f64> = (0..7)
            .map(|_| {
                rank.go(0, Barrier, None, None).unwrap();
                let began = Instant::now();
                rank.go(0, AllReduce, None, Some(x)).unwrap();
                began.elapsed().as_secs_f64()
            })
            .collect();
        assert_eq!(download::<f32>(&mut *rank.dev, x)[LEN - 1], (world.size() as f32).powi(7));
        seconds.sort_by(f64::total_cmp);
        seconds[3]
    });
    say(world, &format!("all-reduce of {} MiB: {:.0} ms", LEN >> 18, 1e3 * seconds[0].as_ref().unwrap()));
}

fn say(world: &Processes, what: &str) {
    if world.rank() == 0 {
        println!("{what}");
    }
}
