//! What ranks tell each other between actions: words, and never tensors. Rank 0 decides and the others follow; the others
//! report and rank 0 hears. So a signal reaches every rank at the same step boundary, whoever got it.
//!
//! Words go along a [`Line`]: channels where ranks are threads, the store where they are processes ([`mail`]).
mod mail;

use anyhow::{Result, anyhow};
use comm::CommError;
use comm::store::{Store, StoreError};
use mail::Mail;
use serde::Serialize;
use serde::de::DeserializeOwned;
use signal_hook::consts::{SIGINT, SIGTERM, SIGUSR1};
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
    /// At rank 0: what any rank was asked, as this one was asked `here`.
    fn asked(&mut self, here: Asked) -> Result<Asked>;
    /// What lies behind the error of a rank, which others may have to know.
    fn cause(self: Box<Self>, error: anyhow::Error) -> anyhow::Error;
    fn leave(self: Box<Self>) -> Result<()>;
}

/// What a signal asks for; what comes later includes what comes before.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum Asked {
    #[default]
    Nothing,
    /// Save and stop: SIGINT, SIGTERM.
    Stop,
    /// And have Slurm start the job again: SIGUSR1.
    Requeue,
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

    /// At rank 0: the most that any rank was asked. Each tells it what it knows of.
    pub fn asked(&mut self, here: Asked) -> Result<Asked> {
        self.line.asked(here)
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
struct Channels(Vec<Wire>);

/// What goes to one other rank, and what comes from it.
type Wire = (Sender<Vec<u8>>, Receiver<Vec<u8>>);

impl Channels {
    fn of(&self, rank: usize) -> &Wire {
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
    fn asked(&mut self, here: Asked) -> Result<Asked> {
        Ok(here)
    }
    fn cause(self: Box<Self>, error: anyhow::Error) -> anyhow::Error {
        error
    }
    fn leave(self: Box<Self>) -> Result<()> {
        Ok(())
    }
}

/// What this process was asked by signals. The second one ends it at once.
pub struct Signals {
    any: Arc<AtomicBool>,
    requeue: Arc<AtomicBool>,
}

impl Signals {
    pub fn listen() -> std::io::Result<Signals> {
        let [any, requeue] = [(); 2].map(|()| Arc::new(AtomicBool::new(false)));
        signal_hook::flag::register(SIGUSR1, requeue.clone())?;
        for signal in [SIGINT, SIGTERM, SIGUSR1] {
            signal_hook::flag::register_conditional_shutdown(signal, 128 + signal, any.clone())?;
            signal_hook::flag::register(signal, any.clone())?;
        }
        Ok(Signals { any, requeue })
    }

    pub fn asked(&self) -> Asked {
        match (self.any.load(Ordering::Relaxed), self.requeue.load(Ordering::Relaxed)) {
            (false, _) => Asked::Nothing,
            (true, false) => Asked::Stop,
            (true, true) => Asked::Requeue,
        }
    }
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
            assert_eq!(heard[0], [&n, "0.0", "1.0", "2.0", &n, "0.1", "1.1", "2.1", &n, "0.2", "1.2", "2.2"]);
            assert_eq!(heard[1], [n.as_str(); 3]);
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
    fn a_rank_that_is_asked_to_stop_tells_rank_0() {
        for what in [Asked::Stop, Asked::Requeue] {
            let heard = each(processes(), |rank, mut control| {
                control.asked(if rank == 2 { what } else { Asked::Nothing }).unwrap();
                control.gather(()).unwrap();
                let heard = control.asked(Asked::Nothing).unwrap();
                control.leave().unwrap();
                heard
            });
            assert_eq!(heard[0], what);
        }
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
