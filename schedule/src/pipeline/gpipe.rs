//! GPipe (Huang et al. 2019): all forwards, then all backwards. Simple, and keeps every micro-batch's activations.
use super::Pass;
use plan::Micro;

pub fn order(micros: usize) -> Vec<(Pass, Micro)> {
    let forward = (0..micros).map(|m| (Pass::Forward, Micro(m)));
    forward.chain((0..micros).map(|m| (Pass::Backward, Micro(m)))).collect()
}
