//! What the arithmetic units could do if nothing else were in the way: products and sums that stay in registers.
use super::lanes::{Kernel, LANES, Lanes, Vectors};
use super::pool::Pool;

/// Sums that do not wait for each other.
const CHAINS: usize = 16;

/// So many rounds of multiply-adds of f32 on every thread; how many floating-point operations that are.
pub fn spin(pool: &Pool, rounds: usize) -> f64 {
    pool.each(pool.threads(), |_| pool.isa().lanes::<f32>(Chains { rounds }));
    (2 * CHAINS * LANES * rounds * pool.threads()) as f64
}

struct Chains {
    rounds: usize,
}
impl<E: Vectors> Kernel<E> for Chains {
    #[inline(always)]
    fn run<L: Lanes<E>>(self) {
        let mut sums = [L::zero(); CHAINS];
        let [a, b] = std::hint::black_box([E::of(0.5), E::ONE]).map(L::splat);
        for _ in 0..self.rounds {
            for i in 0..CHAINS {
                sums[i] = sums[i].mul_add(a, b);
            }
        }
        let mut all = L::zero();
        for i in 0..CHAINS {
            all = all.add(sums[i]);
        }
        std::hint::black_box(all.sum());
    }
}
