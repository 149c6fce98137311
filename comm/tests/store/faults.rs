//! Ranks that do not fit together, do not come, or go without a word.
use crate::strangers::Proxy;
use crate::*;
use comm::store::{MAX_VALUE, WeakSecret};

#[test]
fn a_wrong_secret_is_told_on_both_sides() {
    within(|| {
        let (listener, meeting) = meeting(2);
        let mut views = views(&meeting);
        views[0].timeout = SHORT;
        views[1].secret = secret("another secret of the tests");
        let results = ranks(listener, views, |_, _| Ok(()));
        says(
            &results[0],
            &["rank 1 did not come within 300ms at 127.0.0.1:", "a connection did not know", "INTERNEVO_JOB_SECRET"],
        );
        says(&results[1], &["does not know this job's secret", "INTERNEVO_JOB_SECRET"]);
    });
}

#[test]
fn ranks_of_another_job_are_strangers() {
    within(|| {
        let (listener, meeting) = meeting(2);
        let mut views = views(&meeting);
        views[0].timeout = SHORT;
        views[1].job = "another".into();
        let results = ranks(listener, views, |_, _| Ok(()));
        says(&results[0], &["rank 1 did not come"]);
        says(&results[1], &["it is another job", "MASTER_PORT"]);
    });
}

#[test]
fn no_secret_no_network() {
    let (_, meeting) = meeting(2);
    for address in ["0.0.0.0", "10.1.2.3", "some-host", "::"] {
        for rank in 0..2 {
            let meeting = Meeting { address: address.into(), secret: None, rank, ..meeting.clone() };
            says(&Store::join(&meeting).map(drop), &[address, "INTERNEVO_JOB_SECRET", "openssl rand -hex 32"]);
        }
    }
    let open = TcpListener::bind("0.0.0.0:0").unwrap();
    says(&Store::host(open, &Meeting { secret: None, ..meeting }).map(drop), &["INTERNEVO_JOB_SECRET"]);
}

#[test]
fn short_secrets_are_refused() {
    let error: WeakSecret = Secret::new("hunter2".into()).unwrap_err();
    assert!(error.to_string().starts_with("the job secret has 7 characters and takes 16 or more"), "{error}");
}

#[test]
fn another_world_is_an_error_of_all() {
    within(|| {
        let (listener, meeting) = meeting(3);
        let mut views = views(&meeting);
        views[2].world = 4;
        let results = ranks(listener, views, |_, _| Ok(()));
        for result in &results {
            says(result, &["rank 2 was started in a world of 4, rank 0 in one of 3"]);
        }
    });
}

#[test]
fn a_rank_beyond_the_world_is_an_error_of_all() {
    within(|| {
        let (listener, meeting) = meeting(2);
        let views = vec![meeting.clone(), Meeting { rank: 5, world: 8, ..meeting }];
        let results = ranks(listener, views, |_, _| Ok(()));
        for result in &results {
            says(result, &["rank 5 was started in a world of 8, rank 0 in one of 2"]);
        }
    });
}

#[test]
fn a_rank_that_comes_twice_is_an_error_of_all() {
    within(|| {
        let (listener, meeting) = meeting(3);
        let mut views = views(&meeting);
        views[2].rank = 1;
        let results = ranks(listener, views, |_, _| Ok(()));
        for result in &results {
            says(result, &["two processes say that they are rank 1"]);
        }
    });
}

#[test]
fn a_second_rank_0_is_an_error() {
    within(|| {
        let (listener, meeting) = meeting(2);
        let second = Store::join(&meeting);
        says(&second.map(drop), &["rank 0 cannot listen at 127.0.0.1:", "MASTER_PORT"]);
        drop(listener);
    });
}

#[test]
fn one_that_comes_late_and_twice_does_not_disturb() {
    within(|| {
        let (listener, meeting) = meeting(2);
        let late = Meeting { rank: 1, ..meeting.clone() };
        let results = ranks(listener, views(&meeting), |rank, mut store| {
            if rank == 1 {
                store.set("here", b"")?;
                store.wait("go on", LONG)?;
            } else {
                store.wait("here", LONG)?;
                says(&Store::join(&late).map(drop), &["refuses this rank", "two processes", "rank 1"]);
                store.set("go on", b"")?;
            }
            store.leave(LONG)
        });
        assert_eq!(results, vec![Ok(()); 2]);
    });
}

#[test]
fn who_does_not_come_is_named_to_all_that_did() {
    within(|| {
        let (listener, meeting) = meeting(4);
        let meeting = Meeting { timeout: SHORT, ..meeting };
        let mut views = views(&meeting);
        views.truncate(2);
        let port = meeting.port;
        for result in ranks(listener, views, |_, _| Ok(())) {
            says(&result, &[&format!("ranks [2, 3] did not come within 300ms at 127.0.0.1:{port}")]);
        }
    });
}

