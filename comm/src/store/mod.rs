//! The control store: how processes of a job find each other and exchange words.
//!
//! Rank 0 serves a table of small values, all others connect to it; nobody goes on before all are there. A rank that
//! does not know the job's secret is not let in, one that counts another world or has a taken number is an error for
//! all, and one that goes without a good-bye ends the waits of the others with its name. Without a secret the store
//! does not leave this host. It never carries a tensor: that is what engines are for.
//!
//! Read on in [`wire`] for what travels, in [`server`] for what rank 0 does with it.
mod client;
mod secret;
mod server;
mod wire;

pub use secret::{Secret, WeakSecret};
pub use wire::{MAX_KEY, MAX_VALUE};

use client::Client;
use secret::Key;
use server::Server;
use std::fmt;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, ToSocketAddrs};
use std::time::Duration;
use wire::{Reply, Request};

/// Who meets where, as whom.
#[derive(Clone, Debug)]
pub struct Meeting {
    /// A host's name or number.
    pub address: String,
    pub port: u16,
    pub rank: usize,
    pub world: usize,
    /// What the launcher calls the job: ranks of different jobs are strangers to each other.
    pub job: String,
    pub secret: Option<Secret>,
    /// For all ranks to come.
    pub timeout: Duration,
}

/// A rank's end of the store. A rank that only drops it, since it failed, is gone; one that is done says [`Store::leave`].
pub struct Store {
    rank: usize,
    world: usize,
    seat: Seat,
}

enum Seat {
    Host(Server),
    Guest(Client),
}

#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum StoreError {
    #[error(
        "ranks meet at {address}, which other hosts can reach: set INTERNEVO_JOB_SECRET to the same secret for all ranks, as in `export INTERNEVO_JOB_SECRET=$(openssl rand -hex 32)`"
    )]
    NoSecret { address: String },
    #[error("rank 0 cannot listen at {address}: {error}; if another program does, set MASTER_PORT for all ranks")]
    Listen { address: String, error: String },
    #[error("rank 0 did not listen at {address} within {timeout:?}: {error}")]
    Unreachable { address: String, timeout: Duration, error: String },
    #[error("{} did not come within {timeout:?} at {address}{}", Ranks(.ranks), Strangers(*.strangers))]
    Missing { ranks: Vec<usize>, address: String, timeout: Duration, strangers: usize },
    #[error(
        "rank {rank} was started in a world of {theirs}, rank 0 in one of {ours}: start all ranks with one launcher, or WORLD_SIZE the same for all"
    )]
    World { rank: usize, theirs: usize, ours: usize },
    #[error("two processes say that they are rank {rank}: each needs a RANK of its own")]
    Duplicate { rank: usize },
    #[error("rank {rank} speaks version {theirs} of the store, rank 0 version {ours}: start one program on all hosts")]
    Version { rank: usize, theirs: u32, ours: u32 },
    #[error("rank 0 at {address} refuses this rank: {why}")]
    Refused { address: String, why: String },
    #[error(
        "who listens at {address} does not know this job's secret: INTERNEVO_JOB_SECRET differs, or it is another job; MASTER_PORT chooses another port"
    )]
    Stranger { address: String },
    #[error("the connection to rank 0 at {address} is lost: {error}")]
    Lost { address: String, error: String },
    #[error("rank {rank} is gone: {why}")]
    Gone { rank: usize, why: String },
    #[error("nobody has set `{key}` within {timeout:?}")]
    TimedOut { key: String, timeout: Duration },
    #[error("`{key}` is not a number that can be added to")]
    NotANumber { key: String },
    #[error("`{key}` of {bytes} bytes is too large for the store: {MAX_VALUE} bytes are the most")]
    TooLarge { key: String, bytes: usize },
    #[error("{} started with another {what} than rank 0: give all ranks the same run file and options", Ranks(.ranks))]
    Differs { what: String, ranks: Vec<usize> },
    #[error("{} did not say good-bye within {timeout:?}", Ranks(.ranks))]
    Stays { ranks: Vec<usize>, timeout: Duration },
    #[error("the store is closed")]
    Closed,
}

