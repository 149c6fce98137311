//! The way of inputs to a card: through two halves of pinned memory by turns. While the card reads one, the host fills the
//! other; the host waits only when it is two pieces ahead.
use crate::driver::{Card, Event, Pinned, Stream};
use std::sync::Arc;

pub struct Staging {
    halves: [(Pinned, Event); 2],
    turn: usize,
}

/// Of a half. The token slab of a micro-batch is smaller; parameters go in several pieces.
const BYTES: usize = 4 << 20;

impl Staging {
    pub fn new(card: &Arc<Card>) -> Result<Staging, String> {
        let half = || Ok::<_, String>((Pinned::new(card, BYTES)?, Event::new(card)));
        Ok(Staging { halves: [half()?, half()?], turn: 0 })
    }

    /// In the order of the stream; `from` is read before this returns.
    pub fn upload(&mut self, stream: &Stream, from: &[u8], to: u64) {
        for (i, piece) in from.chunks(BYTES).enumerate() {
            let (pinned, read) = &mut self.halves[self.turn];
            self.turn = 1 - self.turn;
            read.synchronize();
            let half = &mut pinned.bytes()[..piece.len()];
            half.copy_from_slice(piece);
            stream.upload(half, to + (i * BYTES) as u64);
            stream.record(read);
        }
    }
}
