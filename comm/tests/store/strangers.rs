//! What comes over the wire from those who do not belong to the job, or stand between.
use crate::*;
use std::io::{Read, Write};
use std::net::Shutdown;
use std::sync::{Arc, Mutex};

#[test]
fn garbage_does_not_disturb() {
    within(|| {
        let (listener, meeting) = meeting(2);
        let hello_of_nobody = [&b"intrnevo"[..], &[0; 44]].concat();
        let sayings: [&[u8]; 6] = [
            b"",
            b"x",
            b"GET / HTTP/1.1\r\nHost: store\r\n\r\n",
            &[0xff; 4096],
            &hello_of_nobody,
            &hello_of_nobody[..20],
        ];
        let say = |meeting: &Meeting| {
            let connections = sayings.map(|saying| {
                let mut stream = connection(meeting);
                stream.write_all(saying).unwrap();
                stream
            });
            // Some stay open, some go.
            connections.into_iter().step_by(2).collect::<Vec<_>>()
        };
        // Before the job, and during it.
        let kept = say(&meeting);
        let results = ranks(listener, views(&meeting), |rank, mut store| {
            store.add("here", 1)?;
            let kept = if rank == 1 { say(&meeting) } else { vec![] };
            store.check_same("config", b"x", LONG)?;
            store.leave(LONG)?;
            drop(kept);
            Ok(())
        });
        assert_eq!(results, vec![Ok(()); 2]);
        drop(kept);
    });
}

/// Who knows the protocol but not the secret gets no further than the proof, and cannot use rank 0's.
#[test]
fn a_proof_cannot_be_sent_back() {
    within(|| {
        let (listener, meeting) = meeting(2);
        let mut stream = connection(&meeting);
        let hello =
            [&b"intrnevo"[..], &1_u32.to_le_bytes(), &2_u32.to_le_bytes(), &1_u32.to_le_bytes(), &[7; 32]].concat();
        stream.write_all(&hello).unwrap();
        let results = ranks(listener, views(&meeting), |rank, store| {
            if rank == 0 {
                let mut answer = [0; 64];
                (&stream).read_exact(&mut answer).unwrap();
                (&stream).write_all(&answer[32..]).unwrap();
                assert_eq!((&stream).read(&mut answer).unwrap(), 0, "the connection has ended");
            }
            store.leave(LONG)
        });
        assert_eq!(results, vec![Ok(()); 2]);
    });
}

/// What is done to a frame of a rank on its way.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Fault {
    Repeat,
    Flip,
    Lengthen,
}

#[test]
fn no_frame_is_repeated_or_changed() {
    within(|| {
        for fault in [Fault::Repeat, Fault::Flip, Fault::Lengthen] {
            let (listener, meeting) = meeting(2);
            let proxy = Proxy::start(&meeting);
            let mut views = views(&meeting);
            views[1].port = proxy.port;
            let results = ranks(listener, views, |rank, mut store| {
                if rank == 1 {
                    store.add("counter", 1)?;
                    store.wait("go on", LONG)?;
                    *proxy.fault.lock().unwrap() = Some(fault);
                    let _ = store.add("counter", 10);
                    return store.add("counter", 100).map(drop);
                }
                store.wait("counter", LONG)?;
                store.set("go on", b"")?;
                let gone = store.wait("never", LONG);
                let sum = store.get("counter")?.unwrap();
                let seen = if fault == Fault::Repeat { "11" } else { "1" };
                assert_eq!(String::from_utf8(sum).unwrap(), seen, "{fault:?}");
                gone.map(drop)
            });
            let why = if fault == Fault::Lengthen { "a frame is too long" } else { "a frame is not authentic" };
            says(&results[0], &["rank 1 is gone", why]);
            says(&results[1], &["is lost"]);
        }
    });
}

/// Stands between a rank and rank 0.
pub struct Proxy {
    pub port: u16,
    fault: Arc<Mutex<Option<Fault>>>,
    ends: Arc<Mutex<Vec<TcpStream>>>,
}

impl Proxy {
    pub fn start(meeting: &Meeting) -> Proxy {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let proxy = Proxy { port: listener.local_addr().unwrap().port(), fault: Arc::default(), ends: Arc::default() };
        let (fault, ends, meeting) = (proxy.fault.clone(), proxy.ends.clone(), meeting.clone());
        thread::spawn(move || {
            let (rank, _) = listener.accept().unwrap();
            let rank_0 = connection(&meeting);
            *ends.lock().unwrap() = vec![rank.try_clone().unwrap(), rank_0.try_clone().unwrap()];
            let (mut from, mut to) = (rank_0.try_clone().unwrap(), rank.try_clone().unwrap());
            thread::spawn(move || {
                let _ = std::io::copy(&mut from, &mut to);
                let _ = to.shutdown(Shutdown::Both);
            });
            upwards(rank, rank_0, &fault);
        });
        proxy
    }

    pub fn cut(&self) {
        self.ends.lock().unwrap().iter().for_each(|end| end.shutdown(Shutdown::Both).unwrap());
    }
}

/// Hello and proof, then frame by frame; ends with the connection.
fn upwards(mut rank: TcpStream, mut rank_0: TcpStream, fault: &Mutex<Option<Fault>>) {
    let mut pass = |bytes: usize| {
        let mut buffer = vec![0; bytes];
        rank.read_exact(&mut buffer).ok()?;
        Some(buffer)
    };
    for part in [52, 32] {
        let Some(part) = pass(part) else { return };
        rank_0.write_all(&part).unwrap();
    }
    while let Some(length) = pass(4) {
        let Some(rest) = pass(u32::from_le_bytes(length[..].try_into().unwrap()) as usize + 32) else { return };
        let mut frame = [length, rest].concat();
        let last = frame.len() - 1;
        match fault.lock().unwrap().take() {
            Some(Fault::Repeat) => frame.extend(frame.clone()),
            Some(Fault::Flip) => frame[last - 40] ^= 1,
            Some(Fault::Lengthen) => frame[3] = 1,
            None => {}
        }
        if rank_0.write_all(&frame).is_err() {
            return;
        }
    }
}
