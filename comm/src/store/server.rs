//! The store's side of rank 0: the values, who is there, a thread that accepts and one for each connection.
use super::secret::Key;
use super::wire::{self, Channel, Hello, Reply, Request, VERSION};
use super::{Meeting, StoreError};
use std::collections::HashMap;
use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Condvar, Mutex, MutexGuard};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

/// For a connection that does not say who it is.
const PATIENCE: Duration = Duration::from_secs(5);
/// For ranks that come while a job is refused: launchers start all within such a time.
const LINGER: Duration = Duration::from_secs(1);
/// How often the death of a rank that waits is looked for.
const LOOK: Duration = Duration::from_millis(50);

pub struct Server {
    shared: Arc<Shared>,
    listens: SocketAddr,
    acceptor: Option<JoinHandle<()>>,
}

struct Shared {
    world: usize,
    key: Key,
    state: Mutex<State>,
    /// Notified at each change of the state.
    changed: Condvar,
}

struct State {
    phase: Phase,
    seats: Vec<Seat>,
    values: HashMap<String, Vec<u8>>,
    /// The first rank that went without a good-bye, and how.
    gone: Option<(usize, String)>,
    /// Connections that did not know the secret.
    strangers: usize,
    /// All open ones, by a number; the end of the store is theirs.
    connections: HashMap<u64, TcpStream>,
    connected: u64,
    /// Ranks that wait to hear how the rendezvous ended.
    to_tell: usize,
}

#[derive(Clone, PartialEq, Debug)]
enum Phase {
    Gathering,
    Running,
    Refused(StoreError),
    Closed,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Seat {
    Away,
    Here,
    Left,
}

impl Server {
    /// Returns when all ranks are there.
    pub fn gather(listener: TcpListener, meeting: &Meeting) -> Result<Server, StoreError> {
        let listens = listener.local_addr().map_err(|e| meeting.cannot_listen(&e))?;
        let mut seats = vec![Seat::Away; meeting.world];
        seats[0] = Seat::Here;
        let state = State {
            phase: Phase::Gathering,
            seats,
            values: HashMap::new(),
            gone: None,
            strangers: 0,
            connections: HashMap::new(),
            connected: 0,
            to_tell: 0,
        };
        let shared = Arc::new(Shared {
            world: meeting.world,
            key: meeting.key(),
            state: Mutex::new(state),
            changed: Condvar::new(),
        });
        let of_acceptor = shared.clone();
        let acceptor = thread::spawn(move || accept(&of_acceptor, &listener));
        let server = Server { shared, listens, acceptor: Some(acceptor) };
        server.wait_for_all(meeting)?;
        Ok(server)
    }

    fn wait_for_all(&self, meeting: &Meeting) -> Result<(), StoreError> {
        let shared = &self.shared;
        let gathering = |state: &mut State| state.phase == Phase::Gathering && state.seats.contains(&Seat::Away);
        let (mut state, _) = shared.changed.wait_timeout_while(shared.lock(), meeting.timeout, gathering).unwrap();
        if state.phase == Phase::Gathering {
            let ranks: Vec<usize> = state.in_seat(Seat::Away);
            state.phase = match ranks.is_empty() {
                true => Phase::Running,
                false => Phase::Refused(StoreError::Missing {
                    ranks,
                    address: meeting.to_string(),
                    timeout: meeting.timeout,
                    strangers: state.strangers,
                }),
            };
            shared.changed.notify_all();
        }
        let refused = match &state.phase {
            Phase::Refused(error) => Some(error.clone()),
            Phase::Gathering | Phase::Running | Phase::Closed => None,
        };
        if matches!(refused, Some(StoreError::World { .. } | StoreError::Duplicate { .. } | StoreError::Version { .. }))
        {
            // Ranks that are on their way hear the reason, and not that nobody listens.
            (state, _) = shared.changed.wait_timeout_while(state, LINGER, |_| true).unwrap();
        }
        // Those that came are told how it ended, even if this rank ends the store at once.
        drop(shared.changed.wait_timeout_while(state, PATIENCE, |state| state.to_tell > 0).unwrap());
        refused.map_or(Ok(()), Err)
    }

    pub fn answer(&self, key: &str, request: Request) -> Reply {
        self.shared.answer(key, request, &mut || true)
    }

