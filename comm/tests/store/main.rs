//! The store by its contract: [`jobs`] that go well, [`faults`] of ranks, [`strangers`] on the wire. Nothing hangs.
mod faults;
mod jobs;
mod strangers;

use comm::store::{Meeting, Secret, Store, StoreError};
use std::net::{TcpListener, TcpStream};
use std::sync::mpsc::{RecvTimeoutError, channel};
use std::thread;
use std::time::Duration;

const LIMIT: Duration = Duration::from_secs(60);
/// For what happens.
const LONG: Duration = Duration::from_secs(20);
/// For what does not.
const SHORT: Duration = Duration::from_millis(300);

const SECRET: &str = "a secret of the tests";

fn secret(text: &str) -> Option<Secret> {
    Some(Secret::new(text.into()).unwrap())
}

/// A socket that listens, on a port that nobody else has, and a meeting there.
fn meeting(world: usize) -> (TcpListener, Meeting) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let meeting = Meeting {
        address: "127.0.0.1".into(),
        port,
        rank: 0,
        world,
        job: "test".into(),
        secret: secret(SECRET),
        timeout: LONG,
    };
    (listener, meeting)
}

/// Ranks as threads, each by its own view of the meeting; what each says in the end, or its error.
fn ranks<T: Send>(
    listener: TcpListener,
    views: Vec<Meeting>,
    body: impl Fn(usize, Store) -> Result<T, StoreError> + Sync,
) -> Vec<Result<T, StoreError>> {
    let (mut listener, body) = (Some(listener), &body);
    thread::scope(|scope| {
        let start = |(place, view): (usize, Meeting)| {
            let listener = if place == 0 { listener.take() } else { None };
            scope.spawn(move || {
                let store = match listener {
                    Some(listener) => Store::host(listener, &view)?,
                    None => Store::join(&view)?,
                };
                body(place, store)
            })
        };
        let threads: Vec<_> = views.into_iter().enumerate().map(start).collect();
        threads.into_iter().map(|thread| thread.join().unwrap()).collect()
    })
}

/// As many ranks as the world has, all of one mind.
fn job<T: Send>(
    world: usize,
    body: impl Fn(usize, Store) -> Result<T, StoreError> + Sync,
) -> Vec<Result<T, StoreError>> {
    let (listener, meeting) = meeting(world);
    ranks(listener, views(&meeting), body)
}

fn views(meeting: &Meeting) -> Vec<Meeting> {
    (0..meeting.world).map(|rank| Meeting { rank, ..meeting.clone() }).collect()
}

/// A test that does not end fails.
fn within(test: impl FnOnce() + Send + 'static) {
    let (done, ended) = channel();
    let test = thread::spawn(move || {
        test();
        done.send(()).unwrap();
    });
    // A test that panics drops its sender, and `join` says why.
    assert_ne!(ended.recv_timeout(LIMIT), Err(RecvTimeoutError::Timeout), "no end after {LIMIT:?}");
    if let Err(panic) = test.join() {
        std::panic::resume_unwind(panic);
    }
}

#[track_caller]
fn says<T>(result: &Result<T, StoreError>, parts: &[&str]) {
    let Err(error) = result else { panic!("went unseen; it should say {parts:?}") };
    let text = error.to_string();
    for part in parts {
        assert!(text.contains(part), "{text:?} does not say {part:?}");
    }
}

/// A connection that says nothing by itself.
fn connection(meeting: &Meeting) -> TcpStream {
    let stream = TcpStream::connect(("127.0.0.1", meeting.port)).unwrap();
    stream.set_read_timeout(Some(LONG)).unwrap();
    stream
}
