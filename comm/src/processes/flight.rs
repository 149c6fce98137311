//! One operation of one process: which bytes go to whom and come from whom, and what is summed in between.
//!
//! A reduce-scatter is an all-to-all of parts and then the one [tree](mod@crate::tree) in rank order; an all-reduce is
//! that and an all-gather. So the bits are those of ranks that are threads, whatever the transport.
//!
//! First every member sends a [`Header`] to every other one and its data right behind. Data is received only from a
//! member whose header agrees: a call that does not match moves no byte into anybody's memory.
use super::frame::{HEADER, Header};
use super::staging::Staging;
use super::transport::{Bytes, Request, Transport};
use crate::tree::{self, TILE, Term};
use crate::{Call, Coll};
use backend::{DType, Loan, Span};
use half::{bf16, f16};
use std::ops::Range;
use std::{ptr, slice};

/// No message is longer: counts are `int` in MPI, and each that arrives tells that its sender lives.
const PIECE: usize = 1 << 22;

/// What all operations of a group have in common.
pub struct Peers {
    /// Global ranks.
    pub members: Vec<usize>,
    /// This process's place.
    pub me: usize,
    /// Of the messages to and from each member.
    pub tags: Vec<u16>,
    /// See [`super::frame::fingerprint`].
    pub fingerprint: u64,
}

pub struct Flight {
    pub call: Call,
    /// In its channel.
    pub seq: u64,
    /// Which message of a pair of processes is which, see `Group`.
    tag: u16,
    loans: [Option<Loan>; 2],
    /// Of an operation that was given up, what its messages may still look at.
    anchors: Vec<Span>,
    stage: Stage,
    /// Members whose header has come and agrees; this one, and those that do not take part, too.
    pub came: Vec<bool>,
    /// Own header first, then what comes from each member. They stay where they are while messages are under way.
    #[allow(clippy::vec_box, reason = "a message may be on its way into one while another is read")]
    headers: Vec<Box<[u8; HEADER]>>,
    pending: Vec<Pending>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Stage {
    /// Behind others of its channel.
    Queued,
    /// Parts go to whom they are meant for.
    First,
    /// Of an all-reduce: sums go to all.
    Second,
}

struct Pending {
    member: usize,
    what: Message,
    request: Request,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Message {
    /// Own header or data.
    Sent,
    /// A header that will come.
    Header,
    /// Data that will come.
    Data,
}

/// Why a flight does not come to its end.
pub enum Trouble {
    /// A member means something else.
    Header {
        member: usize,
        header: Header,
    },
    Transport(String),
}
impl From<String> for Trouble {
    fn from(what: String) -> Trouble {
        Trouble::Transport(what)
    }
}

/// What a step came to.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Step {
    Nothing,
    Moved,
    Done,
}

impl Flight {
    pub fn new(call: Call, seq: u64, tag: u16, loans: [Option<Loan>; 2], peers: &Peers) -> Flight {
        let n = peers.members.len();
        let came = (0..n).map(|member| member == peers.me || !call.op.concerns(member)).collect();
        let headers = (0..=n).map(|_| Box::new([0; HEADER])).collect();
        Flight { call, seq, tag, loans, anchors: vec![], stage: Stage::Queued, came, headers, pending: vec![] }
    }

    /// Members that take part, without this one.
    fn others(&self, peers: &Peers) -> impl Iterator<Item = usize> + use<> {
        let (op, me) = (self.call.op, peers.me);
        (0..peers.members.len()).filter(move |member| *member != me && op.concerns(*member))
    }

    /// Members that have not given or taken all that is theirs.
    pub fn owing(&self) -> Vec<usize> {
        let mut owing: Vec<usize> = self.pending.iter().map(|p| p.member).collect();
        owing.sort();
        owing.dedup();
        owing
    }

