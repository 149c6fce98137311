//! Processes of one host, over memory that they share: a [`Transport`] with a [ring](mod@ring) for each pair and direction.
//!
//! All bytes between two processes pass through one ring, so a message that nobody wants yet must not stand in the way
//! of others. Short ones are put aside by the reader; a long one is sent when its reader is ready for it and has said so.
mod ring;

use crate::processes::{Bytes, Processes, Request, Transport};
use memmap2::{MmapOptions, MmapRaw};
use ring::{Kind, RING, Ring};
use std::collections::{BTreeMap, HashMap, HashSet, VecDeque};
use std::fs::File;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;
use std::{io, ptr};

/// Messages up to so many bytes are sent unasked.
const SHORT: usize = 4096;
/// Of the entry of each process at the beginning of the memory.
const ENTRY: usize = 64;

#[derive(Debug, thiserror::Error)]
pub enum SharedError {
    #[error("the memory that {size} processes share has {have} bytes where {want} are wanted")]
    Size { size: usize, have: usize, want: usize },
    #[error("rank {rank} of the shared memory is taken")]
    Taken { rank: usize },
    #[error("shared memory: {0}")]
    Map(#[from] io::Error),
}

/// Bytes of the file that `size` processes share, all zero at first.
pub fn shared_bytes(size: usize) -> usize {
    size * ENTRY + size * size * RING
}

/// This process, as rank `rank` of `size` on this host. All map the same `file`, which is best in memory (/dev/shm).
pub fn shared(file: &File, rank: usize, size: usize, timeout: Duration) -> Result<Processes, SharedError> {
    assert!(rank < size, "rank {rank} of {size}");
    let (have, want) = (file.metadata()?.len() as usize, shared_bytes(size));
    if have != want {
        return Err(SharedError::Size { size, have, want });
    }
    let map = MmapOptions::new().map_raw(file)?;
    let wire = Wire {
        rank,
        size,
        out: (0..size).map(|_| Outbox::default()).collect(),
        streams: HashMap::new(),
        under_way: HashSet::new(),
        last: 0,
        map,
    };
    let taken = wire.entry(rank).compare_exchange(0, std::process::id(), Ordering::AcqRel, Ordering::Acquire);
    match taken {
        Ok(_) => Ok(Processes::new(Box::new(wire), timeout)),
        Err(_) => Err(SharedError::Taken { rank }),
    }
}

struct Wire {
    rank: usize,
    size: usize,
    /// To each process.
    out: Vec<Outbox>,
    /// From each process, by tag.
    streams: HashMap<(usize, u16), Stream>,
    /// Requests that are not over.
    under_way: HashSet<usize>,
    last: usize,
    map: MmapRaw,
}

#[derive(Default)]
struct Outbox {
    /// Tags of long messages that this process is ready for.
    grants: VecDeque<u16>,
    messages: BTreeMap<u16, VecDeque<Send>>,
    /// Long messages that the other process is ready for.
    granted: HashMap<u16, usize>,
}

struct Send {
    request: usize,
    /// What is left of it.
    bytes: Bytes,
    /// It need not ask, or has been answered.
    free: bool,
}

/// Messages of one sender and tag. Their lengths are those of the receives, so it is a stream of bytes.
#[derive(Default)]
struct Stream {
    /// What came before somebody wanted it.
    early: VecDeque<u8>,
    /// What is wanted, with what is left of it.
    receives: VecDeque<(usize, Bytes)>,
}

impl Wire {
    /// The process id of a rank that has come. Zero: not yet.
    fn entry(&self, rank: usize) -> &AtomicU32 {
        // SAFETY: in the mapping, at a cache line; all processes look at it in this way only.
        unsafe { AtomicU32::from_ptr(self.map.as_mut_ptr().add(rank * ENTRY).cast()) }
    }

    fn ring(&self, from: usize, to: usize) -> Ring {
        let at = self.size * ENTRY + (from * self.size + to) * RING;
        // SAFETY: in the mapping, which lives as long as we; pages are aligned, and entries and rings are cache lines.
        // Only `from` writes, only `to` reads, each under `&mut self` of the wire of its rank, which is taken once.
        unsafe { Ring::new(self.map.as_mut_ptr().add(at)) }
    }

    fn begin(&mut self) -> usize {
        self.last += 1;
        self.under_way.insert(self.last);
        self.last
    }

