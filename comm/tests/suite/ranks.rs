//! Ranks for tests: a device and the ends of some communicators each, on every engine.
use backend::{Access, Backend, DType, Region, Sizes, View};
use comm::{Coll, CommError, Communicator, Processes, Threads, Ticket, Transfer};
use std::sync::mpsc::{RecvTimeoutError, channel};
use std::{thread, time::Duration};

#[derive(Clone, Copy, Debug)]
pub enum Engine<'a> {
    Threads,
    /// Device and lanes behind queues, with random delays.
    Queued {
        seed: u64,
    },
    /// The engine of processes over shared memory, with all ranks in this process.
    Shared,
    /// The same behind queues.
    QueuedShared {
        seed: u64,
    },
    /// This process, of a world of processes.
    Process(&'a Processes),
    /// The same behind queues.
    QueuedProcess(&'a Processes, u64),
}
/// Those that need nobody else.
pub const ENGINES: [Engine<'static>; 4] =
    [Engine::Threads, Engine::Queued { seed: 1 }, Engine::Shared, Engine::QueuedShared { seed: 2 }];

impl<'a> Engine<'a> {
    /// Of the delays, if operations pass behind queues.
    pub fn seed(self) -> Option<u64> {
        match self {
            Engine::Threads | Engine::Shared | Engine::Process(_) => None,
            Engine::Queued { seed } | Engine::QueuedShared { seed } | Engine::QueuedProcess(_, seed) => Some(seed),
        }
    }

    /// The process that this is, if other ranks are other processes.
    pub fn process(self) -> Option<&'a Processes> {
        match self {
            Engine::Threads | Engine::Queued { .. } | Engine::Shared | Engine::QueuedShared { .. } => None,
            Engine::Process(process) | Engine::QueuedProcess(process, _) => Some(process),
        }
    }

    fn ends(self, n: usize, timeout: Duration) -> Vec<Box<dyn comm::Engine>> {
        match self {
            Engine::Threads | Engine::Queued { .. } => {
                Threads::world(n, timeout).into_iter().map(|end| Box::new(end) as Box<dyn comm::Engine>).collect()
            }
            Engine::Shared | Engine::QueuedShared { .. } => {
                let file = tempfile::tempfile().unwrap();
                file.set_len(comm::shared_bytes(n) as u64).unwrap();
                let process = |rank| Box::new(comm::shared(&file, rank, n, timeout).unwrap()) as Box<dyn comm::Engine>;
                (0..n).map(process).collect()
            }
            Engine::Process(_) | Engine::QueuedProcess(..) => unreachable!("a process makes its own ends"),
        }
    }
}

pub struct Rank {
    pub id: usize,
    pub dev: Box<dyn Backend>,
    /// One for each group of the world that the rank is a member of, in the order of the groups.
    pub comms: Vec<Box<dyn Communicator>>,
}

impl Rank {
    /// `src` is lent for reading, `dst` for writing.
    pub fn start(&mut self, comm: usize, op: Coll, src: Option<View>, dst: Option<View>) -> Result<Ticket, CommError> {
        let src = src.map(|view| self.dev.lend(view, Access::Read));
        let dst = dst.map(|view| self.dev.lend(view, Access::Write));
        let after = self.dev.mark();
        self.comms[comm].start(after, op, src, dst)
    }

    pub fn batch(&mut self, comm: usize, ops: &[(Coll, Option<View>, Option<View>)]) -> Result<Vec<Ticket>, CommError> {
        let mut lend = |view: Option<View>, access| view.map(|view| self.dev.lend(view, access));
        let transfer = |&(op, src, dst): &(Coll, Option<View>, Option<View>)| {
            let src = lend(src, Access::Read);
            Transfer { op, src, dst: lend(dst, Access::Write) }
        };
        let transfers = ops.iter().map(transfer).collect();
        let after = self.dev.mark();
        self.comms[comm].batch(after, transfers)
    }

    /// `sends` and `receives` are a part for each member.
    pub fn all_to_all_uneven(&mut self, comm: usize, sends: &[View], receives: &[View]) -> Result<(), CommError> {
        let sends = sends.iter().map(|view| self.dev.lend(*view, Access::Read)).collect();
        let receives = receives.iter().map(|view| self.dev.lend(*view, Access::Write)).collect();
        let after = self.dev.mark();
        let tickets = comm::all_to_all_uneven(&mut *self.comms[comm], after, sends, receives)?;
        tickets.into_iter().try_for_each(|ticket| self.wait(comm, ticket))
    }

    pub fn wait(&mut self, comm: usize, ticket: Ticket) -> Result<(), CommError> {
        let loans = self.comms[comm].wait(ticket)?;
        loans.into_iter().flatten().for_each(|loan| self.dev.settle(loan));
        Ok(())
    }

    pub fn go(&mut self, comm: usize, op: Coll, src: Option<View>, dst: Option<View>) -> Result<(), CommError> {
        let ticket = self.start(comm, op, src, dst)?;
        self.wait(comm, ticket)
    }
}

/// Ranks `0..n`, each with `bytes` of memory, joined in `groups`, started as threads. A rank that panics is an `Err`.
/// Of processes, the one rank that this is, or none of a world that is smaller or that there are too few for.
pub fn world<T: Send>(
    engine: Engine,
    n: usize,
    bytes: usize,
    groups: &[(&str, Vec<usize>)],
    timeout: Duration,
    body: impl Fn(&mut Rank) -> T + Sync,
) -> Vec<thread::Result<T>> {
    let body = &body;
    thread::scope(|scope| {
        if let Some(process) = engine.process() {
            let mine = n <= process.size() && comm::Engine::rank(process) < n;
            let rank = mine.then(|| scope.spawn(move || body(&mut rank(engine, bytes, process, groups))));
            return rank.into_iter().map(|rank| rank.join()).collect();
        }
        let start = |end: Box<dyn comm::Engine>| scope.spawn(move || body(&mut rank(engine, bytes, &*end, groups)));
        let ranks: Vec<_> = engine.ends(n, timeout).into_iter().map(start).collect();
        ranks.into_iter().map(|rank| rank.join()).collect()
    })
}

/// The rank that `ends` is, joined in its groups.
fn rank(engine: Engine, bytes: usize, ends: &dyn comm::Engine, groups: &[(&str, Vec<usize>)]) -> Rank {
    let id = ends.rank();
    let own = groups.iter().filter(|(_, members)| members.contains(&id));
    let ends: Vec<_> = own.map(|(name, members)| ends.join(name, members).expect("nobody waits in `join`")).collect();
    let mut sizes = Sizes::default();
    sizes[Region::Misc as usize] = bytes;
    match engine.seed() {
        None => Rank { id, dev: Box::new(backend::Cpu::new(sizes, 1)), comms: ends },
        Some(seed) => {
            let seed = |lane: usize| Some(seed + (id * 100 + lane) as u64);
            let dev = backend::Queued::new(sizes, 1, seed(0));
            let lane = |(i, end)| Box::new(comm::Queued::new(end, dev.queue(), seed(i + 1))) as Box<dyn Communicator>;
            let comms = ends.into_iter().enumerate().map(lane).collect();
            Rank { id, dev: Box::new(dev), comms }
        }
    }
}

/// `len` elements from byte `offset` on.
pub fn view(dtype: DType, offset: usize, len: usize) -> View {
    View { region: Region::Misc, dtype, offset, len }
}

/// Fails a test that hangs.
pub fn within(limit: Duration, test: impl FnOnce() + Send + 'static) {
    let (done, ended) = channel();
    let test = thread::spawn(move || {
        test();
        done.send(()).unwrap();
    });
    // A test that panics drops its sender, and `join` says why.
    if ended.recv_timeout(limit) == Err(RecvTimeoutError::Timeout) {
        panic!("no end after {limit:?}");
    }
    if let Err(panic) = test.join() {
        std::panic::resume_unwind(panic);
    }
}
