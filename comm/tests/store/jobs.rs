//! Jobs that go well.
use crate::*;
use comm::store::MAX_VALUE;
use std::time::Instant;

#[test]
fn values_are_everyones() {
    within(|| {
        let results = job(4, |rank, mut store| {
            let largest = vec![rank as u8; MAX_VALUE];
            store.set(&format!("of/{rank}"), &largest)?;
            for other in 0..4 {
                assert_eq!(store.wait(&format!("of/{other}"), LONG)?, vec![other as u8; MAX_VALUE]);
            }
            assert_eq!(store.get("of/0")?, Some(vec![0; MAX_VALUE]));
            assert_eq!(store.get("of/7")?, None);
            store.add("passed", 1)?;
            if rank == 0 {
                while store.get("passed")?.as_deref() != Some(b"4") {
                    thread::sleep(Duration::from_millis(1));
                }
                store.remove("of/1")?;
                store.set("removed", b"")?;
            }
            store.wait("removed", LONG)?;
            assert_eq!(store.get("of/1")?, None);
            store.leave(LONG)
        });
        assert_eq!(results, vec![Ok(()); 4]);
    });
}

#[test]
fn each_sum_of_a_counter_comes_once() {
    within(|| {
        let results = job(4, |_, mut store| {
            let sums = (0..100).map(|_| store.add("counter", 1)).collect::<Result<Vec<i64>, _>>()?;
            store.leave(LONG).map(|()| sums)
        });
        let mut sums: Vec<i64> = results.into_iter().flat_map(Result::unwrap).collect();
        sums.sort();
        assert_eq!(sums, (1..=400).collect::<Vec<_>>());
    });
}

#[test]
fn who_waits_is_woken() {
    within(|| {
        let results = job(3, |rank, mut store| {
            if rank == 2 {
                thread::sleep(SHORT);
                store.set("late", b"now")?;
            } else {
                let began = Instant::now();
                assert_eq!(store.wait("late", LONG)?, b"now");
                assert!(began.elapsed() < LONG / 2);
            }
            store.leave(LONG)
        });
        assert_eq!(results, vec![Ok(()); 3]);
    });
}

#[test]
fn a_world_of_one_needs_nobody() {
    within(|| {
        let results = job(1, |_, mut store| {
            assert_eq!(store.add("n", -3)?, -3);
            store.check_same("config", b"x", SHORT)?;
            store.leave(SHORT)
        });
        assert_eq!(results, vec![Ok(())]);
    });
}

#[test]
fn rank_0_may_come_last() {
    within(|| {
        let (listener, meeting) = meeting(3);
        // Nobody listens there until rank 0 does.
        drop(listener);
        let join = |rank: usize| {
            let meeting = Meeting { rank, ..meeting.clone() };
            thread::spawn(move || Store::join(&meeting)?.leave(LONG))
        };
        let others = [join(1), join(2)];
        thread::sleep(SHORT);
        let rank_0 = join(0);
        assert_eq!(rank_0.join().unwrap(), Ok(()));
        others.into_iter().for_each(|rank| assert_eq!(rank.join().unwrap(), Ok(())));
    });
}

#[test]
fn the_same_config_is_no_error() {
    within(|| {
        let results = job(4, |_, mut store| {
            store.check_same("config", b"hash", LONG)?;
            store.check_same("program", b"other hash", LONG)?;
            store.leave(LONG)
        });
        assert_eq!(results, vec![Ok(()); 4]);
    });
}

/// No secret is needed where no other host can come.
#[test]
fn the_loopback_needs_no_secret() {
    within(|| {
        let (listener, meeting) = meeting(2);
        let meeting = Meeting { secret: None, ..meeting };
        assert_eq!(ranks(listener, views(&meeting), |_, store| store.leave(LONG)), vec![Ok(()); 2]);
    });
}

#[test]
fn the_port_is_free_when_the_store_has_ended() {
    within(|| {
        let (listener, meeting) = meeting(2);
        assert_eq!(ranks(listener, views(&meeting), |_, store| store.leave(LONG)), vec![Ok(()); 2]);
        TcpListener::bind(("127.0.0.1", meeting.port)).unwrap();
    });
}
