//! The line between ranks that are processes: words are values of the store, each under a key of its own that its reader
//! removes.
use super::{Asked, Gone, Line, follows};
use crate::job::TIMEOUT;
use anyhow::{Result, anyhow};
use comm::store::{MAX_VALUE, Store, StoreError};
use std::thread;
use std::time::Duration;

/// For a word of a rank that is there: rank 0 may have to tokenise all data first. One that has ended is noticed at once.
const PATIENCE: Duration = Duration::from_secs(24 * 3600);
/// For the reason of a rank that has failed, which tells it before it ends.
const REASON: Duration = Duration::from_secs(2);
/// For others to ask for it.
const LINGER: Duration = Duration::from_secs(1);

const STOP: &str = "stop";
const REQUEUE: &str = "requeue";
const FAILED: &str = "failed";
const NEVER: &str = "never";

pub struct Mail {
    store: Store,
    rank: usize,
    /// Pieces of words to each rank by now, and from each.
    sent: Vec<u64>,
    received: Vec<u64>,
    /// What rank 0 knows this one was asked.
    told: Asked,
}

impl Mail {
    pub fn new(store: Store, rank: usize, world: usize) -> Mail {
        Mail { store, rank, sent: vec![0; world], received: vec![0; world], told: Asked::Nothing }
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

    fn asked(&mut self, here: Asked) -> Result<Asked> {
        let keys = [(Asked::Stop, STOP), (Asked::Requeue, REQUEUE)];
        if self.rank > 0 {
            if let Some((_, key)) = keys.into_iter().find(|(asked, _)| *asked == here && here > self.told) {
                self.store.set(key, &[])?;
                self.told = here;
            }
            return Ok(here);
        }
        let mut most = here;
        for (asked, key) in keys {
            if self.store.get(key)?.is_some() {
                most = most.max(asked);
            }
        }
        Ok(most)
    }

    /// Who fails by itself tells the others. Who fails because another rank did asks the store which it was: an engine
    /// may know only a neighbour that was lost for the same reason. It ends after that rank, so that a launcher blames
    /// the right one, and does not end the one that has most to say.
    fn cause(mut self: Box<Self>, error: anyhow::Error) -> anyhow::Error {
        let followed = follows(&error);
        let error = if followed { self.explained(error) } else { self.told(error) };
        if self.rank == 0 {
            // The store goes with it, and with the whole process: those that end when it does come after its last words.
            thread::sleep(LINGER);
            std::mem::forget(self);
        } else if followed {
            // Nobody sets this: the answer is that a rank is gone, or that nobody answers any more.
            let _ = self.store.wait(NEVER, REASON);
        }
        error
    }

    fn leave(self: Box<Self>) -> Result<()> {
        self.store.leave(TIMEOUT).map_err(|error| anyhow!(error))
    }
}

impl Mail {
    fn told(&mut self, error: anyhow::Error) -> anyhow::Error {
        let mut reason = format!("rank {} failed: {error:#}", self.rank);
        reason.truncate(reason.floor_char_boundary(MAX_VALUE));
        // If the store is gone too, our own error is all that we know.
        let _ = self.store.set(FAILED, reason.as_bytes());
        error
    }

    fn explained(&mut self, error: anyhow::Error) -> anyhow::Error {
        match self.store.wait(FAILED, REASON) {
            // Rank 0 has told it with its word.
            Ok(_) if error.is::<Gone>() => error,
            Ok(reason) => error.context(String::from_utf8_lossy(&reason).into_owned()),
            Err(gone @ (StoreError::Gone { .. } | StoreError::Lost { .. })) if !error.is::<StoreError>() => {
                error.context(gone)
            }
            Err(_) => error,
        }
    }
}
