//! Initial weights that do not depend on the layout: element i of a parameter is a function of (seed, name, i).
use crate::{Init, ParamSpec};

/// Elements `start ..` of a parameter.
pub fn initial(spec: &ParamSpec, seed: u64, start: usize, out: &mut [f32]) {
    match spec.init {
        Init::Ones => out.fill(1.0),
        Init::Zeros => out.fill(0.0),
        Init::Normal { std } => {
            let key = mix(seed ^ hash(&spec.name));
            for (i, x) in out.iter_mut().enumerate() {
                *x = (std * normal(key, (start + i) as u64)) as f32;
            }
        }
    }
}

/// Box and Muller (1958), one of the pair.
fn normal(key: u64, index: u64) -> f64 {
    let uniform = |lane: u64| ((mix(key ^ mix(2 * index + lane)) >> 11) as f64 + 0.5) / (1u64 << 53) as f64;
    (-2.0 * uniform(0).ln()).sqrt() * (std::f64::consts::TAU * uniform(1)).cos()
}

/// The finaliser of SplitMix64 (Steele, Lea and Flood 2014).
fn mix(x: u64) -> u64 {
    let x = x.wrapping_add(0x9E37_79B9_7F4A_7C15);
    let x = (x ^ (x >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    let x = (x ^ (x >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    x ^ (x >> 31)
}

/// FNV-1a.
fn hash(name: &str) -> u64 {
    name.bytes().fold(0xCBF2_9CE4_8422_2325, |h, b| (h ^ b as u64).wrapping_mul(0x0100_0000_01B3))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Split, Unit};

    #[test]
    fn a_slice_is_the_same_wherever_it_is_cut() {
        let init = Init::Normal { std: 0.02 };
        let spec = ParamSpec {
            name: "w".into(),
            unit: Unit(0),
            shape: vec![100, 100],
            init,
            decay: true,
            split: Split::Rows,
            offset: 0,
        };
        let mut whole = vec![0.0; 10_000];
        initial(&spec, 7, 0, &mut whole);
        let mut part = vec![0.0; 100];
        initial(&spec, 7, 4242, &mut part);
        assert_eq!(part, whole[4242..4342]);

        let n = whole.len() as f64;
        let mean = whole.iter().map(|&x| x as f64).sum::<f64>() / n;
        let std = (whole.iter().map(|&x| (x as f64 - mean).powi(2)).sum::<f64>() / n).sqrt();
        let skew = whole.iter().map(|&x| ((x as f64 - mean) / std).powi(3)).sum::<f64>() / n;
        assert!(mean.abs() < 1e-3 && (std - 0.02).abs() < 5e-4 && skew.abs() < 0.1, "{mean} {std} {skew}");
    }
}
