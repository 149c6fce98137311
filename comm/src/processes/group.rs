//! One process's end of a group: its operations in their order, what others say beside them, and why it is broken.
use super::flight::{Flight, Peers, Step, Trouble};
use super::frame::{NOTE, Note};
use super::staging::Staging;
use super::transport::{Bytes, Request, Transport};
use crate::{Call, CommError};
use backend::Loan;
use std::collections::{BTreeMap, HashMap, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// See [`crate::Coll::pair`].
type Channel = Option<(usize, usize)>;

/// Tags of a group between two processes: its collectives, pairs that go up and down in member order, and notes.
pub const TAGS: u16 = 4;
const ALL: u16 = 0;
const UP: u16 = 1;
const DOWN: u16 = 2;
const NOTES: u16 = 3;

/// A process that has not moved for so long is asked for.
const SILENCE: Duration = Duration::from_millis(200);

pub struct Group {
    name: Arc<str>,
    peers: Peers,
    timeout: Duration,
    /// Operations of each channel so far.
    started: HashMap<Channel, u64>,
    /// Those that are not over, by ticket. Only the first of a channel is under way.
    queues: BTreeMap<Channel, VecDeque<(u64, Flight)>>,
    /// Those that are over and have not been waited for.
    over: HashMap<u64, [Option<Loan>; 2]>,
    staging: Staging,
    /// What members that left have started, see [`Note::Left`].
    left: Vec<Option<[u64; 3]>>,
    incoming: Vec<Option<Letter>>,
    outgoing: Vec<Letter>,
    /// A group that is broken keeps its operations as long as their messages are under way.
    broken: Option<CommError>,
    /// The others know that it starts nothing any more.
    gone: bool,
    /// When something moved last.
    moved: Instant,
    last: u64,
}

/// A note under way. The text stays where it is until then.
struct Letter {
    request: Request,
    bytes: Vec<u8>,
}

impl Group {
    pub fn new(name: &str, peers: Peers, timeout: Duration) -> Group {
        let n = peers.members.len();
        Group {
            name: name.into(),
            peers,
            timeout,
            started: HashMap::new(),
            queues: BTreeMap::new(),
            over: HashMap::new(),
            staging: Staging::default(),
            left: vec![None; n],
            incoming: (0..n).map(|_| None).collect(),
            outgoing: vec![],
            broken: None,
            gone: false,
            moved: Instant::now(),
            last: 0,
        }
    }

    /// The ticket of an operation that begins when those before it in its channel are over.
    pub fn start(&mut self, call: Call, loans: [Option<Loan>; 2], wire: &mut dyn Transport) -> Result<u64, CommError> {
        // An error of others comes before a new operation.
        self.progress(wire, true);
        self.health()?;
        let channel = call.op.pair();
        let tag = match channel {
            None => ALL,
            Some((from, to)) if from < to => UP,
            Some(_) => DOWN,
        };
        let seq = self.started.entry(channel).or_default();
        let flight = Flight::new(call, *seq, tag, loans, &self.peers);
        *seq += 1;
        self.last += 1;
        self.queues.entry(channel).or_default().push_back((self.last, flight));
        self.progress(wire, false);
        Ok(self.last)
    }

    /// The loans of an operation that is over.
    pub fn take(&mut self, ticket: u64) -> Result<Option<[Option<Loan>; 2]>, CommError> {
        match self.over.remove(&ticket) {
            Some(loans) => Ok(Some(loans)),
            None => self.health().map(|()| None),
        }
    }

    pub fn is_over(&self, ticket: u64) -> Result<bool, CommError> {
        if self.over.contains_key(&ticket) { Ok(true) } else { self.health().map(|()| false) }
    }

    pub fn health(&self) -> Result<(), CommError> {
        self.broken.clone().map_or(Ok(()), Err)
    }

    /// Whether calls to `progress` bring it anywhere.
    pub fn is_busy(&self) -> bool {
        !self.queues.is_empty() || !self.outgoing.is_empty()
    }

    /// Whether its end was dropped and what it had started is over.
    pub fn is_done(&self) -> bool {
        self.gone && !self.is_busy()
    }

    /// Whether that is so of all members. Those of a group that is broken may never come to it.
    pub fn is_past(&self) -> bool {
        let left = |member: usize| self.left[member].is_some();
        self.is_done() && (self.broken.is_some() || self.others().all(left))
    }

    pub fn is_broken(&self) -> bool {
        self.broken.is_some()
    }

    /// Goes on as far as it can without waiting. To `listen` is to ask for notes.
    pub fn progress(&mut self, wire: &mut dyn Transport, listen: bool) {
        let outcome = self.advance(wire, listen);
        if let Err(error) = outcome {
            self.fail(error, wire);
        }
    }

    fn advance(&mut self, wire: &mut dyn Transport, listen: bool) -> Result<(), CommError> {
        if self.is_past() {
            self.staging = Staging::default();
            return Ok(());
        }
        self.deliver(wire).map_err(|what| self.transport(wire, what))?;
        if self.broken.is_some() {
            return Ok(());
        }
        // What all members have brought to its end before one of them gave up ends well.
        let heard = if listen { self.listen(wire) } else { Ok(()) };
        self.fly(wire)?;
        heard?;
        self.absent(wire, listen)
    }

    /// Forgets what was sent and has arrived.
    fn deliver(&mut self, wire: &mut dyn Transport) -> Result<(), String> {
        for i in (0..self.outgoing.len()).rev() {
            if wire.test(&self.outgoing[i].request)? {
                self.outgoing.swap_remove(i);
            }
        }
        if self.broken.is_some() {
            for queue in self.queues.values_mut() {
                for i in (0..queue.len()).rev() {
                    if !queue[i].1.lingers(wire)? {
                        queue.remove(i);
                    }
                }
            }
            self.queues.retain(|_, queue| !queue.is_empty());
        }
        Ok(())
    }

    /// An operation has been waited for since `since`. Too long, if nothing has moved either: the group breaks.
    pub fn late(&mut self, ticket: u64, since: Instant, wire: &mut dyn Transport) {
        if self.broken.is_some() || self.moved.max(since).elapsed() < self.timeout {
            return;
        }
        let holds = |queue: &&VecDeque<(u64, Flight)>| queue.iter().any(|(other, _)| *other == ticket);
        let Some(queue) = self.queues.values().find(holds) else { return };
        let (_, flight) = &queue[0];
        let absent: Vec<usize> = (0..flight.came.len()).filter(|member| !flight.came[*member]).collect();
        let (comm, seq, call) = (self.name.clone(), flight.seq, flight.call.global(&self.peers.members));
        let timeout = self.timeout;
        let error = if absent.is_empty() {
            CommError::Stalled { comm, seq, call, ranks: self.global(&flight.owing()), timeout }
        } else {
            CommError::Missing { comm, seq, call, ranks: self.global(&absent), timeout }
        };
        self.fail(error, wire);
    }

    pub fn abort(&mut self, reason: &str, wire: &mut dyn Transport) {
        let rank = self.peers.members[self.peers.me];
        self.fail(CommError::Aborted { comm: self.name.clone(), rank, reason: reason.into() }, wire);
    }

    /// Its end was dropped, or is of no use any more. What it has started goes on.
    pub fn leave(&mut self, wire: &mut dyn Transport) {
        if std::mem::replace(&mut self.gone, true) {
            return;
        }
        let count = |channel: Channel| self.started.get(&channel).copied().unwrap_or(0);
        let me = self.peers.me;
        let note = |it| Note::Left([count(None), count(Some((me, it))), count(Some((it, me)))]);
        for (member, note) in self.others().map(|it| (it, note(it))).collect::<Vec<_>>() {
            if let Err(what) = self.write(member, &note, wire) {
                let error = self.transport(wire, what);
                self.fail(error, wire);
            }
        }
    }

    /// There is no transport any more. An end that has survived it is told so.
    pub fn close(&mut self) {
        self.broken.get_or_insert(CommError::Closed { comm: self.name.clone() });
    }

    // ---- what moves ----

    fn fly(&mut self, wire: &mut dyn Transport) -> Result<(), CommError> {
        let Group { queues, peers, staging, over, moved, .. } = self;
        let mut trouble = None;
        queues.retain(|_, queue| {
            while let (Some((ticket, flight)), None) = (queue.front_mut(), &trouble) {
                match flight.step(peers, wire, staging) {
                    Ok(Step::Nothing) => break,
                    Ok(Step::Moved) => *moved = Instant::now(),
                    Ok(Step::Done) => {
                        *moved = Instant::now();
                        let ticket = *ticket;
                        let (_, flight) = queue.pop_front().expect("it is the first");
                        over.insert(ticket, flight.loans());
                    }
                    Err(found) => trouble = Some((flight.call, flight.seq, found)),
                }
            }
            !queue.is_empty()
        });
        match trouble {
            None => Ok(()),
            Some((_, _, Trouble::Transport(what))) => Err(self.transport(wire, what)),
            Some((call, seq, Trouble::Header { member, header })) => {
                let members = &self.peers.members;
                let (comm, rank) = (self.name.clone(), members[member]);
                if header.group != self.peers.fingerprint || header.seq != seq {
                    return Err(CommError::OtherGroup { comm, rank });
                }
                let mut sides = [(members[self.peers.me], call), (rank, header.call)];
                sides.sort_by_key(|(rank, _)| *rank);
                let [(first, first_call), (rank, call)] = sides.map(|(rank, call)| (rank, call.global(members)));
                Err(CommError::Mismatch { comm, seq, first, first_call, rank, call })
            }
        }
    }

    fn listen(&mut self, wire: &mut dyn Transport) -> Result<(), CommError> {
        for member in self.others() {
            while let Some(note) = self.read(member, wire).map_err(|what| self.transport(wire, what))? {
                match note {
                    Note::Left(counts) => self.left[member] = Some(counts),
                    Note::Broken(what) => {
                        return Err(CommError::Told { by: self.peers.members[member], what: what.into() });
                    }
                }
            }
        }
        Ok(())
    }

    /// Members that an operation under way waits for and that will not come.
    fn absent(&self, wire: &mut dyn Transport, listen: bool) -> Result<(), CommError> {
        let silent = listen && self.moved.elapsed() > SILENCE;
        for (channel, queue) in &self.queues {
            let (_, flight) = &queue[0];
            let before = |member: usize| {
                self.left[member].is_some_and(|[all, to, from]| {
                    flight.seq >= channel.map_or(all, |(sender, _)| if sender == member { to } else { from })
                })
            };
            let absent = |member: usize| !flight.came[member] && before(member);
            let mut ranks: Vec<usize> = (0..flight.came.len()).filter(|member| absent(*member)).collect();
            if ranks.is_empty() && silent {
                ranks = flight.owing();
                ranks.retain(|member| wire.ended(self.peers.members[*member]));
            }
            if !ranks.is_empty() {
                let (comm, call) = (self.name.clone(), flight.call.global(&self.peers.members));
                return Err(CommError::Left { comm, seq: flight.seq, call, ranks: self.global(&ranks) });
            }
        }
        Ok(())
    }

    // ---- errors ----

    /// The first error stays, and is told to all.
    fn fail(&mut self, error: CommError, wire: &mut dyn Transport) {
        if self.broken.is_some() {
            return;
        }
        self.broken = Some(error.clone());
        let mut then = vec![];
        for (_, flight) in self.queues.values_mut().flatten() {
            // A flight keeps what it could not let go.
            then.extend(flight.give_up(wire).err());
        }
        if !matches!(error, CommError::Told { .. }) {
            let note = Note::Broken(error.to_string());
            for member in self.others() {
                // Who could not be told finds out by time.
                then.extend(self.write(member, &note, wire).err());
            }
        }
        if !then.is_empty() {
            self.broken = Some(CommError::Then { error: Box::new(error), what: then.join(", then ").into() });
        }
    }

    fn transport(&self, wire: &dyn Transport, what: String) -> CommError {
        CommError::Transport { comm: self.name.clone(), by: wire.name().into(), what: what.into() }
    }

    fn others(&self) -> impl Iterator<Item = usize> + use<> {
        let me = self.peers.me;
        (0..self.peers.members.len()).filter(move |member| *member != me)
    }

    fn global(&self, members: &[usize]) -> Vec<usize> {
        members.iter().map(|member| self.peers.members[*member]).collect()
    }

    // ---- notes ----

    fn write(&mut self, member: usize, note: &Note, wire: &mut dyn Transport) -> Result<(), String> {
        let mut bytes = note.encode();
        let (to, tag) = (self.peers.members[member], self.peers.tags[member] + NOTES);
        // SAFETY: the letter is kept until the message is over, and its text is not touched.
        let request = unsafe { wire.send(to, tag, Bytes::of(&mut bytes))? };
        self.outgoing.push(Letter { request, bytes });
        Ok(())
    }

    fn read(&mut self, member: usize, wire: &mut dyn Transport) -> Result<Option<Note>, String> {
        let (from, tag) = (self.peers.members[member], self.peers.tags[member] + NOTES);
        if self.incoming[member].is_none() && wire.waiting(from, tag)? {
            let mut bytes = vec![0; NOTE];
            // SAFETY: the letter is kept until the message is over, and its text is not touched before.
            let request = unsafe { wire.receive(from, tag, Bytes::of(&mut bytes))? };
            self.incoming[member] = Some(Letter { request, bytes });
        }
        let Some(letter) = &self.incoming[member] else { return Ok(None) };
        if !wire.test(&letter.request)? {
            return Ok(None);
        }
        let letter = self.incoming[member].take().expect("it has come");
        Note::decode(&letter.bytes).map(Some).ok_or_else(|| format!("a note of rank {from} that means nothing"))
    }
}
