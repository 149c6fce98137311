//! The vectors of x86-64, by intrinsics. `Isa::lanes` alone hands these types out, on machines that have the instructions.
use super::{EXP2, LANES, LEAST, Lanes};
use std::arch::x86_64::*;

/// 1 + c₁ f + ... + c₅ f⁵
macro_rules! polynomial {
    ($f:expr) => {{
        let [c1, c2, c3, c4, c5] = EXP2;
        let p = Self::splat(c5).mul_add($f, Self::splat(c4)).mul_add($f, Self::splat(c3));
        p.mul_add($f, Self::splat(c2)).mul_add($f, Self::splat(c1)).mul_add($f, Self::splat(1.0))
    }};
}

/// tanh y = 1 - 2 / (1 + exp 2y); near zero, where that cancels, the first terms of its series.
macro_rules! tanh {
    ($y:expr) => {{
        let y: Self = $y;
        let bounded = y.max(Self::splat(-9.0)).sub(y.sub(Self::splat(9.0)).max(Self::splat(0.0)));
        let e = bounded.mul(Self::splat(2.0 * std::f32::consts::LOG2_E)).exp2();
        let far = Self::splat(1.0).sub(Self::splat(2.0).div(Self::splat(1.0).add(e)));
        let y2 = y.mul(y);
        let series =
            Self::splat(62.0 / 2835.0).mul_add(y2, Self::splat(-17.0 / 315.0)).mul_add(y2, Self::splat(2.0 / 15.0));
        let near = y.mul(series.mul_add(y2, Self::splat(-1.0 / 3.0)).mul_add(y2, Self::splat(1.0)));
        Self::where_less(y2, Self::splat(0.09), near, far)
    }};
}

impl Avx512 {
    #[inline(always)]
    fn div(self, b: Self) -> Self {
        // SAFETY: the machine has AVX-512, see below.
        Avx512(unsafe { _mm512_div_ps(self.0, b.0) })
    }
    /// x where a < b, else y.
    #[inline(always)]
    fn where_less(a: Self, b: Self, x: Self, y: Self) -> Self {
        // SAFETY: the machine has AVX-512, see below.
        Avx512(unsafe { _mm512_mask_mov_ps(y.0, _mm512_cmp_ps_mask::<_CMP_LT_OQ>(a.0, b.0), x.0) })
    }
}

/// The lanes of each of eight vectors joined, with fewer shuffles than one by one: two vectors become one of halves, these
/// one of quarters, and these one of pairs.
macro_rules! join {
    ($x:expr, $of:ident) => {{
        let halves =
            |a: Self, b: Self| $of(_mm512_shuffle_f32x4::<0x44>(a.0, b.0), _mm512_shuffle_f32x4::<0xee>(a.0, b.0));
        let quarters =
            |a: __m512, b: __m512| $of(_mm512_shuffle_f32x4::<0x88>(a, b), _mm512_shuffle_f32x4::<0xdd>(a, b));
        let [a, b, c, d, e, f, g, h]: [Self; 8] = $x;
        let abcd = quarters(halves(a, b), halves(c, d));
        let efgh = quarters(halves(e, f), halves(g, h));
        let pairs = $of(_mm512_unpacklo_ps(abcd, efgh), _mm512_unpackhi_ps(abcd, efgh));
        let mut out = [0.0; LANES];
        Avx512($of(pairs, _mm512_permute_ps::<0x4e>(pairs))).store(&mut out);
        [out[0], out[4], out[8], out[12], out[1], out[5], out[9], out[13]]
    }};
}

#[derive(Clone, Copy)]
pub struct Avx512(__m512);

// SAFETY, of every block in here: the machine has AVX-512, because `Isa::lanes` gave out the type; addresses are
// those of slices of 16 numbers.
impl Lanes<f32> for Avx512 {
    const SUMS: [usize; 2] = [8, 2];

