//! From logits to a token.

/// How a token is chosen. Deterministic in (settings, seed, index of the token).
#[derive(Clone, Debug)]
pub struct Sampling {
    /// 0: the most likely token.
    pub temperature: f64,
    /// Only the k most likely; 0: all.
    pub top_k: usize,
    /// Only the most likely that together have this probability (Holtzman et al. 2020).
    pub top_p: f64,
    pub seed: u64,
}

impl Sampling {
    pub fn pick(&self, logits: &[f32], index: u64) -> u32 {
        let mut order: Vec<u32> = (0..logits.len() as u32).collect();
        let by_logit = |a: &u32, b: &u32| logits[*b as usize].total_cmp(&logits[*a as usize]).then(a.cmp(b));
        if self.temperature == 0.0 {
            return order.into_iter().min_by(by_logit).expect("a vocabulary is not empty");
        }
        order.sort_unstable_by(by_logit);
        if self.top_k > 0 {
            order.truncate(self.top_k);
        }
        let top = logits[order[0] as usize] as f64;
        let weight = |id: &u32| ((logits[*id as usize] as f64 - top) / self.temperature).exp();
        let mut weights: Vec<f64> = order.iter().map(weight).collect();
        let total: f64 = weights.iter().sum();
        let mut sum = 0.0;
        let enough = weights.iter().position(|w| {
            sum += w / total;
            sum >= self.top_p
        });
        weights.truncate(enough.map_or(weights.len(), |last| last + 1));

        let mut rest = uniform(self.seed, index) * weights.iter().sum::<f64>();
        let chosen = weights.iter().position(|w| {
            rest -= w;
            rest < 0.0
        });
        order[chosen.unwrap_or(weights.len() - 1)]
    }
}

/// In 0 .. 1.
fn uniform(seed: u64, index: u64) -> f64 {
    let mut x = seed ^ index.wrapping_mul(0x9E37_79B9_7F4A_7C15);
    for _ in 0..2 {
        x = (x ^ (x >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        x = (x ^ (x >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        x ^= x >> 31;
    }
    (x >> 11) as f64 / (1u64 << 53) as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shares(s: Sampling, logits: &[f32]) -> Vec<f64> {
        let mut count = vec![0.0; logits.len()];
        (0..20_000).for_each(|i| count[s.pick(logits, i) as usize] += 1.0 / 20_000.0);
        count
    }

    #[test]
    fn tokens_come_as_often_as_they_should() {
        let logits = [0.4f32.ln(), 0.3f32.ln(), 0.2f32.ln(), 0.1f32.ln()];
        let all = Sampling { temperature: 1.0, top_k: 0, top_p: 1.0, seed: 3 };
        let check = |s: Sampling, want: [f64; 4]| {
            let got = shares(s.clone(), &logits);
            assert!(got.iter().zip(want).all(|(a, b)| (a - b).abs() < 0.015), "{s:?}: {got:?}");
        };
        check(all.clone(), [0.4, 0.3, 0.2, 0.1]);
        check(Sampling { top_k: 2, ..all.clone() }, [4.0 / 7.0, 3.0 / 7.0, 0.0, 0.0]);
        check(Sampling { top_p: 0.65, ..all.clone() }, [4.0 / 7.0, 3.0 / 7.0, 0.0, 0.0]);
        check(Sampling { temperature: 0.5, ..all.clone() }, [16.0 / 30.0, 9.0 / 30.0, 4.0 / 30.0, 1.0 / 30.0]);
        check(Sampling { temperature: 0.0, ..all }, [1.0, 0.0, 0.0, 0.0]);
    }

    #[test]
    fn equal_logits_give_the_first() {
        let greedy = Sampling { temperature: 0.0, top_k: 0, top_p: 1.0, seed: 0 };
        assert_eq!(greedy.pick(&[1.0, 2.0, 2.0], 0), 1);
    }
}