impl Store {
    /// Rank 0 listens, the others connect; returns when all are there.
    pub fn join(meeting: &Meeting) -> Result<Store, StoreError> {
        let bind = match (is_loopback(&meeting.address), &meeting.secret) {
            (false, None) => return Err(StoreError::NoSecret { address: meeting.to_string() }),
            (true, _) => Bind::Named,
            (false, Some(_)) => Bind::All,
        };
        match meeting.rank {
            0 => Store::host(meeting.listen(bind)?, meeting),
            _ => Ok(Store::new(meeting, Seat::Guest(Client::connect(meeting)?))),
        }
    }

    /// Rank 0 on a socket that listens already, where it was made by whoever started the ranks.
    pub fn host(listener: TcpListener, meeting: &Meeting) -> Result<Store, StoreError> {
        let open = |at: SocketAddr| !at.ip().is_loopback();
        let at = listener.local_addr().map_err(|e| meeting.cannot_listen(&e))?;
        if open(at) && meeting.secret.is_none() {
            return Err(StoreError::NoSecret { address: at.to_string() });
        }
        Ok(Store::new(meeting, Seat::Host(Server::gather(listener, meeting)?)))
    }

    fn new(meeting: &Meeting, seat: Seat) -> Store {
        Store { rank: meeting.rank, world: meeting.world, seat }
    }

    pub fn set(&mut self, key: &str, value: &[u8]) -> Result<(), StoreError> {
        if value.len() > MAX_VALUE {
            return Err(StoreError::TooLarge { key: key.into(), bytes: value.len() });
        }
        match self.ask(key, Request::Set(value.into()))? {
            Reply::Done => Ok(()),
            other => Err(self.nonsense(&other)),
        }
    }

    pub fn get(&mut self, key: &str) -> Result<Option<Vec<u8>>, StoreError> {
        match self.ask(key, Request::Get)? {
            Reply::Value(value) => Ok(Some(value)),
            Reply::Absent => Ok(None),
            other => Err(self.nonsense(&other)),
        }
    }

    pub fn remove(&mut self, key: &str) -> Result<(), StoreError> {
        match self.ask(key, Request::Remove)? {
            Reply::Done => Ok(()),
            other => Err(self.nonsense(&other)),
        }
    }

    /// The value of a key, as soon as anybody sets it. Who waits hears of a rank that is gone.
    pub fn wait(&mut self, key: &str, timeout: Duration) -> Result<Vec<u8>, StoreError> {
        match self.ask(key, Request::Wait(timeout))? {
            Reply::Value(value) => Ok(value),
            Reply::TimedOut => Err(StoreError::TimedOut { key: key.into(), timeout }),
            Reply::Gone { rank, why } => Err(StoreError::Gone { rank: rank as usize, why }),
            other => Err(self.nonsense(&other)),
        }
    }

    /// Adds to a counter, which begins at 0, and returns the sum.
    pub fn add(&mut self, key: &str, delta: i64) -> Result<i64, StoreError> {
        match self.ask(key, Request::Add(delta))? {
            Reply::Number(sum) => Ok(sum),
            Reply::NotANumber => Err(StoreError::NotANumber { key: key.into() }),
            other => Err(self.nonsense(&other)),
        }
    }

    /// All ranks must have the same value, such as the hash of a config; the error names those that differ from rank 0.
    /// Each rank calls this, once for each `what`.
    pub fn check_same(&mut self, what: &str, value: &[u8], timeout: Duration) -> Result<(), StoreError> {
        let (of, verdict) = (|rank| format!("same/{what}/{rank}"), format!("same/{what}"));
        if self.rank > 0 {
            self.set(&of(self.rank), value)?;
            let ranks = self.wait(&verdict, timeout)?;
            return same(what, &ranks);
        }
        let mut differ = vec![];
        for rank in 1..self.world {
            if self.wait(&of(rank), timeout)? != value {
                differ.extend((rank as u32).to_le_bytes());
            }
            self.remove(&of(rank))?;
        }
        differ.truncate(MAX_VALUE);
        self.set(&verdict, &differ)?;
        same(what, &differ)
    }

