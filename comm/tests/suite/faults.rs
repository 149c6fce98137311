//! What goes wrong is an error on every member, naming group, operation and ranks. Nothing hangs.
use crate::ranks::{ENGINES, Engine, Rank, view, within, world};
use backend::{Access, Arena, Backend, DType, Mark, Queue, View};
use comm::Coll::{self, *};
use comm::Communicator;
use std::{thread, time::Duration};

const LIMIT: Duration = Duration::from_secs(30);
const NAME: &str = "data 1, lane reduce";
const TIMEOUT: Duration = Duration::from_millis(200);
const LATE: Duration = Duration::from_millis(600);

/// Ranks 1, 2 and 3 of four form the group. After one good operation each runs `body`, and `survivors` of them report
/// an error that contains all of `want`.
pub struct Fault {
    pub survivors: usize,
    pub want: &'static [&'static str],
    pub body: fn(&mut Rank) -> Outcome,
}

const fn fault(survivors: usize, want: &'static [&'static str], body: fn(&mut Rank) -> Outcome) -> Fault {
    Fault { survivors, want, body }
}

impl Fault {
    pub fn check(&self, engine: Engine) {
        let Fault { survivors, want, body } = self;
        let group = [(NAME, vec![1, 2, 3])];
        let results = world(engine, 4, 1024, &group, TIMEOUT, |rank| match rank.id {
            0 => Outcome::Away,
            // Who is late at the operation before hears of the fault there: for others that operation was over.
            _ => match rank.go(0, AllReduce, None, Some(f32s(3))) {
                Ok(()) => body(rank),
                Err(error) => Outcome::Error(error.to_string()),
            },
        });
        let mut errors = vec![];
        for result in results {
            match result {
                Ok(Outcome::Error(error)) => errors.push(error),
                Ok(Outcome::Good) => panic!("a fault went unseen, {engine:?}"),
                Ok(Outcome::Away) => {}
                Err(panic) => assert_eq!(panic.downcast_ref(), Some(&PANIC)),
            }
        }
        // Of processes, each counts only its own.
        assert!(errors.len() == *survivors || engine.process().is_some(), "{engine:?}: {errors:?}");
        for error in errors {
            let told = want.iter().chain(&[NAME]).all(|part| error.contains(part));
            assert!(told, "{engine:?}: {error:?} does not tell {want:?}");
        }
    }
}