    #[inline(always)]
    fn zero() -> Self {
        Self::splat(0.0)
    }
    #[inline(always)]
    fn splat(x: f32) -> Self {
        // SAFETY: see the top of this `impl`.
        Avx512(unsafe { _mm512_set1_ps(x) })
    }
    #[inline(always)]
    fn load(x: &[f32]) -> Self {
        assert!(x.len() >= LANES);
        // SAFETY: see the top of this `impl`.
        Avx512(unsafe { _mm512_loadu_ps(x.as_ptr()) })
    }
    #[inline(always)]
    fn store(self, y: &mut [f32]) {
        assert!(y.len() >= LANES);
        // SAFETY: see the top of this `impl`.
        unsafe { _mm512_storeu_ps(y.as_mut_ptr(), self.0) }
    }
    #[inline(always)]
    fn add(self, b: Self) -> Self {
        // SAFETY: see the top of this `impl`.
        Avx512(unsafe { _mm512_add_ps(self.0, b.0) })
    }
    #[inline(always)]
    fn sub(self, b: Self) -> Self {
        // SAFETY: see the top of this `impl`.
        Avx512(unsafe { _mm512_sub_ps(self.0, b.0) })
    }
    #[inline(always)]
    fn mul(self, b: Self) -> Self {
        // SAFETY: see the top of this `impl`.
        Avx512(unsafe { _mm512_mul_ps(self.0, b.0) })
    }
    #[inline(always)]
    fn mul_add(self, b: Self, c: Self) -> Self {
        // SAFETY: see the top of this `impl`.
        Avx512(unsafe { _mm512_fmadd_ps(self.0, b.0, c.0) })
    }
    #[inline(always)]
    fn max(self, b: Self) -> Self {
        // SAFETY: see the top of this `impl`.
        Avx512(unsafe { _mm512_max_ps(self.0, b.0) })
    }
    #[inline(always)]
    fn keep(self, from: usize, to: usize, other: Self) -> Self {
        let mask = (1u32 << to).wrapping_sub(1) & !(1u32 << from).wrapping_sub(1);
        // SAFETY: see the top of this `impl`.
        Avx512(unsafe { _mm512_mask_mov_ps(other.0, mask as u16, self.0) })
    }
    /// `vreduceps` leaves x - floor(x), and `vscalefps` multiplies by 2^floor(x).
    #[inline(always)]
    fn exp2(self) -> Self {
        // SAFETY: see the top of this `impl`.
        let f = Avx512(unsafe { _mm512_reduce_ps::<0b1001>(self.0) });
        let p = polynomial!(f);
        // SAFETY: see the top of this `impl`.
        Avx512(unsafe { _mm512_scalef_ps(p.0, self.0) })
    }
    #[inline(always)]
    fn tanh(self) -> Self {
        tanh!(self)
    }
    #[inline(always)]
    fn sum(self) -> f32 {
        // SAFETY: see the top of this `impl`.
        unsafe { _mm512_reduce_add_ps(self.0) }
    }
    #[inline(always)]
    fn largest(self) -> f32 {
        // SAFETY: see the top of this `impl`.
        unsafe { _mm512_reduce_max_ps(self.0) }
    }
    #[inline(always)]
    fn sums(x: [Self; 8]) -> [f32; 8] {
        // SAFETY: see the top of this `impl`.
        unsafe { join!(x, _mm512_add_ps) }
    }
    #[inline(always)]
    fn largests(x: [Self; 8]) -> [f32; 8] {
        // SAFETY: see the top of this `impl`.
        unsafe { join!(x, _mm512_max_ps) }
    }
    /// 4 × 4 inside of quarters first, then the quarters.
    #[inline(always)]
    fn transpose(x: [Self; LANES]) -> [Self; LANES] {
        // SAFETY: see the top of this `impl`.
        unsafe {
            let mut quarters = [_mm512_setzero_ps(); LANES];
            for i in (0..LANES).step_by(4) {
                let low = |a: Self, b: Self| _mm512_castps_pd(_mm512_unpacklo_ps(a.0, b.0));
                let high = |a: Self, b: Self| _mm512_castps_pd(_mm512_unpackhi_ps(a.0, b.0));
                let (a, b) = (low(x[i], x[i + 1]), low(x[i + 2], x[i + 3]));
                let (c, d) = (high(x[i], x[i + 1]), high(x[i + 2], x[i + 3]));
                quarters[i] = _mm512_castpd_ps(_mm512_unpacklo_pd(a, b));
                quarters[i + 1] = _mm512_castpd_ps(_mm512_unpackhi_pd(a, b));
                quarters[i + 2] = _mm512_castpd_ps(_mm512_unpacklo_pd(c, d));
                quarters[i + 3] = _mm512_castpd_ps(_mm512_unpackhi_pd(c, d));
            }
            let mut out = x;
            for i in 0..4 {
                let [a, b, c, d] = [quarters[i], quarters[4 + i], quarters[8 + i], quarters[12 + i]];
                // Even and odd quarters of a and b, then of c and d.
                let (ab, cd) = (_mm512_shuffle_f32x4::<0x88>(a, b), _mm512_shuffle_f32x4::<0x88>(c, d));
                out[i] = Avx512(_mm512_shuffle_f32x4::<0x88>(ab, cd));
                out[8 + i] = Avx512(_mm512_shuffle_f32x4::<0xdd>(ab, cd));
                let (ab, cd) = (_mm512_shuffle_f32x4::<0xdd>(a, b), _mm512_shuffle_f32x4::<0xdd>(c, d));
                out[4 + i] = Avx512(_mm512_shuffle_f32x4::<0x88>(ab, cd));
                out[12 + i] = Avx512(_mm512_shuffle_f32x4::<0xdd>(ab, cd));
            }
            out
        }
    }
}

