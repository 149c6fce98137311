//! Which instructions this machine has. One binary holds the kernels for all of them.
use super::lanes::{Kernel, Lanes, Portable, Vectors};

/// Kernels are compiled once for each of these. Most are plain loops: whichever runs, the arithmetic and so the bits are
/// the same, because the compiler does not contract a product and a sum unless it is told to. Those over `Lanes` tell it
/// to where there is an instruction, and agree to rounding.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Isa(Kind);

/// Only `Isa::best` and `Isa::all` make one, of what the machine has.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Kind {
    /// 512 bits, as x86-64-v4.
    #[cfg(target_arch = "x86_64")]
    Avx512,
    /// 256 bits with fused multiply-add, as x86-64-v3.
    #[cfg(target_arch = "x86_64")]
    Avx2,
    /// What every machine of this architecture has: SSE2, or NEON.
    Base,
}

impl Isa {
    /// The best this machine has.
    pub fn best() -> Isa {
        #[cfg(target_arch = "x86_64")]
        {
            macro_rules! has {
                ($($feature:tt),*) => { $(std::arch::is_x86_feature_detected!($feature))&&* };
            }
            if has!("avx512f", "avx512dq", "avx512bw", "avx512vl", "avx2", "fma") {
                return Isa(Kind::Avx512);
            }
            if has!("avx2", "fma") {
                return Isa(Kind::Avx2);
            }
        }
        Isa(Kind::Base)
    }

    /// All that this machine has.
    pub fn all() -> Vec<Isa> {
        match Isa::best().0 {
            #[cfg(target_arch = "x86_64")]
            Kind::Avx512 => vec![Isa(Kind::Avx512), Isa(Kind::Avx2), Isa(Kind::Base)],
            #[cfg(target_arch = "x86_64")]
            Kind::Avx2 => vec![Isa(Kind::Avx2), Isa(Kind::Base)],
            Kind::Base => vec![Isa(Kind::Base)],
        }
    }

    /// For people.
    pub fn name(self) -> &'static str {
        match self.0 {
            #[cfg(target_arch = "x86_64")]
            Kind::Avx512 => "AVX-512",
            #[cfg(target_arch = "x86_64")]
            Kind::Avx2 => "AVX2 and fused multiply-add",
            Kind::Base => "what every CPU of this architecture has",
        }
    }

    /// Calls `f`. If `f` is `#[inline(always)]`, with everything in it, it is compiled for these instructions.
    #[inline(always)]
    pub fn run<R>(self, f: impl FnOnce() -> R) -> R {
        match self.0 {
            // SAFETY: `best` and `all` give only what the machine has.
            #[cfg(target_arch = "x86_64")]
            Kind::Avx512 => unsafe { avx512(f) },
            // SAFETY: as above.
            #[cfg(target_arch = "x86_64")]
            Kind::Avx2 => unsafe { avx2(f) },
            Kind::Base => f(),
        }
    }

    /// How many sums of vectors of these numbers stay in registers.
    pub fn sums<E: Vectors>(self) -> [usize; 2] {
        match self.0 {
            #[cfg(target_arch = "x86_64")]
            Kind::Avx512 => E::Avx512::SUMS,
            #[cfg(target_arch = "x86_64")]
            Kind::Avx2 => E::Avx2::SUMS,
            Kind::Base => Portable::<E>::SUMS,
        }
    }

    /// Runs `kernel` with the vectors of these instructions, compiled for them.
    pub fn lanes<E: Vectors>(self, kernel: impl Kernel<E>) {
        match self.0 {
            // SAFETY: `best` and `all` give only what the machine has.
            #[cfg(target_arch = "x86_64")]
            Kind::Avx512 => unsafe {
                avx512(
                    #[inline(always)]
                    || kernel.run::<E::Avx512>(),
                )
            },
            // SAFETY: as above.
            #[cfg(target_arch = "x86_64")]
            Kind::Avx2 => unsafe {
                avx2(
                    #[inline(always)]
                    || kernel.run::<E::Avx2>(),
                )
            },
            Kind::Base => kernel.run::<Portable<E>>(),
        }
    }
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f,avx512dq,avx512bw,avx512vl,avx2,fma")]
fn avx512<R>(f: impl FnOnce() -> R) -> R {
    f()
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,fma")]
fn avx2<R>(f: impl FnOnce() -> R) -> R {
    f()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_of_them_run_and_give_the_same_bits() {
        let all = Isa::all();
        assert_eq!((all[0], all[all.len() - 1]), (Isa::best(), Isa(Kind::Base)));
        let x: Vec<f32> = (0..1000).map(|i| 0.1 * i as f32).collect();
        // A contracted product and sum would be rounded once.
        let polynomial = |x: &f32| (x * 0.3 + 0.7) * x + 0.1;
        let expected: Vec<f32> = x.iter().map(polynomial).collect();
        for isa in all {
            assert!(isa.run(|| x.iter().map(polynomial).collect::<Vec<f32>>()) == expected, "{isa:?}");
        }
    }
}
