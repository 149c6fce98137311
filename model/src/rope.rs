//! Rotary position embedding (Su et al. 2021): the table of angles. The rotation itself is `Op::Rope`.
use serde::{Deserialize, Serialize};
use std::f64::consts::TAU;

/// How the frequencies are stretched beyond the trained context.
#[derive(Clone, Copy, PartialEq, Debug, Serialize, Deserialize)]
#[serde(tag = "rope_type", rename_all = "lowercase", deny_unknown_fields)]
pub enum Scaling {
    /// Positions divided by `factor` (Chen et al. 2023).
    Linear { factor: f64 },
    /// Llama 3.1: long wavelengths divided by `factor`, short ones kept, a linear blend between.
    Llama3 { factor: f64, low_freq_factor: f64, high_freq_factor: f64, original_max_position_embeddings: usize },
}

#[derive(Clone, Copy, PartialEq, Debug)]
pub struct Rope {
    pub theta: f64,
    pub scaling: Option<Scaling>,
}

impl Rope {
    /// Angle per position of each of the H/2 pairs.
    pub fn frequencies(&self, head_dim: usize) -> Vec<f64> {
        let plain = (0..head_dim / 2).map(|i| self.theta.powf(-2.0 * i as f64 / head_dim as f64));
        plain.map(|f| self.scale(f)).collect()
    }

    fn scale(&self, frequency: f64) -> f64 {
        match self.scaling {
            None => frequency,
            Some(Scaling::Linear { factor }) => frequency / factor,
            Some(Scaling::Llama3 { factor, low_freq_factor, high_freq_factor, original_max_position_embeddings }) => {
                let turns = original_max_position_embeddings as f64 * frequency / TAU;
                let keep = (turns - low_freq_factor) / (high_freq_factor - low_freq_factor);
                let keep = keep.clamp(0.0, 1.0);
                frequency * keep + frequency / factor * (1.0 - keep)
            }
        }
    }

    /// (P, H): for each position H/2 cosines, then H/2 sines.
    pub fn table(&self, positions: usize, head_dim: usize) -> Vec<f64> {
        let frequencies = self.frequencies(head_dim);
        let row = |p: usize| {
            let angles = frequencies.iter().map(move |f| p as f64 * f);
            angles.clone().map(f64::cos).chain(angles.map(f64::sin))
        };
        (0..positions).flat_map(row).collect()
    }

    pub fn problems(&self) -> Vec<String> {
        let mut out = vec![];
        let mut positive = |key: &str, x: f64| {
            if !(x > 0.0 && x.is_finite()) {
                out.push(format!("model.{key} = {x}: must be positive"));
            }
        };
        positive("rope_theta", self.theta);
        match self.scaling {
            None => {}
            Some(Scaling::Linear { factor }) => positive("rope_scaling.factor", factor),
            Some(Scaling::Llama3 { factor, low_freq_factor, high_freq_factor, .. }) => {
                positive("rope_scaling.factor", factor);
                positive("rope_scaling.low_freq_factor", low_freq_factor);
                if high_freq_factor <= low_freq_factor {
                    out.push(format!(
                        "model.rope_scaling.high_freq_factor = {high_freq_factor} must be larger than low_freq_factor = {low_freq_factor}"
                    ));
                }
            }
        }
        out
    }
}
