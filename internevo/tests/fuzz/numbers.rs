//! Numbers that look random and are the same for the same seed.

/// splitmix64 (Steele, Lea and Flood 2014).
pub struct Numbers(u64);

impl Numbers {
    pub fn from(state: u64) -> Numbers {
        Numbers(state)
    }

    /// Those of one input: it can be made again without the inputs before it.
    pub fn of(seed: u64, number: u64) -> Numbers {
        let start = Numbers(seed).next();
        Numbers(start ^ Numbers(number).next())
    }

    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    pub fn below(&mut self, n: usize) -> usize {
        (self.next() % n as u64) as usize
    }

    /// True once in so many times.
    pub fn once_in(&mut self, n: usize) -> bool {
        self.below(n) == 0
    }

    pub fn pick<'a, T>(&mut self, items: &'a [T]) -> &'a T {
        &items[self.below(items.len())]
    }

    /// Small counts mostly, and each larger one less often, up to `most`.
    pub fn count(&mut self, most: usize) -> usize {
        let bits = self.below(most.ilog2() as usize + 1);
        (1 + self.below(1 << bits)).min(most)
    }
}

/// The generator's published sequence for seed 1234567.
#[test]
fn numbers_are_those_of_splitmix64() {
    let mut numbers = Numbers(1_234_567);
    assert_eq!([numbers.next(), numbers.next()], [6_457_827_717_110_365_317, 3_203_168_211_198_807_973]);
}