#[derive(Clone, Copy)]
pub struct Avx2([__m256; 2]);

/// Both halves. Not a closure: a call that is not inlined would not be compiled for these instructions.
macro_rules! both {
    ($h:ident => $x:expr) => {
        Avx2([
            {
                const $h: usize = 0;
                $x
            },
            {
                const $h: usize = 1;
                $x
            },
        ])
    };
}

// SAFETY, of every block in here: the machine has AVX2 and FMA, because `Isa::lanes` gave out the type; addresses are
// those of slices of 16 numbers.
impl Lanes<f32> for Avx2 {
    const SUMS: [usize; 2] = [4, 1];

    #[inline(always)]
    fn zero() -> Self {
        Self::splat(0.0)
    }
    #[inline(always)]
    fn splat(x: f32) -> Self {
        // SAFETY: see the top of this `impl`.
        Avx2([unsafe { _mm256_set1_ps(x) }; 2])
    }
    #[inline(always)]
    fn load(x: &[f32]) -> Self {
        assert!(x.len() >= LANES);
        // SAFETY: see the top of this `impl`.
        Avx2(unsafe { [_mm256_loadu_ps(x.as_ptr()), _mm256_loadu_ps(x.as_ptr().add(8))] })
    }
    #[inline(always)]
    fn store(self, y: &mut [f32]) {
        assert!(y.len() >= LANES);
        // SAFETY: see the top of this `impl`.
        unsafe {
            _mm256_storeu_ps(y.as_mut_ptr(), self.0[0]);
            _mm256_storeu_ps(y.as_mut_ptr().add(8), self.0[1]);
        }
    }
    #[inline(always)]
    fn add(self, b: Self) -> Self {
        // SAFETY: see the top of this `impl`.
        unsafe { both!(H => _mm256_add_ps(self.0[H], b.0[H])) }
    }
    #[inline(always)]
    fn sub(self, b: Self) -> Self {
        // SAFETY: see the top of this `impl`.
        unsafe { both!(H => _mm256_sub_ps(self.0[H], b.0[H])) }
    }
    #[inline(always)]
    fn mul(self, b: Self) -> Self {
        // SAFETY: see the top of this `impl`.
        unsafe { both!(H => _mm256_mul_ps(self.0[H], b.0[H])) }
    }
    #[inline(always)]
    fn mul_add(self, b: Self, c: Self) -> Self {
        // SAFETY: see the top of this `impl`.
        unsafe { both!(H => _mm256_fmadd_ps(self.0[H], b.0[H], c.0[H])) }
    }
    #[inline(always)]
    fn max(self, b: Self) -> Self {
        // SAFETY: see the top of this `impl`.
        unsafe { both!(H => _mm256_max_ps(self.0[H], b.0[H])) }
    }
    #[inline(always)]
    fn keep(self, from: usize, to: usize, other: Self) -> Self {
        // SAFETY: see the top of this `impl`.
        unsafe {
            let lanes = _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7);
            let (from, to) = (_mm256_set1_epi32(from as i32), _mm256_set1_epi32(to as i32));
            both!(H => {
                let lanes = _mm256_add_epi32(lanes, _mm256_set1_epi32(8 * H as i32));
                let kept = _mm256_andnot_si256(_mm256_cmpgt_epi32(from, lanes), _mm256_cmpgt_epi32(to, lanes));
                _mm256_blendv_ps(other.0[H], self.0[H], _mm256_castsi256_ps(kept))
            })
        }
    }
    #[inline(always)]
    fn exp2(self) -> Self {
        // A NaN as the second operand of the maximum comes through.
        let x = Self::splat(LEAST).max(self);
        // SAFETY: see the top of this `impl`.
        let n = unsafe { both!(H => _mm256_floor_ps(x.0[H])) };
        let f = x.sub(n);
        let p = polynomial!(f);
        // SAFETY: see the top of this `impl`.
        unsafe {
            both!(H => {
                let biased = _mm256_add_epi32(_mm256_cvtps_epi32(n.0[H]), _mm256_set1_epi32(127));
                let power = _mm256_castsi256_ps(_mm256_slli_epi32::<23>(biased));
                let tiny = _mm256_cmp_ps::<_CMP_LT_OQ>(self.0[H], _mm256_set1_ps(LEAST));
                _mm256_andnot_ps(tiny, _mm256_mul_ps(p.0[H], power))
            })
        }
    }
    #[inline(always)]
    fn tanh(self) -> Self {
        tanh!(self)
    }
    #[inline(always)]
    fn sum(self) -> f32 {
        super::join(self.array(), |a, b| a + b)
    }
    #[inline(always)]
    fn largest(self) -> f32 {
        super::join(self.array(), |a, b| if a > b { a } else { b })
    }
    #[inline(always)]
    fn transpose(x: [Self; LANES]) -> [Self; LANES] {
        let (mut rows, mut columns) = ([[0.0; LANES]; LANES], x);
        for i in 0..LANES {
            rows[i] = x[i].array();
        }
        for i in 0..LANES {
            let mut column = [0.0; LANES];
            for j in 0..LANES {
                column[j] = rows[j][i];
            }
            columns[i] = Self::load(&column);
        }
        columns
    }
}

impl Avx2 {
    #[inline(always)]
    fn array(self) -> [f32; LANES] {
        let mut x = [0.0; LANES];
        self.store(&mut x);
        x
    }
    #[inline(always)]
    fn div(self, b: Self) -> Self {
        // SAFETY: the machine has AVX2, see above.
        unsafe { both!(H => _mm256_div_ps(self.0[H], b.0[H])) }
    }
    /// x where a < b, else y.
    #[inline(always)]
    fn where_less(a: Self, b: Self, x: Self, y: Self) -> Self {
        // SAFETY: the machine has AVX2, see above.
        unsafe { both!(H => _mm256_blendv_ps(y.0[H], x.0[H], _mm256_cmp_ps::<_CMP_LT_OQ>(a.0[H], b.0[H]))) }
    }
}