    /// Goes on as far as it can without waiting. Only the first of a channel is stepped, so that the messages between
    /// two processes are in one order. `staging` belongs to the channel.
    pub fn step(&mut self, peers: &Peers, wire: &mut dyn Transport, staging: &mut Staging) -> Result<Step, Trouble> {
        let mut moved = false;
        if self.stage == Stage::Queued {
            self.begin(peers, wire, staging)?;
            moved = true;
        }
        let mut i = 0;
        while let Some(pending) = self.pending.get(i) {
            if !wire.test(&pending.request)? {
                i += 1;
                continue;
            }
            moved = true;
            let Pending { member, what, .. } = self.pending.swap_remove(i);
            if what == Message::Header {
                self.check(member, peers)?;
                self.came[member] = true;
                if let Some(bytes) = self.receives(member, peers, staging) {
                    self.receive(member, bytes, peers, wire)?;
                }
            }
        }
        if !self.pending.is_empty() {
            return Ok(if moved { Step::Moved } else { Step::Nothing });
        }
        if self.stage == Stage::First {
            self.sum(peers, staging);
            if self.call.op == Coll::AllReduce && peers.members.len() > 1 {
                self.stage = Stage::Second;
                let own = self.part(&self.loans[1], peers.me, peers);
                for member in self.others(peers) {
                    self.send(member, own, peers, wire)?;
                    self.receive(member, self.part(&self.loans[1], member, peers), peers, wire)?;
                }
                return Ok(Step::Moved);
            }
        }
        Ok(Step::Done)
    }

    pub fn loans(self) -> [Option<Loan>; 2] {
        self.loans
    }

    /// For a group that is broken: nothing comes into the loans any more, and they end. What was sent may still be read,
    /// by peers that have not heard of it, and is of no use to them.
    pub fn give_up(&mut self, wire: &mut dyn Transport) -> Result<(), String> {
        let mut comes = false;
        let mut failed = Ok(());
        self.pending.retain(|pending| {
            let is_over = match pending.what {
                Message::Sent => false,
                Message::Header | Message::Data => wire.cancel(&pending.request).unwrap_or_else(|what| {
                    failed = Err(what);
                    false
                }),
            };
            comes |= !is_over && pending.what == Message::Data;
            !is_over
        });
        // Loans into which something may come are never over.
        if !comes {
            let loans = std::mem::take(&mut self.loans);
            self.anchors = loans.iter().flatten().map(|loan| loan.span().anchor()).collect();
        }
        failed
    }

    /// Whether messages of an operation that was given up are under way.
    pub fn lingers(&mut self, wire: &mut dyn Transport) -> Result<bool, String> {
        let mut failed = Ok(());
        self.pending.retain(|pending| {
            let over = wire.test(&pending.request);
            !over.unwrap_or_else(|what| {
                failed = Err(what);
                false
            })
        });
        failed.map(|()| !self.pending.is_empty())
    }

    fn begin(&mut self, peers: &Peers, wire: &mut dyn Transport, staging: &mut Staging) -> Result<(), Trouble> {
        self.stage = Stage::First;
        if self.is_sum() {
            staging.grow((peers.members.len() - 1) * self.slot(peers));
        }
        *self.headers[0] = Header { call: self.call, seq: self.seq, group: peers.fingerprint }.encode();
        for member in self.others(peers) {
            let (to, tag) = (peers.members[member], peers.tags[member] + self.tag);
            let [own, theirs] = [0, member + 1].map(|i| Bytes::of(&mut *self.headers[i]));
            // SAFETY: the boxes live as long as the flight, which is kept until its messages are over; nobody looks at
            // a header of a member before its message is, and the own one is not written again.
            let requests = unsafe { [wire.send(to, tag, own)?, wire.receive(to, tag, theirs)?] };
            let pending = |(what, request)| Pending { member, what, request };
            self.pending.extend([Message::Sent, Message::Header].into_iter().zip(requests).map(pending));
            if let Some(bytes) = self.sends(member, peers) {
                self.send(member, bytes, peers, wire)?;
            }
        }
        self.keep(peers);
        Ok(())
    }

