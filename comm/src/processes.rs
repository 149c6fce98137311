//! Ranks as processes: the engine over any [`Transport`], which passes bytes.
//!
//! What moves is in [`flight`], what is said beside it and what goes wrong in [`group`]. Everything of a process goes
//! through one lock: whoever starts, waits or polls moves all operations of the process on, and so does one thread while
//! nobody does. So ranks may wait in any order, and a rank that computes for long does not hold up the others.
//!
//! Never a hang, as with threads: a wait in which nothing moves for the timeout is an error that names those that did
//! not come. Whoever finds an error tells all members.
mod flight;
mod frame;
mod group;
mod staging;
mod transport;

pub use transport::{Bytes, Request, Transport};

use crate::{Aborter, Call, Coll, CommError, Communicator, Engine, Open, Ticket};
use backend::{Loan, Mark};
use flight::Peers;
use group::{Group, TAGS};
use std::fmt;
use std::sync::{Arc, Condvar, Mutex, MutexGuard};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// A process of a world of processes. It is dropped after its ends, which it waits for.
pub struct Processes {
    rank: usize,
    timeout: Duration,
    shared: Arc<Shared>,
    mover: Option<JoinHandle<()>>,
}

struct Shared {
    hub: Mutex<Hub>,
    /// There is something to move, or nothing ever again.
    work: Condvar,
}

struct Hub {
    wire: Box<dyn Transport>,
    groups: Vec<Group>,
    /// Groups that each other process has in common with this one: the tags of the next one.
    common: Vec<u16>,
    listened: Instant,
    closing: bool,
}

/// Between two looks at the transport of a thread that has found nothing for a while.
const NAP: Duration = Duration::from_micros(100);
/// The same where nothing is under way.
const IDLE: Duration = Duration::from_millis(20);
/// Between two looks for notes.
const LISTEN: Duration = Duration::from_millis(1);

impl Processes {
    /// A wait in which nothing moves for `timeout` is an error.
    pub fn new(wire: Box<dyn Transport>, timeout: Duration) -> Processes {
        let (rank, size) = (wire.rank(), wire.size());
        let hub = Hub { wire, groups: vec![], common: vec![0; size], listened: Instant::now(), closing: false };
        let shared = Arc::new(Shared { hub: Mutex::new(hub), work: Condvar::new() });
        let moved = shared.clone();
        let mover = std::thread::Builder::new().name("comm".into()).spawn(move || moved.keep_moving());
        Processes { rank, timeout, shared, mover: Some(mover.expect("the system has a thread")) }
    }

    pub fn size(&self) -> usize {
        self.shared.hub().wire.size()
    }
}

impl fmt::Debug for Processes {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        let hub = self.shared.hub();
        write!(f, "process {} of {} by {}", self.rank, hub.wire.size(), hub.wire.name())
    }
}

impl Engine for Processes {
    fn rank(&self) -> usize {
        self.rank
    }

    fn join(&self, name: &str, members: &[usize]) -> Result<Box<dyn Communicator>, CommError> {
        let me = crate::threads::place(self.rank, members);
        let mut hub = self.shared.hub();
        let mut tags = vec![];
        for &rank in members {
            tags.push(hub.common[rank] * TAGS);
            hub.common[rank] += 1;
            assert!(hub.common[rank] < i16::MAX as u16 / TAGS, "more groups than MPI has tags");
        }
        let peers = Peers { members: members.to_vec(), me, tags, fingerprint: frame::fingerprint(name, members) };
        hub.groups.push(Group::new(name, peers, self.timeout));
        let group = hub.groups.len() - 1;
        Ok(Box::new(End { rank: me, size: members.len(), group, shared: self.shared.clone(), open: Open::default() }))
    }
}

impl Drop for Processes {
    /// Ends as all processes do together, unless something is wrong here: then at once, and the others find out.
    fn drop(&mut self) {
        // A hub whose lock is poisoned is loud by itself.
        let Ok(mut hub) = self.shared.hub.lock() else { return };
        hub.closing = true;
        drop(hub);
        self.shared.work.notify_all();
        let mover = self.mover.take().expect("it is taken here only");
        if mover.join().is_err() {
            return;
        }
        let began = Instant::now();
        let Ok(mut hub) = self.shared.hub.lock() else { return };
        // An end behind a queue is dropped by its lane, when that is done.
        while !hub.groups.iter().all(Group::is_done) && began.elapsed() < self.timeout {
            hub = self.shared.again(hub);
        }
        // Where something is wrong there may be messages that nobody receives, and others that do not come to a common
        // end. Then whoever started us cleans up.
        let well = |hub: &Hub| !std::thread::panicking() && hub.groups.iter().all(|g| g.is_done() && !g.is_broken());
        // How long others have still to do is not for us to say: one of them may be writing a checkpoint.
        while hub.wire.ends_together() && well(&hub) && !hub.groups.iter().all(Group::is_past) {
            hub = self.shared.again(hub);
        }
        let well = well(&hub);
        hub.groups.iter_mut().for_each(Group::close);
        if well {
            hub.wire.close().unwrap_or_else(|what| panic!("{}: {what}", hub.wire.name()));
        }
    }
}

