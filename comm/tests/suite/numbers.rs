//! Inputs that show the order of a sum, and the sum in the order that the design states.
use backend::Element;
use std::ops::Add;

/// A number that can be summed and compared by its bits.
pub trait Number: Element + Add<Output = Self> {
    fn of(x: f64) -> Self;
    fn bits(self) -> u64;
}
impl Number for f32 {
    fn of(x: f64) -> f32 {
        x as f32
    }
    fn bits(self) -> u64 {
        self.to_bits().into()
    }
}
impl Number for f64 {
    fn of(x: f64) -> f64 {
        x
    }
    fn bits(self) -> u64 {
        self.to_bits()
    }
}

pub fn bits<E: Number>(xs: &[E]) -> Vec<u64> {
    xs.iter().map(|x| x.bits()).collect()
}

/// What rank `rank` starts with.
pub fn input<E: Number>(rank: usize, len: usize) -> Vec<E> {
    let mut random = Random(rank as u64 + 77);
    (0..len).map(|_| E::of(random.number())).collect()
}

/// The sum of one element over ranks, as the design states it.
pub fn tree<E: Number>(xs: &[E]) -> E {
    if let [x] = xs {
        return *x;
    }
    let (left, right) = xs.split_at((1..).map(|k| 1 << k).find(|two_k| *two_k >= xs.len()).unwrap() / 2);
    tree(left) + tree(right)
}

pub fn summed<E: Number>(n: usize, len: usize) -> Vec<E> {
    let inputs: Vec<Vec<E>> = (0..n).map(|rank| input(rank, len)).collect();
    (0..len).map(|i| tree(&inputs.iter().map(|x| x[i]).collect::<Vec<_>>())).collect()
}

/// Pseudo-random numbers (PCG's multiplier, high bits).
pub struct Random(pub u64);
impl Random {
    pub fn below(&mut self, n: usize) -> usize {
        self.0 = self.0.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        (self.0 >> 33) as usize % n
    }
    /// Of both signs, over seven decades: the order of a sum shows in its bits.
    pub fn number(&mut self) -> f64 {
        let sign = [1.0, -1.0][self.below(2)];
        sign * (1.0 + self.below(1 << 20) as f64 / (1 << 20) as f64) * 10f64.powi(self.below(8) as i32 - 4)
    }
}
