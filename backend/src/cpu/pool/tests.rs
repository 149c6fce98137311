//! Parts, panics, nested jobs, scratch, sleep, and more threads than cores.
use super::*;
use std::sync::atomic::AtomicU32;
use std::time::{Duration, Instant};

fn pool(threads: usize) -> Pool {
    Pool::new(threads, Isa::best())
}

/// What a panic of `f` says.
fn message(f: impl FnOnce()) -> String {
    let panic = catch_unwind(AssertUnwindSafe(f)).expect_err("a panic");
    match panic.downcast::<String>() {
        Ok(text) => *text,
        Err(panic) => panic.downcast_ref::<&str>().unwrap().to_string(),
    }
}

/// Every part exactly once, many jobs in a row; and the pool is usable.
fn check(pool: &Pool) {
    let counts: Vec<AtomicU32> = (0..1000).map(|_| AtomicU32::new(0)).collect();
    for n in [0, 1, 2, 3, 7, 64, 1000] {
        for round in 1..=30 {
            pool.each(n, |i| {
                counts[i].fetch_add(1, Relaxed);
            });
            assert!(counts[..n].iter().all(|count| count.load(Relaxed) == round), "{n} parts, round {round}");
        }
        counts.iter().for_each(|count| count.store(0, Relaxed));
    }
    let (x, mut y): (Vec<usize>, Vec<usize>) = ((0..1003).collect(), vec![0; 1003]);
    pool.over((pieces(&x, 10), pieces_mut(&mut y, 10)), |part, (x, y)| {
        assert_eq!((x[0], x.len()), (10 * part, if part == 100 { 3 } else { 10 }));
        y.copy_from_slice(x);
    });
    assert_eq!(x, y);
}

#[test]
fn every_part_exactly_once() {
    [1, 2, 3, 7].iter().for_each(|threads| check(&pool(*threads)));
}

/// Whoever of the threads takes the part.
#[test]
fn a_panic_comes_out_and_the_pool_goes_on() {
    for threads in [1, 2, 7] {
        let pool = pool(threads);
        for bad in [0, 1, 50, 99] {
            let job = || pool.each(100, |i| if i == bad { panic!("part {i}") } else { thread::yield_now() });
            assert_eq!(message(job), format!("part {bad}"));
            check(&pool);
        }
        // All of them at once: one is told.
        assert!(message(|| pool.each(100, |i| panic!("part {i}"))).starts_with("part "));
        check(&pool);
    }
}

#[test]
fn a_job_inside_of_a_job_is_refused() {
    for threads in [1, 2] {
        let pool = pool(threads);
        assert_eq!(message(|| pool.each(2, |_| pool.each(2, |_| ()))), "a job inside of a job");
        check(&pool);
    }
}

#[test]
fn parts_go_together() {
    let said = message(|| pool(2).over((pieces(&[0; 5], 2), pieces(&[0; 5], 3)), |_, _| ()));
    assert_eq!(said, "parts go together: [3, 2]");
}

#[test]
fn scratch_comes_back() {
    let pool = pool(2);
    let round = || {
        let mut a = pool.scratch::<f32>(1000);
        a.fill(1.0);
        let (b, c) = (pool.scratch::<f64>(10), pool.scratch::<u8>(100_000));
        assert_eq!((a.len(), b.len(), c.len()), (1000, 10, 100_000));
        let mut places = [a.as_ptr() as usize, b.as_ptr() as usize, c.as_ptr() as usize];
        assert!(places.iter().all(|place| place.is_multiple_of(64)), "whole cache lines");
        places.sort();
        places
    };
    let first = round();
    assert!((0..10).all(|_| round() == first), "later rounds allocate nothing");
}

#[test]
fn sleepers_wake_up() {
    let pool = pool(3);
    for _ in 0..20 {
        while !pool.shared.asleep.iter().all(|asleep| asleep.load(SeqCst)) {
            thread::sleep(Duration::from_millis(1));
        }
        // Three parts that wait for each other: three threads are awake.
        let met = AtomicUsize::new(0);
        pool.each(3, |_| {
            met.fetch_add(1, SeqCst);
            while met.load(SeqCst) < 3 {
                thread::yield_now();
            }
        });
    }
}

/// Of fourteen parts that take some nanoseconds each, and `spin` more looks at the clock.
fn jobs(pool: &Pool, jobs: usize, spin: usize) {
    let sum = AtomicUsize::new(0);
    for _ in 0..jobs {
        pool.each(14, |i| {
            for _ in 0..spin {
                std::hint::black_box(Instant::now());
            }
            sum.fetch_add(i, Relaxed);
        });
    }
    assert_eq!(sum.load(Relaxed), jobs * 91);
}

#[test]
fn tiny_jobs_are_quick() {
    for threads in [1, 2, 7] {
        let (pool, start) = (pool(threads), Instant::now());
        jobs(&pool, 100_000, 0);
        // Some 20 milliseconds each on an idle machine.
        assert!(start.elapsed() < Duration::from_secs(5), "{threads} threads: {:?}", start.elapsed());
    }
}

/// As ranks of a simulated cluster do: eight pools of seven threads, whatever the machine has.
#[test]
fn many_pools_do_not_crawl() {
    let time = |threads| {
        let start = Instant::now();
        thread::scope(|scope| {
            for _ in 0..8 {
                scope.spawn(|| jobs(&pool(threads), 1_000, 100));
            }
        });
        start.elapsed()
    };
    // About equal on an idle machine of two cores.
    let (alone, shared) = (time(1), time(7));
    assert!(shared < 5 * alone + Duration::from_secs(1), "{shared:?}, and {alone:?} without helpers");
}
