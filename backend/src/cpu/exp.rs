//! exp of f32 without a branch or a table, so that a loop over it becomes vector instructions.
//!
//! ```text
//! x = n ln 2 + r,  n an integer, |r| <= ln 2 / 2        exp(x) = 2ⁿ exp(r),  exp(r) = 1 + r + r² q(r)
//! ```
//! ln 2 is subtracted in two parts (Cody & Waite 1980). q is a polynomial of degree 4 fitted for the smallest largest
//! relative error, 4e-9: what is left is rounding, at most 1 unit in the last place.

/// 1.5 · 2²³, plus twice the exponent bias: added to a small number, it leaves the nearest integer, plus 254, in the last
/// bits of the sum.
const SHIFT: f32 = 12_582_912.0 + 254.0;
/// ln 2. The first part has so few bits that its product with n is exact.
const LN2: [f32; 2] = [0.693_359_4, -2.121_944_4e-4];
const Q: [f32; 5] = [0.499_999_94, 0.166_665_09, 0.041_668_527, 0.008_370_135, 0.001_381_166_2];
/// Beyond these the exact result rounds to zero or infinity, and so does what is computed at them.
const ENDS: [f32; 2] = [-104.0, 89.0];

#[inline(always)]
pub fn exp(x: f32) -> f32 {
    // Not `clamp`: written like this each is one instruction. A NaN passes.
    let x = if x < ENDS[0] { ENDS[0] } else { x };
    let x = if x > ENDS[1] { ENDS[1] } else { x };
    let shifted = x * std::f32::consts::LOG2_E + SHIFT;
    let n = shifted - SHIFT;
    let r = x - n * LN2[0] - n * LN2[1];
    let r2 = r * r;
    let q = (Q[0] + r * Q[1]) + r2 * ((Q[2] + r * Q[3]) + r2 * Q[4]);
    let p = 1.0 + (r + r2 * q);
    // 2ⁿ in two factors: alone it may be too large or too small for an f32 where 2ⁿ p is not. Each takes half of n + 254,
    // and so its own bias; the upper bits of SHIFT fall off.
    let n = shifted.to_bits();
    let power = |n: u32| f32::from_bits(n << 23);
    p * power(n >> 1) * power(n - (n >> 1))
}

#[cfg(test)]
mod tests {
    use super::exp;

    /// Of every 997th f32 there is.
    #[test]
    fn within_one_unit_in_the_last_place() {
        let mut worst = 0.0f64;
        for x in (0..=u32::MAX).step_by(997).map(f32::from_bits) {
            let (got, exact) = (exp(x), f64::from(x).exp());
            if x.is_nan() {
                assert!(got.is_nan());
                continue;
            }
            let nearest = exact as f32;
            if nearest == got {
                continue;
            }
            assert!(got.is_finite() && nearest.is_finite(), "exp({x}) = {got}, not {nearest}");
            let unit = f64::from(f32::from_bits(nearest.to_bits() + 1)) - f64::from(nearest);
            worst = worst.max((f64::from(got) - exact).abs() / unit);
        }
        assert!(worst <= 1.0, "{worst} units in the last place");
        for (x, want) in [(0.0, 1.0), (-0.0, 1.0), (f32::NEG_INFINITY, 0.0), (f32::INFINITY, f32::INFINITY)] {
            assert_eq!(exp(x), want);
        }
    }
}