    fn check(&self, member: usize, peers: &Peers) -> Result<(), Trouble> {
        let header = Header::decode(&self.headers[member + 1]);
        let header = header.ok_or_else(|| format!("bytes of rank {} that mean nothing", peers.members[member]))?;
        match header == (Header { call: self.call, seq: self.seq, group: peers.fingerprint }) {
            true => Ok(()),
            false => Err(Trouble::Header { member, header }),
        }
    }

    // ---- which bytes ----

    fn is_sum(&self) -> bool {
        matches!(self.call.op, Coll::AllReduce | Coll::ReduceScatter)
    }

    /// Of the parts of `member`, what goes to it first.
    fn sends(&self, member: usize, peers: &Peers) -> Option<Bytes> {
        let [src, dst] = &self.loans;
        let source = if src.is_some() { src } else { dst };
        match self.call.op {
            Coll::AllReduce | Coll::ReduceScatter | Coll::AllToAll => Some(self.part(source, member, peers)),
            Coll::AllGather => Some(self.part(source, peers.me, peers)),
            Coll::Broadcast { root } => (root == peers.me).then(|| whole(source)),
            Coll::Barrier => None,
            Coll::SendRecv { from, .. } => (from == peers.me).then(|| whole(src)),
        }
    }

    /// Where what comes from `member` first belongs.
    fn receives(&self, member: usize, peers: &Peers, staging: &mut Staging) -> Option<Bytes> {
        let dst = &self.loans[1];
        match self.call.op {
            Coll::AllReduce | Coll::ReduceScatter => Some(self.staged(member, peers, staging)),
            Coll::AllGather | Coll::AllToAll => Some(self.part(dst, member, peers)),
            Coll::Broadcast { root } => (root == member).then(|| whole(dst)),
            Coll::Barrier => None,
            Coll::SendRecv { from, .. } => (from == member).then(|| whole(dst)),
        }
    }

    /// What a member has for itself.
    fn keep(&self, peers: &Peers) {
        let [src, dst] = &self.loans;
        let own = |loan: &Option<Loan>| self.part(loan, peers.me, peers);
        let [from, to] = match self.call.op {
            Coll::AllGather | Coll::AllToAll if src.is_some() => [own(src), own(dst)],
            Coll::SendRecv { from, to } if from == to => [whole(src), whole(dst)],
            Coll::AllReduce | Coll::ReduceScatter | Coll::AllGather | Coll::AllToAll => return,
            Coll::Broadcast { .. } | Coll::Barrier | Coll::SendRecv { .. } => return,
        };
        // SAFETY: both are parts of loans that are out, of one length, and two loans of which one is for writing do not
        // overlap.
        unsafe { ptr::copy_nonoverlapping(from.at, to.at, from.len) }
    }

    /// Elements of part `i`. Those of an all-reduce need not be equal.
    fn range(&self, i: usize, peers: &Peers) -> Range<usize> {
        let n = peers.members.len();
        i * self.call.len / n..(i + 1) * self.call.len / n
    }

    /// Part `i` of a whole buffer, or of one that is this part alone.
    fn part(&self, loan: &Option<Loan>, i: usize, peers: &Peers) -> Bytes {
        let all = whole(loan);
        let width = self.call.dtype.bytes();
        if all.len != self.call.len * width {
            return all;
        }
        let Range { start, end } = self.range(i, peers);
        Bytes { at: all.at.wrapping_add(start * width), len: (end - start) * width }
    }

    /// Bytes between two staged parts.
    fn slot(&self, peers: &Peers) -> usize {
        (self.range(peers.me, peers).len() * self.call.dtype.bytes()).next_multiple_of(size_of::<u64>())
    }

