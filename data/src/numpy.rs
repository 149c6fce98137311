//! The generator behind `numpy.random.RandomState`, whose streams NumPy has frozen: data that was packed and
//! shuffled with it can be taken up in the same order.
//!
//! Source: Matsumoto and Nishimura, "Mersenne Twister", 1998 (MT19937), and NumPy's guarantee for the legacy
//! distributions: bounded integers are drawn by masking 32-bit words and rejecting what is too large.

/// Words of state, and the distance of the recurrence.
const N: usize = 624;
const M: usize = 397;

/// `numpy.random.RandomState(seed)`.
pub(crate) struct RandomState {
    key: Box<[u32; N]>,
    at: usize,
}

impl RandomState {
    pub fn new(seed: u32) -> RandomState {
        let mut key = Box::new([seed; N]);
        for i in 1..N {
            key[i] = 1_812_433_253u32.wrapping_mul(key[i - 1] ^ key[i - 1] >> 30).wrapping_add(i as u32);
        }
        RandomState { key, at: N }
    }

    /// `randint(low, high)` for the default type: `low` and up, below `high`.
    pub fn randint(&mut self, low: u32, high: u32) -> u32 {
        assert!(low < high, "no integer from {low} to below {high}");
        low + self.up_to(high - low - 1)
    }

    /// `permutation(n)`: 0 to n - 1, shuffled.
    pub fn permutation(&mut self, n: usize) -> Vec<u32> {
        assert!(n <= 1 << 32, "a permutation of {n} elements");
        let mut all: Vec<u32> = (0..n).map(|i| i as u32).collect();
        for i in (1..n).rev() {
            all.swap(i, self.up_to(i as u32) as usize);
        }
        all
    }

    /// One of 0 to `max`. Where there is nothing to choose no word is drawn.
    fn up_to(&mut self, max: u32) -> u32 {
        if max == 0 {
            return 0;
        }
        let mask = u32::MAX >> max.leading_zeros();
        loop {
            let value = self.word() & mask;
            if value <= max {
                return value;
            }
        }
    }

    fn word(&mut self) -> u32 {
        if self.at == N {
            self.twist();
        }
        let mut y = self.key[self.at];
        self.at += 1;
        y ^= y >> 11;
        y ^= y << 7 & 0x9d2c_5680;
        y ^= y << 15 & 0xefc6_0000;
        y ^ y >> 18
    }

    fn twist(&mut self) {
        for i in 0..N {
            let y = self.key[i] & 0x8000_0000 | self.key[(i + 1) % N] & 0x7fff_ffff;
            let odd = if y & 1 == 1 { 0x9908_b0df } else { 0 };
            self.key[i] = self.key[(i + M) % N] ^ y >> 1 ^ odd;
        }
        self.at = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(serde::Deserialize)]
    struct Golden {
        seed: u32,
        /// Each: low, high, and what was drawn. One state goes through all of them in this order.
        randint: Vec<(u32, u32, Vec<u32>)>,
        /// Then these, by length.
        permutations: Vec<Vec<u32>>,
        /// Of a long permutation: its length, every 9973rd element, and the draw after it.
        long: (usize, Vec<u32>, u32),
    }

    #[test]
    fn draws_what_numpy_draws() {
        let goldens = include_str!("../tests/goldens/internevo/numpy.json");
        let goldens: Vec<Golden> = serde_json::from_str(goldens).unwrap();
        assert_eq!(goldens.iter().map(|g| g.seed).collect::<Vec<_>>(), [0, 1024, 1999, u32::MAX]);
        for golden in goldens {
            let mut rng = RandomState::new(golden.seed);
            for (low, high, drawn) in golden.randint {
                let ours: Vec<u32> = drawn.iter().map(|_| rng.randint(low, high)).collect();
                assert_eq!(ours, drawn, "seed {}, {low} to below {high}", golden.seed);
            }
            for expected in golden.permutations {
                assert_eq!(rng.permutation(expected.len()), expected, "seed {}", golden.seed);
            }
            let (n, every, after) = golden.long;
            let long = rng.permutation(n);
            assert_eq!(long.iter().copied().step_by(9973).collect::<Vec<_>>(), every);
            assert_eq!(rng.randint(0, 1 << 30), after);
        }
    }
}
