//! InternEvo's made-up data: sample i is `n r`, and then r times the ramp `0 1 .. n-1`, cut at `seq_len`.
//!
//! A model can learn it within a few steps, and it needs no file. All comes from one stream of NumPy's generator,
//! first every n and then every r, so the samples depend on how many there are.

use crate::numpy::RandomState;

/// Samples to train on, and to validate on.
pub(crate) const TRAIN: usize = 1_000_000;
pub(crate) const VALID: usize = 500;

const SEED: u32 = 1999;

/// A sample.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) struct Ramps {
    n: u64,
    repeats: u64,
}

/// `count` samples; if they are to be `full`, r doubles until the ramps alone fill a row.
pub(crate) fn samples(count: usize, seq_len: usize, full: bool) -> Vec<Ramps> {
    let mut rng = RandomState::new(SEED);
    let mut draw = |low, high| (0..count).map(|_| rng.randint(low, high).into()).collect::<Vec<u64>>();
    let (n, repeats) = (draw(1, 30), draw(10, 200));
    let sample = |(n, mut repeats)| {
        while full && n * repeats < seq_len as u64 {
            repeats *= 2;
        }
        Ramps { n, repeats }
    };
    n.into_iter().zip(repeats).map(sample).collect()
}

/// The largest id in them.
pub(crate) fn largest_id(samples: &[Ramps], seq_len: usize) -> u64 {
    let largest = |sample: &Ramps| if seq_len < 2 { sample.n } else { sample.n.max(sample.repeats) };
    samples.iter().map(largest).max().unwrap_or(0)
}

impl Ramps {
    pub fn len(self, seq_len: usize) -> usize {
        (2 + self.n * self.repeats).min(seq_len as u64) as usize
    }

    pub fn tokens(self, seq_len: usize) -> Vec<i64> {
        let ramps = (0..self.n * self.repeats).map(|i| i % self.n);
        [self.n, self.repeats].into_iter().chain(ramps).take(seq_len).map(|id| id as i64).collect()
    }
}