/// A fault for each test, and the table of all.
macro_rules! faults {
    ($($(#[$doc:meta])* $name:ident: $fault:expr;)*) => {
        pub const FAULTS: &[(&str, Fault)] = &[$((stringify!($name), $fault)),*];
        $($(#[$doc])* #[test]
        fn $name() {
            within(LIMIT, || ENGINES.into_iter().for_each(|engine| $fault.check(engine)));
        })*
    };
}

/// Of those that show only when time goes by.
fn check(survivors: usize, want: &'static [&'static str], body: fn(&mut Rank) -> Outcome) {
    within(LIMIT, move || ENGINES.into_iter().for_each(|engine| fault(survivors, want, body).check(engine)));
}

const PANIC: &str = "this rank fails by itself";

#[derive(PartialEq, Debug)]
pub enum Outcome {
    Good,
    Error(String),
    /// Takes no part, or left.
    Away,
}

/// One operation in place, to its real end.
fn call(rank: &mut Rank, op: Coll, x: View) -> Outcome {
    match rank.go(0, op, None, Some(x)).and_then(|()| rank.comms[0].finish()) {
        Ok(()) => Outcome::Good,
        Err(error) => {
            // It stays, wherever one looks.
            assert_eq!(rank.comms[0].poll().unwrap_err(), error);
            assert_eq!(rank.comms[0].finish().unwrap_err(), error);
            let again = view(DType::F32, 512, 3);
            assert_eq!(rank.go(0, AllReduce, None, Some(again)).unwrap_err(), error);
            Outcome::Error(error.to_string())
        }
    }
}

fn f32s(len: usize) -> View {
    view(DType::F32, 0, len)
}

faults! {
    mismatched_operation: fault(
        3,
        &["operation 1", "rank 1 called AllGather of 6 F32", "called AllReduce of 6 F32"],
        |rank| call(rank, if rank.id == 1 { AllGather } else { AllReduce }, f32s(6)),
    );
    mismatched_root: fault(
        3,
        &["operation 1", "rank 2 called Broadcast from 2 of 6 F32", "called Broadcast from 3 of 6"],
        |rank| call(rank, Broadcast { root: if rank.id == 2 { 1 } else { 2 } }, f32s(6)),
    );
    mismatched_length: fault(
        3,
        &["operation 1", "rank 3 called AllReduce of 7 F32", "called AllReduce of 6 F32"],
        |rank| call(rank, AllReduce, f32s(if rank.id == 3 { 7 } else { 6 })),
    );
    mismatched_dtype: fault(
        3,
        &["operation 1", "rank 2 called AllGather of 6 F64", "called AllGather of 6 U32"],
        |rank| call(rank, AllGather, view(if rank.id == 2 { DType::F64 } else { DType::U32 }, 0, 6)),
    );
    a_barrier_that_one_does_not_reach: fault(
        2,
        &["operation 1, Barrier: ranks [2] left before it"],
        |rank| match rank.id {
            2 => Outcome::Away,
            _ => match rank.go(0, Barrier, None, None).and_then(|()| rank.comms[0].finish()) {
                Ok(()) => Outcome::Good,
                Err(error) => Outcome::Error(error.to_string()),
            },
        },
    );
    a_rank_that_leaves: fault(
        2,
        &["operation 1, ReduceScatter of 6 F32: ranks [2] left before it"],
        |rank| if rank.id == 2 { Outcome::Away } else { call(rank, ReduceScatter, f32s(6)) },
    );
    a_rank_that_panics: fault(
        2,
        &["operation 1, AllGather of 6 F32: ranks [3] left before it"],
        |rank| if rank.id == 3 { panic!("this rank fails by itself") } else { call(rank, AllGather, f32s(6)) },
    );
    a_rank_that_gives_up_says_why: fault(
        3,
        &["rank 2 gave up: its disk is full"],
        |rank| {
            if rank.id == 2 {
                rank.comms[0].abort("its disk is full");
                rank.comms[0].abort("and more, which nobody needs");
            }
            call(rank, AllReduce, f32s(6))
        },
    );
}

#[test]
fn uneven_counts_that_disagree() {
    let want: &[&str] =
        &["called SendRecv from 2 to 3 of 5 F32", "called SendRecv from 2 to 3 of 4 F32", "operation 0"];
    check(3, want, |rank| {
        let views: [View; 6] = f32s(30).split([5; 6]);
        let receives = [3, 4, 5].map(|i| if (rank.id, i) == (3, 4) { views[i].sub(0, 4) } else { views[i] });
        match rank.all_to_all_uneven(0, &views[..3], &receives).and_then(|()| rank.comms[0].finish()) {
            // Who has nothing to do with the pair may have ended well; it is told at its next call.
            Ok(()) => {
                thread::sleep(LATE);
                call(rank, AllReduce, view(DType::F32, 600, 3))
            }
            Err(error) => Outcome::Error(error.to_string()),
        }
    });
}
#[test]
fn a_late_rank_is_told_too() {
    check(3, &["operation 1, AllReduce of 6 F32: ranks [2] did not come within 200ms"], |rank| {
        if rank.id == 2 {
            thread::sleep(LATE);
        }
        call(rank, AllReduce, f32s(6))
    });
}
/// Each pair counts its own operations; a pair's error is the group's.
#[test]
fn a_sender_that_leaves() {
    check(2, &["operation 0, SendRecv from 1 to 3 of 6 F32: ranks [1] left before it"], |rank| match rank.id {
        1 => Outcome::Away,
        2 => {
            thread::sleep(LATE);
            call(rank, AllReduce, f32s(6))
        }
        _ => call(rank, SendRecv { from: 0, to: 2 }, f32s(6)),
    });
}
/// Threads find each other by name. Processes do not wait to agree on one, and see it at the first operation.
#[test]
fn groups_joined_in_another_order() {
    let memory = tempfile::tempfile().unwrap();
    memory.set_len(comm::shared_bytes(2) as u64).unwrap();
    let worlds = [0, 1].map(|rank| comm::shared(&memory, rank, 2, TIMEOUT).unwrap());
    let barrier = |world: &comm::Processes, names: [&str; 2]| {
        let mut ends = names.map(|name| comm::Engine::join(world, name, &[0, 1]).unwrap());
        let ticket = ends[0].start(Mark::default(), Barrier, None, None)?;
        ends[0].wait(ticket).map(drop)
    };
    let errors = thread::scope(|scope| {
        let [a, b] = &worlds;
        let ranks =
            [scope.spawn(|| barrier(a, ["gather", "reduce"])), scope.spawn(|| barrier(b, ["reduce", "gather"]))];
        ranks.map(|rank| rank.join().unwrap().unwrap_err().to_string())
    });
    assert!(errors.iter().all(|error| error.contains("takes it for another group")), "{errors:?}");
}
#[test]
fn a_rank_is_taken_once() {
    let memory = tempfile::tempfile().unwrap();
    assert!(comm::shared(&memory, 0, 2, TIMEOUT).unwrap_err().to_string().contains("has 0 bytes"));
    memory.set_len(comm::shared_bytes(2) as u64).unwrap();
    let _world = comm::shared(&memory, 0, 2, TIMEOUT).unwrap();
    assert!(
        comm::shared(&memory, 0, 2, TIMEOUT).unwrap_err().to_string().contains("rank 0 of the shared memory is taken")
    );
}
#[test]
fn no_mpi_says_how_to_get_one() {
    let library = Some("/no/such/libmpi.so".into());
    let settings = comm::MpiSettings { library, launcher: comm::Launcher::Unknown, size: 2, timeout: TIMEOUT };
    let error = comm::mpi(settings).unwrap_err().to_string();
    let want = ["/no/such/libmpi.so", "apt install mpich", "pip install mpich", "INTERNEVO_MPI_LIB"];
    assert!(want.iter().all(|part| error.contains(part)), "{error}");
}
/// Memory of an operation that failed stays locked.
#[test]
#[should_panic(expected = "a wait is missing")]
fn loans_of_an_error_are_lost() {
    let mut ends = comm::threads(NAME, &[0, 1], TIMEOUT);
    ends.truncate(1);
    let mut dev = backend::Cpu::new([64; 6], 1);
    let loan = dev.lend(f32s(4), Access::Write);
    let ticket = ends[0].start(Mark::default(), AllReduce, None, Some(loan)).unwrap();
    assert!(ends[0].wait(ticket).is_err());
    dev.upload(&[0; 16], f32s(4));
}

// ---- mistakes of one rank, refused before anybody hears of them ----

/// A group of two on `arena`, whose rank 0 starts `op`.
fn start(arena: Arena, op: Coll, src: Option<View>, dst: Option<(View, Access)>) {
    let mut ends = comm::threads(NAME, &[0, 1], TIMEOUT);
    start_on(&mut *ends[0], arena, op, src, dst);
}
fn start_on(comm: &mut dyn Communicator, mut arena: Arena, op: Coll, src: Option<View>, dst: Option<(View, Access)>) {
    let src = src.map(|view| arena.lend(view, Access::Read));
    let dst = dst.map(|(view, access)| arena.lend(view, access));
    let _ = comm.start(Mark::default(), op, src, dst);
}
fn arena() -> Arena {
    Arena::new([256; 6])
}

#[test]
#[should_panic(expected = "AllReduce of rank 0 of 2 with src Some(2), dst Some(2) elements")]
fn all_reduce_is_in_place() {
    start(arena(), AllReduce, Some(f32s(4).sub(0, 2)), Some((f32s(4).sub(2, 2), Access::Write)));
}
#[test]
#[should_panic(expected = "AllGather of rank 0 of 2 with src Some(2), dst Some(3) elements")]
fn a_part_times_the_members_is_the_whole() {
    start(arena(), AllGather, Some(f32s(5).sub(0, 2)), Some((f32s(5).sub(2, 3), Access::Write)));
}
#[test]
#[should_panic(expected = "ReduceScatter of rank 0 of 2 with src None, dst Some(3) elements")]
fn a_whole_has_equal_parts() {
    start(arena(), ReduceScatter, None, Some((f32s(3), Access::Write)));
}
#[test]
#[should_panic(expected = "SendRecv { from: 0, to: 1 } of rank 0 of 2 with src None, dst Some(3) elements")]
fn a_sender_gives_a_source() {
    start(arena(), SendRecv { from: 0, to: 1 }, None, Some((f32s(3), Access::Write)));
}
#[test]
#[should_panic(expected = "AllReduce writes")]
fn a_written_view_is_lent_for_writing() {
    start(arena(), AllReduce, None, Some((f32s(3), Access::Read)));
}
#[test]
#[should_panic(expected = "sums are of floats")]
fn integers_are_not_summed() {
    start(arena(), AllReduce, None, Some((view(DType::U32, 0, 3), Access::Write)));
}
#[test]
#[should_panic(expected = "AllGather between dtypes")]
fn one_dtype() {
    start(arena(), AllGather, Some(f32s(1)), Some((view(DType::U32, 64, 2), Access::Write)));
}
#[test]
#[should_panic(expected = "phantom memory")]
fn threads_move_real_memory() {
    start(Arena::phantom([256; 6]), AllReduce, None, Some((f32s(3), Access::Write)));
}
#[test]
#[should_panic(expected = "memory that is ready at Mark(1)")]
fn not_before_the_memory_is_ready() {
    let mut dev = backend::Queued::new([256; 6], 1, None);
    dev.upload(&[0; 16], f32s(4));
    let loan = dev.lend(f32s(4), Access::Write);
    let mut ends = comm::threads(NAME, &[0, 1], TIMEOUT);
    let _ = ends[0].start(Mark::default(), AllReduce, None, Some(loan));
}
#[test]
#[should_panic(expected = "which compute never reaches")]
fn not_after_a_mark_of_the_future() {
    let loan = arena().lend(f32s(4), Access::Write);
    let inner = comm::threads(NAME, &[0], TIMEOUT).remove(0);
    let _ = comm::Queued::new(inner, Queue::new(None), None).start(Mark(1), AllReduce, None, Some(loan));
}
/// Shapes alone: the same rules, for a rank of any group.
#[test]
fn meta_gives_the_loans_back() {
    let mut comm = comm::Meta::new(3, 64);
    let mut dev = backend::Meta::new([1024; 6]);
    let [src, dst] = f32s(65).split([1, 64]);
    for _ in 0..2 {
        let [src, dst] = [dev.lend(src, Access::Read), dev.lend(dst, Access::Write)].map(Some);
        let ticket = comm.start(Mark::default(), AllGather, src, dst).unwrap();
        let loans = comm.wait(ticket).unwrap();
        loans.into_iter().flatten().for_each(|loan| dev.settle(loan));
    }
}
#[test]
#[should_panic(expected = "AllGather of rank 3 of 64 with src Some(1), dst Some(63) elements")]
fn meta_checks_lengths() {
    let [src, dst] = f32s(64).split([1, 63]);
    let arena = Arena::phantom([256; 6]);
    start_on(&mut comm::Meta::new(3, 64), arena, AllGather, Some(src), Some((dst, Access::Write)));
}
#[test]
#[should_panic(expected = "moves nothing")]
fn meta_refuses_real_memory() {
    start_on(&mut comm::Meta::new(0, 1), arena(), AllReduce, None, Some((f32s(3), Access::Write)));
}
