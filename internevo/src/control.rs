//! What ranks tell each other between actions: words, and never tensors. Rank 0 decides and the others follow; the others
//! report and rank 0 hears. So a signal reaches every rank at the same step boundary, whoever got it.
//!
//! Words go along a [`Line`]: channels where ranks are threads, the store where they are processes ([`mail`]).
mod mail;

use anyhow::{Result, anyhow};
use comm::CommError;
use comm::store::{Store, StoreError};
use mail::Mail;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};

/// A rank's end.
pub struct Control {
    rank: usize,
    world: usize,
    line: Box<dyn Line>,
}

/// Between rank 0 and each other rank. Words of one sender arrive in their order.
trait Line: Send {
    fn send(&mut self, to: usize, word: Vec<u8>) -> Result<()>;
    fn receive(&mut self, from: usize) -> Result<Vec<u8>>;
    /// At rank 0: whether any rank was told to stop, as this one was if `here`.
    fn stop(&mut self, here: bool) -> Result<bool>;
    /// What lies behind the error of a rank, which others may have to know.
    fn cause(self: Box<Self>, error: anyhow::Error) -> anyhow::Error;
    fn leave(self: Box<Self>) -> Result<()>;
}

/// What comes after a step.
#[derive(Debug, Default, Serialize, Deserialize)]
pub struct Order {
    /// The draft of a checkpoint that every rank writes its part of.
    pub save: Option<PathBuf>,
    pub stop: bool,
}

/// Another rank has ended. In a world of threads its own error is told.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct Gone(String);

impl Control {
    /// One for each rank of a world of threads.
    pub fn threads(ranks: usize) -> Vec<Control> {
        let (mut leaders, mut others) = (vec![], vec![]);
        for rank in 1..ranks {
            let (down, orders) = channel();
            let (reports, up) = channel();
            leaders.push((down, up));
            others.push(Control { rank, world: ranks, line: Box::new(Channels(vec![(reports, orders)])) });
        }
        let leader = Control { rank: 0, world: ranks, line: Box::new(Channels(leaders)) };
        std::iter::once(leader).chain(others).collect()
    }

    pub fn process(store: Store, rank: usize, world: usize) -> Control {
        Control { rank, world, line: Box::new(Mail::new(store, rank, world)) }
    }

    pub fn leads(&self) -> bool {
        self.rank == 0
    }

    /// Rank 0 decides, all follow. If it fails all do.
    pub fn agree<T: Serialize + DeserializeOwned>(&mut self, decide: impl FnOnce() -> Result<T>) -> Result<T> {
        if !self.leads() {
            let word: Result<T, String> = read(&self.line.receive(0)?);
            return word.map_err(|why| Gone(format!("rank 0 ended: {why}")).into());
        }
        let decision = decide();
        let word = written(&decision.as_ref().map_err(|error| format!("{error:#}")));
        for rank in 1..self.world {
            let told = self.line.send(rank, word.clone());
            // An error of its own is more to the point than that of a rank that cannot be told.
            if decision.is_ok() {
                told?;
            }
        }
        decision
    }

    /// The words of all in rank order, at rank 0; nothing elsewhere.
    pub fn gather<T: Serialize + DeserializeOwned>(&mut self, own: T) -> Result<Vec<T>> {
        if !self.leads() {
            self.line.send(0, written(&own))?;
            return Ok(vec![]);
        }
        let mut words = vec![own];
        for rank in 1..self.world {
            words.push(read(&self.line.receive(rank)?));
        }
        Ok(words)
    }

    /// Rank 0 acts before all others do: what it makes is there for them.
    pub fn first<T>(&mut self, act: impl FnOnce() -> Result<T>) -> Result<T> {
        if !self.leads() {
            self.agree::<()>(|| unreachable!("rank 0 decides"))?;
            return act();
        }
        let done = act();
        let told = self.agree(|| done.as_ref().map(drop).map_err(|error| anyhow!("{error:#}")));
        done.and_then(|done| told.map(|()| done))
    }

    /// At rank 0: whether any rank was told to stop. Each tells it what it knows of.
    pub fn stop(&mut self, here: bool) -> Result<bool> {
        self.line.stop(here)
    }

    /// The end of a rank that has failed: its error, with what lies behind it.
    pub fn cause(self, error: anyhow::Error) -> anyhow::Error {
        self.line.cause(error)
    }

    /// When all is done.
    pub fn leave(self) -> Result<()> {
        self.line.leave()
    }
}

fn written(word: &impl Serialize) -> Vec<u8> {
    serde_json::to_vec(word).expect("words are plain data")
}

fn read<T: DeserializeOwned>(word: &[u8]) -> T {
    serde_json::from_slice(word).expect("ranks run one program, and speak in the same order")
}

/// Whether an error only follows from that of another rank.
pub fn follows(error: &anyhow::Error) -> bool {
    error.is::<Gone>() || error.is::<CommError>() || error.is::<StoreError>()
}

/// To rank 0, or at rank 0 to each other rank.
struct Channels(Vec<Ends>);

type Ends = (Sender<Vec<u8>>, Receiver<Vec<u8>>);

impl Channels {
    fn of(&self, rank: usize) -> &Ends {
        &self.0[rank.saturating_sub(1)]
    }
}

