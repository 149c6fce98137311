//! What rank 0 decides after a step and all ranks do: a signal reaches every rank at the same step boundary.
use checkpoint::Save;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};

/// What comes after a step.
#[derive(Clone)]
pub struct Order {
    /// A checkpoint that every rank writes its part of.
    pub save: Option<Arc<Save>>,
    pub stop: bool,
}

/// A rank's end of the control channel.
pub enum Control {
    Leader { followers: Vec<Sender<Order>>, written: Receiver<Result<(), String>> },
    Follower { orders: Receiver<Order>, written: Sender<Result<(), String>> },
}

/// The other side of a channel has ended: its own error says why.
#[derive(Debug, thiserror::Error)]
#[error("another rank has ended")]
pub struct Gone;

impl Control {
    /// One for each rank.
    pub fn world(ranks: usize) -> Vec<Control> {
        let (done, written) = channel();
        let (followers, orders): (Vec<_>, Vec<_>) = (1..ranks).map(|_| channel()).unzip();
        let follower = |orders| Control::Follower { orders, written: done.clone() };
        let rest: Vec<Control> = orders.into_iter().map(follower).collect();
        std::iter::once(Control::Leader { followers, written }).chain(rest).collect()
    }

    pub fn is_leader(&self) -> bool {
        matches!(self, Control::Leader { .. })
    }

    /// Rank 0 decides, all follow.
    pub fn agree<E: From<Gone>>(&self, decide: impl FnOnce() -> Result<Order, E>) -> Result<Order, E> {
        match self {
            Control::Leader { followers, .. } => {
                let order = decide()?;
                followers.iter().try_for_each(|f| f.send(order.clone()).map_err(|_| Gone))?;
                Ok(order)
            }
            Control::Follower { orders, .. } => Ok(orders.recv().map_err(|_| Gone)?),
        }
    }

    /// A rank has written its part; rank 0 learns of all. The first failure is everyone's.
    pub fn written(&self, own: Result<(), String>) -> Result<(), String> {
        match self {
            Control::Leader { followers, written } => {
                let others = followers.iter().map(|_| written.recv().unwrap_or_else(|_| Err(Gone.to_string())));
                std::iter::once(own).chain(others).collect()
            }
            Control::Follower { written, .. } => {
                // Rank 0 reports it; if it is gone, its own error has been reported.
                let _ = written.send(own);
                Ok(())
            }
        }
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
