//! Inputs that show the order of a sum, and the sum in the order that the design states.
use backend::Element;
use half::{bf16, f16};
use std::ops::Add;

/// A number that can be summed and compared by its bits.
pub trait Number: Element {
    /// In what it is summed.
    type Wide: Copy + Add<Output = Self::Wide>;
    fn of(x: f64) -> Self;
    fn bits(self) -> u64;
    fn widen(self) -> Self::Wide;
    fn round(sum: Self::Wide) -> Self;
}
impl Number for f32 {
    type Wide = f32;
    fn of(x: f64) -> f32 {
        x as f32
    }
    fn bits(self) -> u64 {
        self.to_bits().into()
    }
    fn widen(self) -> f32 {
        self
    }
    fn round(sum: f32) -> f32 {
        sum
    }
}
impl Number for f64 {
    type Wide = f64;
    fn of(x: f64) -> f64 {
        x
    }
    fn bits(self) -> u64 {
        self.to_bits()
    }
    fn widen(self) -> f64 {
        self
    }
    fn round(sum: f64) -> f64 {
        sum
    }
}
impl Number for bf16 {
    type Wide = f32;
    fn of(x: f64) -> bf16 {
        bf16::from_f64(x)
    }
    fn bits(self) -> u64 {
        self.to_bits().into()
    }
    fn widen(self) -> f32 {
        self.into()
    }
    fn round(sum: f32) -> bf16 {
        bf16::from_f32(sum)
    }
}
impl Number for f16 {
    type Wide = f32;
    /// Smaller, so that a sum of eight does not overflow.
    fn of(x: f64) -> f16 {
        f16::from_f64(x / 16.0)
    }
    fn bits(self) -> u64 {
        self.to_bits().into()
    }
    fn widen(self) -> f32 {
        self.into()
    }
    fn round(sum: f32) -> f16 {
        f16::from_f32(sum)
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

/// The sum of one element over ranks, as the design states it: one tree, rounded once.
pub fn sum<E: Number>(xs: &[E]) -> E {
    E::round(tree(&xs.iter().map(|x| x.widen()).collect::<Vec<_>>()))
}

fn tree<W: Copy + Add<Output = W>>(xs: &[W]) -> W {
    if let [x] = xs {
        return *x;
    }
    let (left, right) = xs.split_at((1..).map(|k| 1 << k).find(|two_k| *two_k >= xs.len()).unwrap() / 2);
    tree(left) + tree(right)
}

pub fn summed<E: Number>(n: usize, len: usize) -> Vec<E> {
    let inputs: Vec<Vec<E>> = (0..n).map(|rank| input(rank, len)).collect();
    (0..len).map(|i| sum(&inputs.iter().map(|x| x[i]).collect::<Vec<_>>())).collect()
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