impl Line for Channels {
    fn send(&mut self, to: usize, word: Vec<u8>) -> Result<()> {
        Ok(self.of(to).0.send(word).map_err(|_| Gone(format!("rank {to} has ended")))?)
    }
    fn receive(&mut self, from: usize) -> Result<Vec<u8>> {
        Ok(self.of(from).1.recv().map_err(|_| Gone(format!("rank {from} has ended")))?)
    }
    fn stop(&mut self, here: bool) -> Result<bool> {
        Ok(here)
    }
    fn cause(self: Box<Self>, error: anyhow::Error) -> anyhow::Error {
        error
    }
    fn leave(self: Box<Self>) -> Result<()> {
        Ok(())
    }
}

/// Set by the first SIGINT or SIGTERM; the second ends the program at once.
pub fn stop_signal() -> std::io::Result<Arc<AtomicBool>> {
    let stop = Arc::new(AtomicBool::new(false));
    for signal in [signal_hook::consts::SIGINT, signal_hook::consts::SIGTERM] {
        signal_hook::flag::register_conditional_shutdown(signal, 128 + signal, stop.clone())?;
        signal_hook::flag::register(signal, stop.clone())?;
    }
    Ok(stop)
}

pub fn is_set(stop: &AtomicBool) -> bool {
    stop.load(Ordering::Relaxed)
}

#[cfg(test)]
mod tests {
    use super::*;
    use anyhow::bail;
    use comm::store::Meeting;
    use std::net::TcpListener;
    use std::time::Duration;

    fn threads() -> Vec<Control> {
        Control::threads(3)
    }

    fn processes() -> Vec<Control> {
        let listener = TcpListener::bind(("127.0.0.1", 0)).unwrap();
        let port = listener.local_addr().unwrap().port();
        let meeting = |rank| Meeting {
            address: "127.0.0.1".into(),
            port,
            rank,
            world: 3,
            job: "test".into(),
            secret: None,
            timeout: Duration::from_secs(20),
        };
        std::thread::scope(|scope| {
            let guests = [1, 2].map(|rank| scope.spawn(move || Store::join(&meeting(rank)).unwrap()));
            let stores = std::iter::once(Store::host(listener, &meeting(0)).unwrap());
            let stores: Vec<Store> = stores.chain(guests.map(|guest| guest.join().unwrap())).collect();
            stores.into_iter().enumerate().map(|(rank, store)| Control::process(store, rank, 3)).collect()
        })
    }

    /// What `act` gives on each rank.
    fn each<T: Send>(world: Vec<Control>, act: impl Fn(usize, Control) -> T + Sync) -> Vec<T> {
        let act = &act;
        std::thread::scope(|scope| {
            let start = |control: Control| scope.spawn(move || act(control.rank, control));
            let ranks: Vec<_> = world.into_iter().map(start).collect();
            ranks.into_iter().map(|rank| rank.join().unwrap()).collect()
        })
    }

    #[test]
    fn words_go_both_ways_on_every_line() {
        for world in [threads, processes] {
            let long = "x".repeat(300_000);
            let heard = each(world(), |rank, mut control| {
                let mut heard = vec![];
                for round in 0..3 {
                    heard.push(control.agree(|| Ok(format!("{round} {long}"))).unwrap().len().to_string());
                    heard.extend(control.gather(format!("{rank}.{round}")).unwrap());
                }
                control.leave().unwrap();
                heard
            });
            let n = (long.len() + 2).to_string();
            let n = n.as_str();
            assert_eq!(heard[0], [n, "0.0", "1.0", "2.0", n, "0.1", "1.1", "2.1", n, "0.2", "1.2", "2.2"]);
            assert_eq!(heard[1], [n, n, n]);
            assert_eq!(heard[1], heard[2]);
        }
    }

    #[test]
    fn the_failure_of_rank_0_is_everyones() {
        for world in [threads, processes] {
            let errors = each(world(), |_, mut control| {
                let refused: Result<()> = control.first(|| bail!("no disk"));
                format!("{:#}", control.cause(refused.unwrap_err()))
            });
            assert_eq!(errors, ["no disk", "rank 0 ended: no disk", "rank 0 ended: no disk"]);
        }
    }

    #[test]
    fn a_rank_that_is_told_to_stop_tells_rank_0() {
        let stops = each(processes(), |rank, mut control| {
            let before = control.stop(rank == 2).unwrap();
            control.gather(()).unwrap();
            let after = control.stop(false).unwrap();
            control.leave().unwrap();
            [before, after]
        });
        assert!(stops[0][1]);
    }

    #[test]
    fn the_failure_of_another_rank_is_told_with_its_reason() {
        for failing in 0..3 {
            let errors = each(processes(), |rank, control| {
                let error = match rank {
                    _ if rank == failing => anyhow!("the file is damaged"),
                    _ => CommError::Closed { comm: "data".into() }.into(),
                };
                format!("{:#}", control.cause(error))
            });
            for (rank, error) in errors.iter().enumerate() {
                let told = format!("rank {failing} failed: the file is damaged: data: this process has left its world");
                assert_eq!(*error, if rank == failing { "the file is damaged".into() } else { told });
            }
        }
    }
}
