//! The order of an epoch as InternEvo's sampler has it: NumPy's generator shuffles 0 to n - 1, and goes on from where
//! it is in the next epoch. A step takes its micro-batches from one epoch: what is left of it after the last whole step
//! is dropped.
//!
//! The order of epoch e cannot be computed without that of the epochs before it, so the last few are kept. Which they
//! are is not seen from outside: place n has the same answer whenever it is asked for.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex};

use crate::numpy::RandomState;

pub(crate) struct Epochs {
    seed: u32,
    units: usize,
    /// Places in an epoch, a multiple of those in a step.
    places: u64,
    known: Mutex<Known>,
}

struct Known {
    /// As it stands after `epochs` of them.
    generator: RandomState,
    epochs: u64,
    /// The last of them.
    orders: VecDeque<Arc<[u32]>>,
}

/// Ranks are at most a step apart, so two would do.
const KEPT: usize = 4;

impl Epochs {
    /// None if the units are too few for one step.
    pub fn new(seed: u32, units: u64, step: usize) -> Option<Epochs> {
        let places = units / step as u64 * step as u64;
        let units = usize::try_from(units).ok().filter(|_| places > 0)?;
        Some(Epochs { seed, units, places, known: Mutex::new(Known::new(seed)) })
    }

    /// The unit at place n since the start of training.
    pub fn at(&self, n: u64) -> u64 {
        let (epoch, place) = (n / self.places, n % self.places);
        self.order(epoch)[place as usize].into()
    }

    fn order(&self, epoch: u64) -> Arc<[u32]> {
        let mut known = self.known.lock().unwrap();
        if epoch < known.epochs - known.orders.len() as u64 {
            *known = Known::new(self.seed);
        }
        while known.epochs <= epoch {
            let order = known.generator.permutation(self.units).into();
            known.orders.push_back(order);
            known.epochs += 1;
            if known.orders.len() > KEPT {
                known.orders.pop_front();
            }
        }
        let oldest = known.epochs - known.orders.len() as u64;
        known.orders[(epoch - oldest) as usize].clone()
    }
}

impl Known {
    fn new(seed: u32) -> Known {
        Known { generator: RandomState::new(seed), epochs: 0, orders: VecDeque::new() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn any_place_has_the_same_answer_whenever_it_is_asked_for() {
        let epochs = Epochs::new(3, 11, 3).unwrap();
        let forward: Vec<u64> = (0..9 * 20).map(|n| epochs.at(n)).collect();
        for n in (0..9 * 20).rev().chain([170, 3, 100, 99, 0, 179]) {
            assert_eq!(epochs.at(n), forward[n as usize], "place {n}");
        }
        let mut rng = RandomState::new(3);
        for epoch in forward.chunks(9) {
            let whole = rng.permutation(11);
            assert_eq!(epoch, whole[..9].iter().map(|unit| u64::from(*unit)).collect::<Vec<_>>());
        }
    }

    #[test]
    fn an_epoch_holds_a_step_at_least() {
        assert!(Epochs::new(0, 2, 3).is_none());
        assert_eq!(Epochs::new(0, 3, 3).unwrap().places, 3);
    }
}
