//! The line between ranks that are processes: words are values of the store, each under a key of its own that its reader
//! removes.
use super::{Line, follows};
use crate::job::TIMEOUT;
use anyhow::{Result, anyhow};
use comm::store::{MAX_VALUE, Store, StoreError};
use std::time::Duration;

/// For a word of a rank that is there: rank 0 may have to tokenise all data first. One that has ended is noticed at once.
const PATIENCE: Duration = Duration::from_secs(24 * 3600);
/// For the reason of a rank that has failed, which tells it before it ends.
const REASON: Duration = Duration::from_secs(2);

const STOP: &str = "stop";
const FAILED: &str = "failed";

pub struct Mail {
    store: Store,
    rank: usize,
    /// Pieces of words to each rank by now, and from each.
    sent: Vec<u64>,
    received: Vec<u64>,
    /// Rank 0 knows that this one was told to stop.
    told: bool,
}

impl Mail {
    pub fn new(store: Store, rank: usize, world: usize) -> Mail {
        Mail { store, rank, sent: vec![0; world], received: vec![0; world], told: false }
    }
}

fn key(from: usize, to: usize, number: u64) -> String {
    format!("word/{from}/{to}/{number}")
}

impl Line for Mail {
    /// In pieces of the largest size; a smaller one, if an empty one, is the last.
    fn send(&mut self, to: usize, word: Vec<u8>) -> Result<()> {
        let empty: &[u8] = &[];
        let last = word.len().is_multiple_of(MAX_VALUE).then_some(empty);
        for piece in word.chunks(MAX_VALUE).chain(last) {
            self.store.set(&key(self.rank, to, self.sent[to]), piece)?;
            self.sent[to] += 1;
        }
        Ok(())
    }

    fn receive(&mut self, from: usize) -> Result<Vec<u8>> {
        let mut word = vec![];
        loop {
            let key = key(from, self.rank, self.received[from]);
            let piece = self.store.wait(&key, PATIENCE)?;
            self.store.remove(&key)?;
            self.received[from] += 1;
            word.extend_from_slice(&piece);
            if piece.len() < MAX_VALUE {
                return Ok(word);
            }
        }
    }

    fn stop(&mut self, here: bool) -> Result<bool> {
        if self.rank == 0 {
            return Ok(here || self.store.get(STOP)?.is_some());
        }
        if here && !self.told {
            self.store.set(STOP, &[])?;
            self.told = true;
        }
        Ok(here)
    }

    /// Who fails by itself tells the others. Who fails because another rank did asks the store which it was: an engine
    /// may know only a neighbour that was lost for the same reason.
    fn cause(&mut self, rank: usize, error: anyhow::Error) -> anyhow::Error {
        if !follows(&error) {
            let mut reason = format!("rank {rank} failed: {error:#}");
            reason.truncate(reason.floor_char_boundary(MAX_VALUE));
            // If the store is gone too, our own error is all that we know.
            let _ = self.store.set(FAILED, reason.as_bytes());
            return error;
        }
        match self.store.wait(FAILED, REASON) {
            Ok(reason) => error.context(String::from_utf8_lossy(&reason).into_owned()),
            Err(gone @ (StoreError::Gone { .. } | StoreError::Lost { .. })) if !error.is::<StoreError>() => {
                error.context(gone)
            }
            Err(_) => error,
        }
    }

    fn leave(self: Box<Self>) -> Result<()> {
        self.store.leave(TIMEOUT).map_err(|error| anyhow!(error))
    }
}
