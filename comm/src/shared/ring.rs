//! A ring in shared memory: bytes from one process to one other, in frames.
//!
//! The writer alone moves `head`, the reader alone `tail`; both count bytes for ever and only grow. What lies between
//! them belongs to the reader, the rest to the writer. A frame is a word of header and its bytes, filled up to words,
//! and it is there as a whole or not at all.
use crate::processes::Bytes;
use std::ptr;
use std::sync::atomic::{AtomicU64, Ordering};

/// Bytes of the frames of a ring.
const ROOM: usize = 1 << 18;
/// Each counter has a cache line to itself.
const LINE: usize = 64;
pub const RING: usize = 2 * LINE + ROOM;
const WORD: usize = 8;
/// The longest frame: the reader can begin while the writer goes on.
const LONGEST: usize = 1 << 15;

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Kind {
    /// The next bytes of messages with a tag.
    Data,
    /// The reader of a long message is ready for it.
    Grant,
}

/// `RING` bytes that two processes have mapped, zeroed at first.
#[derive(Clone, Copy)]
pub struct Ring(*mut u8);
// SAFETY: an address; the counters are atomic, and what they guard is copied by one side at a time.
unsafe impl Send for Ring {}

impl Ring {
    /// # Safety
    /// The address is of `RING` mapped bytes, at a cache line, that stay mapped. In one process only one `Ring` is there
    /// for each side, and it only reads or only writes.
    pub unsafe fn new(at: *mut u8) -> Ring {
        Ring(at)
    }

    fn head(&self) -> &AtomicU64 {
        // SAFETY: mapped and aligned, by `new`; nobody looks at these bytes in another way.
        unsafe { AtomicU64::from_ptr(self.0.cast()) }
    }
    fn tail(&self) -> &AtomicU64 {
        // SAFETY: as above.
        unsafe { AtomicU64::from_ptr(self.0.add(LINE).cast()) }
    }

    /// The two pieces of memory where `len` bytes lie from the `at`-th byte of all on.
    fn place(&self, at: u64, len: usize) -> [Bytes; 2] {
        let start = at as usize % ROOM;
        let first = len.min(ROOM - start);
        let bytes = |start, len| Bytes { at: self.0.wrapping_add(2 * LINE + start), len };
        [bytes(start, first), bytes(0, len - first)]
    }

    /// Puts a frame with as many of `bytes` as there is room for, and says how many; none: there is no room for a frame.
    ///
    /// # Safety
    /// `bytes` can be read.
    pub unsafe fn put(&self, kind: Kind, tag: u16, bytes: Bytes) -> Option<usize> {
        let head = self.head().load(Ordering::Relaxed);
        let free = ROOM - (head - self.tail().load(Ordering::Acquire)) as usize;
        let len = bytes.len.min(LONGEST).min(free.saturating_sub(WORD));
        if free < WORD || len < bytes.len.min(WORD) {
            return None;
        }
        let word = (kind as u64) << 48 | (tag as u64) << 32 | len as u64;
        // A header is not cut in two: frames are whole words.
        let [header, _] = self.place(head, WORD);
        // SAFETY: mapped, aligned to words, and the writer's until `head` moves.
        unsafe { header.at.cast::<u64>().write(word) };
        let mut from = bytes.at;
        for part in self.place(head + WORD as u64, len) {
            // SAFETY: the caller's bytes can be read; the ring's are the writer's, as above.
            unsafe { ptr::copy_nonoverlapping(from, part.at, part.len) };
            from = from.wrapping_add(part.len);
        }
        // The reader sees the frame when it sees this.
        self.head().store(head + (WORD + len.next_multiple_of(WORD)) as u64, Ordering::Release);
        Some(len)
    }

    /// Hands the next frame to `take`, in two pieces, if there is one.
    pub fn get(&self, take: impl FnOnce(Kind, u16, [Bytes; 2])) -> bool {
        let tail = self.tail().load(Ordering::Relaxed);
        if self.head().load(Ordering::Acquire) == tail {
            return false;
        }
        let [header, _] = self.place(tail, WORD);
        // SAFETY: mapped, aligned to words, written before `head` moved, and the reader's until `tail` moves.
        let word = unsafe { header.at.cast::<u64>().read() };
        let len = word as u32 as usize;
        let kind = if word >> 48 == Kind::Data as u64 { Kind::Data } else { Kind::Grant };
        take(kind, (word >> 32) as u16, self.place(tail + WORD as u64, len));
        // The writer may have the bytes when it sees this.
        self.tail().store(tail + (WORD + len.next_multiple_of(WORD)) as u64, Ordering::Release);
        true
    }
}