impl Shared {
    fn hub(&self) -> MutexGuard<'_, Hub> {
        self.hub.lock().unwrap()
    }

    /// A step, and a nap.
    fn again<'a>(&'a self, mut hub: MutexGuard<'a, Hub>) -> MutexGuard<'a, Hub> {
        hub.progress();
        drop(hub);
        std::thread::sleep(NAP);
        self.hub()
    }

    fn keep_moving(&self) {
        let mut hub = self.hub();
        while !hub.closing {
            hub = if hub.groups.iter().any(Group::is_busy) {
                self.again(hub)
            } else {
                // An error of others is found while this process computes, too.
                let (mut hub, _) = self.work.wait_timeout(hub, IDLE).unwrap();
                hub.progress();
                hub
            };
        }
    }

    /// Until `done` is something. It says which operation of `group` it waits for, too.
    fn wait<T>(
        &self,
        group: usize,
        ticket: u64,
        done: impl Fn(&mut Group) -> Result<Option<T>, CommError>,
    ) -> Result<T, CommError> {
        let began = Instant::now();
        for look in 0.. {
            let mut hub = self.hub();
            hub.progress();
            let Hub { wire, groups, .. } = &mut *hub;
            if let Some(value) = done(&mut groups[group])? {
                return Ok(value);
            }
            groups[group].late(ticket, began, &mut **wire);
            drop(hub);
            match look {
                0..100 => std::thread::yield_now(),
                _ => std::thread::sleep(NAP),
            }
        }
        unreachable!("a wait ends by its operation or its time")
    }
}

impl Hub {
    fn progress(&mut self) {
        let listen = self.listened.elapsed() > LISTEN;
        if listen {
            self.listened = Instant::now();
        }
        self.groups.iter_mut().for_each(|group| group.progress(&mut *self.wire, listen));
    }
}

struct End {
    rank: usize,
    size: usize,
    /// Its number in the hub.
    group: usize,
    shared: Arc<Shared>,
    open: Open<u64>,
}

impl End {
    fn with<T>(&self, act: impl FnOnce(&mut Group, &mut dyn Transport) -> T) -> T {
        let mut hub = self.shared.hub();
        let Hub { wire, groups, .. } = &mut *hub;
        act(&mut groups[self.group], &mut **wire)
    }
}

impl Communicator for End {
    fn rank(&self) -> usize {
        self.rank
    }
    fn size(&self) -> usize {
        self.size
    }

    fn start(&mut self, after: Mark, op: Coll, src: Option<Loan>, dst: Option<Loan>) -> Result<Ticket, CommError> {
        let call = Call::new([self.rank, self.size], after, op, &src, &dst);
        for loan in [&src, &dst].into_iter().flatten() {
            assert!(loan.span().is_of_host(), "{call} of memory that the host cannot touch");
        }
        let ticket = self.with(|group, wire| group.start(call, [src, dst], wire))?;
        self.shared.work.notify_all();
        Ok(self.open.add(ticket))
    }

    fn wait(&mut self, ticket: Ticket) -> Result<[Option<Loan>; 2], CommError> {
        let ticket = self.open.take(ticket);
        self.shared.wait(self.group, ticket, |group| group.take(ticket))
    }

    fn poll(&mut self) -> Result<(), CommError> {
        let mut hub = self.shared.hub();
        hub.progress();
        hub.groups[self.group].health()
    }

    fn finish(&mut self) -> Result<(), CommError> {
        for &ticket in self.open.values() {
            self.shared.wait(self.group, ticket, |group| Ok(group.is_over(ticket)?.then_some(())))?;
        }
        self.poll()
    }

    fn aborter(&self) -> Aborter {
        let (group, shared) = (self.group, self.shared.clone());
        Arc::new(move |reason| {
            let mut hub = shared.hub();
            let Hub { wire, groups, .. } = &mut *hub;
            groups[group].abort(reason, &mut **wire);
        })
    }
}

impl Drop for End {
    fn drop(&mut self) {
        // A hub whose lock is poisoned is loud by itself.
        if let Ok(mut hub) = self.shared.hub.lock() {
            let Hub { wire, groups, .. } = &mut *hub;
            groups[self.group].leave(&mut **wire);
        }
    }
}