    /// Until every other rank has left: who goes first takes the store along.
    pub fn leave(self, timeout: Duration) -> Result<(), StoreError> {
        let here = |state: &State| state.in_seat(Seat::Here).into_iter().filter(|&rank| rank > 0).collect::<Vec<_>>();
        let stay = |state: &mut State| state.gone.is_none() && !here(state).is_empty();
        let (state, _) = self.shared.changed.wait_timeout_while(self.shared.lock(), timeout, stay).unwrap();
        match (&state.gone, here(&state)) {
            (Some((rank, why)), _) => Err(StoreError::Gone { rank: *rank, why: why.clone() }),
            (None, ranks) if !ranks.is_empty() => Err(StoreError::Stays { ranks, timeout }),
            (None, _) => Ok(()),
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let mut state = self.shared.lock();
        state.phase = Phase::Closed;
        for connection in state.connections.values() {
            // It may have ended by itself.
            let _ = connection.shutdown(Shutdown::Both);
        }
        drop(state);
        self.shared.changed.notify_all();
        // The acceptor sleeps until somebody connects: this one. If that fails it is left to the end of the process.
        let host = match self.listens {
            SocketAddr::V4(at) if at.ip().is_unspecified() => Ipv4Addr::LOCALHOST.into(),
            SocketAddr::V6(at) if at.ip().is_unspecified() => Ipv6Addr::LOCALHOST.into(),
            at => at.ip(),
        };
        let woken = TcpStream::connect_timeout(&SocketAddr::new(host, self.listens.port()), PATIENCE);
        if let (Some(acceptor), Ok(_)) = (self.acceptor.take(), woken) {
            acceptor.join().expect("the acceptor does not panic");
        }
    }
}

// ---- connections ---------------------------------------------------------------------------------------------------

fn accept(shared: &Arc<Shared>, listener: &TcpListener) {
    loop {
        let accepted = listener.accept();
        let mut state = shared.lock();
        if state.phase == Phase::Closed {
            return;
        }
        let twin = accepted.and_then(|(stream, _)| Ok((stream.try_clone()?, stream)));
        let Ok((stream, twin)) = twin else {
            // The caller is gone again, or this process has too many open files: who is missing in the end has a name.
            drop(state);
            thread::sleep(LOOK);
            continue;
        };
        let id = state.connected;
        state.connected += 1;
        state.connections.insert(id, twin);
        drop(state);
        let shared = shared.clone();
        thread::spawn(move || {
            shared.connection(stream);
            shared.lock().connections.remove(&id);
        });
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("nothing panics that holds the lock")
    }

    fn connection(&self, stream: TcpStream) {
        let greeted = limits(&stream, PATIENCE).and_then(|()| wire::welcome(stream, &self.key));
        let Ok(Some((hello, mut channel))) = greeted else {
            self.lock().strangers += 1;
            return;
        };
        let Some(rank) = self.seat(hello, &mut channel) else { return };
        let why = match self.serve(&mut channel) {
            Ok(()) => return self.change(|state| state.seats[rank] = Seat::Left),
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => "its connection ended".to_owned(),
            Err(error) => error.to_string(),
        };
        self.change(|state| {
            if state.phase != Phase::Closed {
                state.gone.get_or_insert((rank, why));
            }
        });
    }

    fn change(&self, change: impl FnOnce(&mut State)) {
        change(&mut self.lock());
        self.changed.notify_all();
    }

    /// Gives a rank its seat and tells it, when all are there, that the job begins. None: there is no seat for it, or
    /// no job.
    fn seat(&self, hello: Hello, channel: &mut Channel) -> Option<usize> {
        let rank = hello.rank as usize;
        let mut state = self.lock();
        let verdict = match self.judge(hello, &state) {
            Ok(()) => {
                state.seats[rank] = Seat::Here;
                state.to_tell += 1;
                self.changed.notify_all();
                state = self.changed.wait_while(state, |state| state.phase == Phase::Gathering).unwrap();
                match &state.phase {
                    Phase::Running => Ok(()),
                    Phase::Refused(error) => Err(error.clone()),
                    Phase::Gathering | Phase::Closed => Err(StoreError::Closed),
                }
            }
            Err(error) => {
                // Before the start nobody can say which of two is right. A job that runs is not disturbed.
                if state.phase == Phase::Gathering {
                    state.phase = Phase::Refused(error.clone());
                }
                state.to_tell += 1;
                self.changed.notify_all();
                Err(error)
            }
        };
        drop(state);
        let reply = match &verdict {
            Ok(()) => Reply::Done,
            Err(error) => Reply::Refused(error.to_string()),
        };
        // A rank that is gone by now is found out when it is listened to.
        let told = channel.send(&reply.encode());
        self.change(|state| {
            state.to_tell -= 1;
            if let (Ok(()), Err(error)) = (&verdict, told) {
                state.gone.get_or_insert((rank, error.to_string()));
            }
        });
        verdict.ok().map(|()| rank)
    }

    fn judge(&self, hello: Hello, state: &State) -> Result<(), StoreError> {
        let (rank, theirs, ours) = (hello.rank as usize, hello.world as usize, self.world);
        if hello.version != VERSION {
            return Err(StoreError::Version { rank, theirs: hello.version, ours: VERSION });
        }
        if theirs != ours || rank >= ours {
            return Err(StoreError::World { rank, theirs, ours });
        }
        match state.seats[rank] {
            Seat::Away => Ok(()),
            Seat::Here | Seat::Left => Err(StoreError::Duplicate { rank }),
        }
    }

    /// Until a rank says good-bye.
    fn serve(&self, channel: &mut Channel) -> io::Result<()> {
        channel.stream.set_read_timeout(None)?;
        loop {
            let body = channel.receive()?;
            let Some((key, request)) = Request::decode(&body) else {
                return Err(io::Error::new(io::ErrorKind::InvalidData, "it sent a request that does not exist"));
            };
            let leaves = request == Request::Leave;
            let reply = self.answer(&key, request, &mut || channel.is_quiet());
            channel.send(&reply.encode())?;
            if leaves {
                return Ok(());
            }
        }
    }

    // ---- requests --------------------------------------------------------------------------------------------------

    fn answer(&self, key: &str, request: Request, is_there: &mut dyn FnMut() -> bool) -> Reply {
        match request {
            Request::Get => self.lock().values.get(key).map_or(Reply::Absent, |value| Reply::Value(value.clone())),
            Request::Wait(timeout) => self.wait(key, timeout, is_there),
            Request::Leave => Reply::Done,
            Request::Set(value) => {
                self.change(|state| drop(state.values.insert(key.into(), value)));
                Reply::Done
            }
            Request::Remove => {
                self.change(|state| drop(state.values.remove(key)));
                Reply::Done
            }
            Request::Add(delta) => {
                let mut state = self.lock();
                let old = state.values.get(key).map_or(Some(0), |value| number(value));
                let Some(new) = old.and_then(|old| old.checked_add(delta)) else { return Reply::NotANumber };
                state.values.insert(key.into(), new.to_string().into());
                drop(state);
                self.changed.notify_all();
                Reply::Number(new)
            }
        }
    }

    fn wait(&self, key: &str, timeout: Duration, is_there: &mut dyn FnMut() -> bool) -> Reply {
        let began = Instant::now();
        let mut looked = began;
        let mut state = self.lock();
        loop {
            if let Some(value) = state.values.get(key) {
                return Reply::Value(value.clone());
            }
            if let Some((rank, why)) = &state.gone {
                return Reply::Gone { rank: *rank as u32, why: why.clone() };
            }
            let left = timeout.saturating_sub(began.elapsed());
            if left.is_zero() || state.phase == Phase::Closed {
                return Reply::TimedOut;
            }
            if looked.elapsed() >= LOOK {
                looked = Instant::now();
                if !is_there() {
                    // Nobody reads this reply; whoever listens to the rank next finds out how it went.
                    return Reply::TimedOut;
                }
            }
            (state, _) = self.changed.wait_timeout(state, left.min(LOOK)).unwrap();
        }
    }
}

impl State {
    fn in_seat(&self, seat: Seat) -> Vec<usize> {
        (0..self.seats.len()).filter(|&rank| self.seats[rank] == seat).collect()
    }
}

/// Counters are kept as text, so that `get` reads them.
fn number(value: &[u8]) -> Option<i64> {
    std::str::from_utf8(value).ok()?.parse().ok()
}

/// What is written goes at once, and nothing waits for ever.
pub fn limits(stream: &TcpStream, timeout: Duration) -> io::Result<()> {
    stream.set_nodelay(true)?;
    stream.set_read_timeout(Some(timeout))?;
    stream.set_write_timeout(Some(timeout))
}