    /// Says good-bye. Rank 0 waits for the others to do so: the store goes with it.
    pub fn leave(self, timeout: Duration) -> Result<(), StoreError> {
        match self.seat {
            Seat::Host(server) => server.leave(timeout),
            Seat::Guest(mut client) => match client.ask("", Request::Leave)? {
                Reply::Done => Ok(()),
                other => Err(client.nonsense(&other)),
            },
        }
    }

    fn ask(&mut self, key: &str, request: Request) -> Result<Reply, StoreError> {
        match &mut self.seat {
            Seat::Host(server) => Ok(server.answer(key, request)),
            Seat::Guest(client) => client.ask(key, request),
        }
    }

    fn nonsense(&mut self, reply: &Reply) -> StoreError {
        match &mut self.seat {
            Seat::Host(_) => panic!("{reply:?} to another question"),
            Seat::Guest(client) => client.nonsense(reply),
        }
    }
}

/// Rank 0's list of those that differ, as numbers of four bytes.
fn same(what: &str, differ: &[u8]) -> Result<(), StoreError> {
    let number = |bytes: &[u8; 4]| u32::from_le_bytes(*bytes) as usize;
    let ranks: Vec<usize> = differ.as_chunks().0.iter().map(number).collect();
    if ranks.is_empty() { Ok(()) } else { Err(StoreError::Differs { what: what.into(), ranks }) }
}

// ---- addresses -----------------------------------------------------------------------------------------------------

enum Bind {
    /// The address of the meeting and no other.
    Named,
    /// Every address of this host: its name may mean another one here than elsewhere.
    All,
}

impl Meeting {
    fn key(&self) -> Key {
        Key::of_job(self.secret.as_ref(), &self.job)
    }

    fn listen(&self, bind: Bind) -> Result<TcpListener, StoreError> {
        let mut addresses: Vec<SocketAddr> =
            (self.address.as_str(), self.port).to_socket_addrs().map_err(|error| self.cannot_listen(&error))?.collect();
        if let Bind::All = bind {
            let any = match addresses.iter().any(SocketAddr::is_ipv4) {
                true => IpAddr::V4(Ipv4Addr::UNSPECIFIED),
                false => IpAddr::V6(Ipv6Addr::UNSPECIFIED),
            };
            addresses = vec![SocketAddr::new(any, self.port)];
        }
        TcpListener::bind(addresses.as_slice()).map_err(|error| self.cannot_listen(&error))
    }

    fn cannot_listen(&self, error: &io::Error) -> StoreError {
        StoreError::Listen { address: self.to_string(), error: error.to_string() }
    }
}

impl fmt::Display for Meeting {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        let Meeting { address, port, .. } = self;
        if address.contains(':') { write!(f, "[{address}]:{port}") } else { write!(f, "{address}:{port}") }
    }
}

/// Names that mean this host on every host; what other names mean depends on who asks.
fn is_loopback(address: &str) -> bool {
    address == "localhost" || address.parse::<IpAddr>().is_ok_and(|address| address.is_loopback())
}

// ---- words of errors -----------------------------------------------------------------------------------------------

struct Ranks<'a>(&'a [usize]);

impl fmt::Display for Ranks<'_> {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        const SHOWN: usize = 16;
        match self.0 {
            [rank] => write!(f, "rank {rank}"),
            ranks if ranks.len() <= SHOWN => write!(f, "ranks {ranks:?}"),
            ranks => write!(f, "ranks {:?} and {} more", &ranks[..SHOWN], ranks.len() - SHOWN),
        }
    }
}

struct Strangers(usize);

impl fmt::Display for Strangers {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        match self.0 {
            0 => Ok(()),
            1 => f.write_str("; a connection did not know the job's secret (INTERNEVO_JOB_SECRET)"),
            n => write!(f, "; {n} connections did not know the job's secret (INTERNEVO_JOB_SECRET)"),
        }
    }
}