#[test]
fn without_rank_0_the_others_say_so() {
    within(|| {
        let (listener, meeting) = meeting(2);
        drop(listener);
        let result = Store::join(&Meeting { rank: 1, timeout: SHORT, ..meeting.clone() }).map(drop);
        says(&result, &[&format!("rank 0 did not listen at 127.0.0.1:{} within 300ms", meeting.port)]);
    });
}

/// A rank goes by a plain drop, as when its thread or process ends early.
#[test]
fn a_dead_rank_ends_the_waits_of_the_others() {
    within(|| {
        let results = job(4, |rank, mut store| {
            if rank == 2 {
                thread::sleep(SHORT);
                return Ok(());
            }
            let first = store.wait("never", LONG).unwrap_err();
            assert_eq!(first, StoreError::Gone { rank: 2, why: "its connection ended".into() });
            // Rank 0 stays until all know, and hears it there too.
            store.add("know", 1)?;
            while rank == 0 && store.get("know")?.as_deref() != Some(b"3") {
                thread::sleep(Duration::from_millis(1));
            }
            store.leave(LONG)
        });
        says(&results[0], &["rank 2 is gone: its connection ended"]);
    });
}

/// It is found out even if it died while it waited itself.
#[test]
fn a_rank_that_dies_in_a_wait_is_noticed() {
    within(|| {
        let (listener, meeting) = meeting(2);
        let to_rank_0 = Proxy::start(&meeting);
        let mut views = views(&meeting);
        views[1].port = to_rank_0.port;
        let results = ranks(listener, views, |rank, mut store| {
            if rank == 1 {
                return store.wait("never", LONG).map(drop);
            }
            thread::sleep(SHORT);
            to_rank_0.cut();
            let result = store.wait("never", LONG);
            says(&result, &["rank 1 is gone"]);
            Ok(())
        });
        says(&results[1], &["the connection to rank 0 at 127.0.0.1:", "is lost"]);
        assert_eq!(results[0], Ok(()));
    });
}

#[test]
fn a_value_that_is_there_is_given_after_a_death() {
    within(|| {
        let results = job(2, |rank, mut store| {
            if rank == 0 {
                says(&store.wait("never", LONG), &["rank 1 is gone"]);
                assert_eq!(store.wait("last word", SHORT)?, b"bye");
            } else {
                store.set("last word", b"bye")?;
            }
            Ok(())
        });
        assert_eq!(results, vec![Ok(()); 2]);
    });
}

#[test]
fn without_rank_0_every_question_is_an_error() {
    within(|| {
        let results = job(3, |rank, mut store| {
            if rank == 0 {
                return Ok(());
            }
            let error = store.wait("never", LONG).unwrap_err();
            assert!(matches!(error, StoreError::Lost { .. }), "{error}");
            assert_eq!(store.set("x", b""), Err(error.clone()));
            assert_eq!(store.leave(LONG), Err(error));
            Ok(())
        });
        assert_eq!(results, vec![Ok(()); 3]);
    });
}

#[test]
fn waits_have_an_end() {
    within(|| {
        let results = job(2, |_, mut store| {
            let timed_out = StoreError::TimedOut { key: "never".into(), timeout: SHORT };
            assert_eq!(store.wait("never", SHORT), Err(timed_out));
            store.set("usable", b"afterwards")?;
            store.leave(LONG)
        });
        assert_eq!(results, vec![Ok(()); 2]);
    });
}

#[test]
fn rank_0_does_not_wait_for_ever_for_good_byes() {
    within(|| {
        let results = job(2, |rank, mut store| {
            if rank == 0 {
                return store.leave(SHORT);
            }
            store.wait("never", LONG).map(drop)
        });
        says(&results[0], &["rank 1 did not say good-bye within 300ms"]);
        says(&results[1], &["is lost"]);
    });
}

#[test]
fn large_values_and_odd_counters_are_refused() {
    within(|| {
        let results = job(2, |_, mut store| {
            let large = vec![0; MAX_VALUE + 1];
            says(&store.set("large", &large), &["`large` of 65537 bytes", "65536 bytes are the most"]);
            store.set("word", b"abc")?;
            says(&store.add("word", 1), &["`word` is not a number"]);
            store.set("most", i64::MAX.to_string().as_bytes())?;
            says(&store.add("most", 1), &["`most` is not a number that can be added to"]);
            store.leave(LONG)
        });
        assert_eq!(results, vec![Ok(()); 2]);
    });
}

#[test]
fn other_configs_are_named_to_all() {
    within(|| {
        let results = job(4, |rank, mut store| {
            let result = store.check_same("config", &[rank as u8 % 2], LONG);
            store.leave(LONG)?;
            result
        });
        for result in &results {
            says(result, &["ranks [1, 3] started with another config than rank 0", "the same run file and options"]);
        }
    });
}

#[test]
fn configs_are_not_waited_for_when_a_rank_is_dead() {
    within(|| {
        let results = job(3, |rank, mut store| match rank {
            1 => Ok(()),
            _ => store.check_same("config", b"x", LONG),
        });
        says(&results[0], &["rank 1 is gone"]);
        assert!(results[2].is_err());
    });
}