    /// Where the own part waits as `member` has it.
    fn staged(&self, member: usize, peers: &Peers, staging: &mut Staging) -> Bytes {
        let slot = if member < peers.me { member } else { member - 1 };
        let len = self.range(peers.me, peers).len() * self.call.dtype.bytes();
        staging.bytes(slot * self.slot(peers), len)
    }

    // ---- sums ----

    /// The own part, summed over all members.
    fn sum(&self, peers: &Peers, staging: &mut Staging) {
        if !self.is_sum() {
            return;
        }
        match self.call.dtype {
            DType::F32 => self.sum_of::<f32>(peers, staging),
            DType::F64 => self.sum_of::<f64>(peers, staging),
            DType::BF16 => self.sum_of::<bf16>(peers, staging),
            DType::F16 => self.sum_of::<f16>(peers, staging),
            DType::U32 => unreachable!("refused by Call::new"),
        }
    }

    fn sum_of<E: Term>(&self, peers: &Peers, staging: &mut Staging) {
        let [src, dst] = &self.loans;
        let own = self.part(if src.is_some() { src } else { dst }, peers.me, peers);
        let target = self.part(dst, peers.me, peers);
        let n = peers.members.len();
        let parts: Vec<Bytes> =
            (0..n).map(|member| if member == peers.me { own } else { self.staged(member, peers, staging) }).collect();
        let len = self.range(peers.me, peers).len();
        let mut tile = [E::zeroed(); TILE];
        for at in (0..len).step_by(TILE) {
            let tile = &mut tile[..TILE.min(len - at)];
            let term = |part: &Bytes| {
                // SAFETY: in bounds, as each part has `len` elements; aligned, as loans are and staged parts start at
                // words; no message to or from here is under way. The slices are dead when the target is written.
                unsafe { slice::from_raw_parts(part.at.cast::<E>().cast_const().add(at), tile.len()) }
            };
            let terms: Vec<&[E]> = parts.iter().map(term).collect();
            tree::sum(&terms, tile);
            // SAFETY: as above, lent for writing; the tile is on this stack.
            unsafe { ptr::copy_nonoverlapping(tile.as_ptr(), target.at.cast::<E>().add(at), tile.len()) }
        }
    }

    // ---- messages ----

    fn send(&mut self, member: usize, bytes: Bytes, peers: &Peers, wire: &mut dyn Transport) -> Result<(), String> {
        for piece in pieces(bytes) {
            // SAFETY: bytes of a loan, which is out until the flight is over. Nobody writes there before: of an
            // all-reduce, sums come when the parts that they replace have been sent.
            let request = unsafe { wire.send(peers.members[member], peers.tags[member] + self.tag, piece)? };
            self.pending.push(Pending { member, what: Message::Sent, request });
        }
        Ok(())
    }

    fn receive(&mut self, member: usize, bytes: Bytes, peers: &Peers, wire: &mut dyn Transport) -> Result<(), String> {
        for piece in pieces(bytes) {
            // SAFETY: as for `send`, a loan for writing; or the staging, which belongs to this flight until it is over
            // and does not grow before.
            let request = unsafe { wire.receive(peers.members[member], peers.tags[member] + self.tag, piece)? };
            self.pending.push(Pending { member, what: Message::Data, request });
        }
        Ok(())
    }
}

fn span(loan: &Option<Loan>) -> &Span {
    loan.as_ref().expect("Call::new wants the loans of the operation").span()
}

fn whole(loan: &Option<Loan>) -> Bytes {
    let span = span(loan);
    Bytes { at: span.ptr(), len: span.len() * span.dtype().bytes() }
}

/// None of nothing: both sides know the length.
fn pieces(bytes: Bytes) -> impl Iterator<Item = Bytes> {
    let piece = move |at| Bytes { at: bytes.at.wrapping_add(at), len: PIECE.min(bytes.len - at) };
    (0..bytes.len).step_by(PIECE).map(piece)
}
