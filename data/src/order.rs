//! Order by arithmetic: a keyed permutation of `0..n` that is evaluated at any point in O(1).
//!
//! It shuffles the rows of an epoch and chooses the documents to hold out. No array of indices exists, so
//! there is nothing to save in a checkpoint and nothing to replay on resume.

use crate::hash::mix;

/// A permutation of `0..n`: a Feistel network over the next power of four, with cycle walking
/// (Black and Rogaway, "Ciphers with arbitrary finite domains", 2002, section 5 and method 2).
pub(crate) struct Permutation {
    n: u64,
    half_bits: u32,
    key: u64,
}

/// Four rounds look random for large domains (Luby and Rackoff); two more help the small ones.
const ROUNDS: u64 = 6;

/// The key of the held-out choice, where a shuffle has its epoch; no run gets this far.
const HOLD_OUT: u64 = u64::MAX;

impl Permutation {
    pub fn new(n: u64, seed: u64, epoch: u64) -> Permutation {
        assert!((1..1 << 62).contains(&n), "a permutation of {n} elements");
        let bits = u64::BITS - (n - 1).leading_zeros();
        Permutation { n, half_bits: bits.div_ceil(2), key: mix(mix(seed).wrapping_add(epoch)) }
    }

    pub fn at(&self, i: u64) -> u64 {
        assert!(i < self.n, "index {i} of a permutation of {}", self.n);
        // The domain is less than four times n, so this takes fewer than four turns on average.
        let mut x = self.feistel(i);
        while x >= self.n {
            x = self.feistel(x);
        }
        x
    }

    fn feistel(&self, x: u64) -> u64 {
        let mask = (1 << self.half_bits) - 1;
        let (left, right) = (0..ROUNDS).fold((x >> self.half_bits, x & mask), |(left, right), round| {
            (right, left ^ (mix(self.key ^ mix(right ^ (round << 32))) & mask))
        });
        left << self.half_bits | right
    }
}

/// How many of `n` things to hold out: at least one, and never all. None if that is impossible.
pub(crate) fn held_out_count(n: usize, fraction: f64) -> Option<usize> {
    (n >= 2).then(|| ((n as f64 * fraction).round() as usize).clamp(1, n - 1))
}

/// Which of `n` documents are held out; the choice depends on (n, fraction, seed) alone.
pub(crate) fn held_out(n: usize, fraction: f64, seed: u64) -> Option<Vec<bool>> {
    let count = held_out_count(n, fraction)?;
    let permutation = Permutation::new(n as u64, seed, HOLD_OUT);
    let mut mask = vec![false; n];
    (0..count as u64).for_each(|i| mask[permutation.at(i) as usize] = true);
    Some(mask)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn all(n: u64, seed: u64, epoch: u64) -> Vec<u64> {
        let permutation = Permutation::new(n, seed, epoch);
        (0..n).map(|i| permutation.at(i)).collect()
    }

    proptest! {
        #[test]
        fn is_a_permutation(n in 1u64..5000, seed: u64, epoch: u64) {
            let mut seen = all(n, seed, epoch);
            seen.sort_unstable();
            prop_assert_eq!(seen, (0..n).collect::<Vec<_>>());
        }

        #[test]
        fn differs_between_epochs_and_seeds(n in 64u64..5000, seed: u64, epoch in 0u64..1000) {
            prop_assert_ne!(all(n, seed, epoch), all(n, seed, epoch + 1));
            prop_assert_ne!(all(n, seed, epoch), all(n, seed.wrapping_add(1), epoch));
        }

        #[test]
        fn stays_inside_large_domains(n in 1u64..1 << 62, i: u64, seed: u64) {
            prop_assert!(Permutation::new(n, seed, 0).at(i % n) < n);
        }

        #[test]
        fn holds_out_some_and_never_all(n in 2usize..2000, fraction in 1e-6..0.999_999, seed: u64) {
            let held = held_out(n, fraction, seed).unwrap().iter().filter(|held| **held).count();
            prop_assert!(held >= 1 && held < n);
            prop_assert!((held as f64 - n as f64 * fraction).abs() <= 1.0);
        }
    }

    #[test]
    fn every_small_n_is_permuted() {
        for n in 1..300 {
            let mut seen = all(n, 7, 0);
            seen.sort_unstable();
            assert_eq!(seen, (0..n).collect::<Vec<_>>());
        }
    }

    #[test]
    fn every_element_reaches_every_place_about_equally_often() {
        let mut count = [[0u32; 10]; 10];
        for epoch in 0..10_000 {
            all(10, 1, epoch).iter().enumerate().for_each(|(place, x)| count[place][*x as usize] += 1);
        }
        // Standard deviation 30; five of them.
        assert!(count.iter().flatten().all(|c| (850..1150).contains(c)), "{count:?}");
    }

    #[test]
    fn one_document_cannot_be_divided() {
        assert!(held_out(0, 0.5, 0).is_none() && held_out(1, 0.5, 0).is_none());
    }
}