    /// Reads and writes what can be.
    fn pump(&mut self) {
        for other in (0..self.size).filter(|other| *other != self.rank) {
            let (inward, outward) = (self.ring(other, self.rank), self.ring(self.rank, other));
            let Wire { streams, out, under_way, .. } = self;
            let Outbox { grants, messages, granted } = &mut out[other];
            while inward.get(|kind, tag, parts| match kind {
                Kind::Grant => *granted.entry(tag).or_default() += 1,
                Kind::Data => {
                    let stream = streams.entry((other, tag)).or_default();
                    parts.into_iter().for_each(|part| stream.take(part, under_way));
                }
            }) {}
            let nothing = Bytes { at: ptr::null_mut(), len: 0 };
            // SAFETY: nothing is read.
            while grants.front().is_some_and(|tag| unsafe { outward.put(Kind::Grant, *tag, nothing) }.is_some()) {
                grants.pop_front();
            }
            for (tag, queue) in messages.iter_mut() {
                put_all(&outward, *tag, queue, granted, under_way);
            }
            messages.retain(|_, queue| !queue.is_empty());
        }
    }
}

/// As many messages of a tag as there are room and grants for.
fn put_all(
    ring: &Ring,
    tag: u16,
    queue: &mut VecDeque<Send>,
    granted: &mut HashMap<u16, usize>,
    under_way: &mut HashSet<usize>,
) {
    while let Some(send) = queue.front_mut() {
        if !send.free {
            let Some(grants) = granted.get_mut(&tag).filter(|grants| **grants > 0) else { return };
            *grants -= 1;
            send.free = true;
        }
        while send.bytes.len > 0 {
            // SAFETY: the caller of `send` keeps the bytes until the request is over.
            let Some(put) = (unsafe { ring.put(Kind::Data, tag, send.bytes) }) else { return };
            send.bytes.skip(put);
        }
        under_way.remove(&send.request);
        queue.pop_front();
    }
}

impl Stream {
    /// Bytes that came, to where they are wanted.
    fn take(&mut self, mut part: Bytes, under_way: &mut HashSet<usize>) {
        while part.len > 0 {
            let Some((request, wanted)) = self.receives.front_mut() else {
                // SAFETY: of a ring, readable while `get` hands it out.
                self.early.extend(unsafe { std::slice::from_raw_parts(part.at, part.len) });
                return;
            };
            let len = part.len.min(wanted.len);
            // SAFETY: as above, and the caller of `receive` says that its bytes can be written until the request is over.
            unsafe { ptr::copy_nonoverlapping(part.at, wanted.at, len) };
            part.skip(len);
            wanted.skip(len);
            if wanted.len == 0 {
                under_way.remove(request);
                self.receives.pop_front();
            }
        }
    }
}

impl Transport for Wire {
    fn name(&self) -> &str {
        "shared memory"
    }
    fn rank(&self) -> usize {
        self.rank
    }
    fn size(&self) -> usize {
        self.size
    }
    unsafe fn send(&mut self, to: usize, tag: u16, bytes: Bytes) -> Result<Request, String> {
        let request = self.begin();
        let free = bytes.len <= SHORT;
        self.out[to].messages.entry(tag).or_default().push_back(Send { request, bytes, free });
        self.pump();
        Ok(Request(request))
    }
    unsafe fn receive(&mut self, from: usize, tag: u16, bytes: Bytes) -> Result<Request, String> {
        let request = self.begin();
        if bytes.len > SHORT {
            self.out[from].grants.push_back(tag);
        }
        let stream = self.streams.entry((from, tag)).or_default();
        stream.receives.push_back((request, bytes));
        // What is early is for the first receive, and then none is before this one.
        let mut early = std::mem::take(&mut stream.early);
        let (a, b) = early.as_mut_slices();
        [a, b].into_iter().for_each(|part| stream.take(Bytes::of(part), &mut self.under_way));
        Ok(Request(request))
    }
    fn test(&mut self, request: &Request) -> Result<bool, String> {
        if self.under_way.contains(&request.0) {
            self.pump();
        }
        Ok(!self.under_way.contains(&request.0))
    }
    fn cancel(&mut self, receive: &Request) -> Result<bool, String> {
        self.under_way.remove(&receive.0);
        self.streams.values_mut().for_each(|s| s.receives.retain(|(request, _)| *request != receive.0));
        Ok(true)
    }
    fn waiting(&mut self, from: usize, tag: u16) -> Result<bool, String> {
        self.pump();
        Ok(self.streams.get(&(from, tag)).is_some_and(|stream| !stream.early.is_empty()))
    }
    /// Known where the system shows its processes as files.
    fn ended(&mut self, rank: usize) -> bool {
        let id = self.entry(rank).load(Ordering::Acquire);
        let shows = |id: u32| PathBuf::from(format!("/proc/{id}")).exists();
        id != 0 && shows(std::process::id()) && !shows(id)
    }
    /// What was sent lies in the memory for those who are not done.
    fn ends_together(&self) -> bool {
        false
    }
    fn close(&mut self) -> Result<(), String> {
        Ok(())
    }
}
