//! Rotary position embedding (Su et al. 2021): the table of angles. The rotation itself is `Op::Rope`.
use backend::Pairs;
use serde::{Deserialize, Serialize};
use std::f64::consts::TAU;

/// How the frequencies are stretched beyond the trained context.
#[derive(Clone, Copy, PartialEq, Debug, Serialize, Deserialize)]
#[serde(tag = "rope_type", rename_all = "lowercase", deny_unknown_fields)]
pub enum Scaling {
    /// Positions divided by `factor` (Chen et al. 2023).
    Linear { factor: f64 },
    /// Dynamic NTK (bloc97 and emozilla 2023): a larger base for a context beyond the model's
    /// `max_position_embeddings`. The context is that of the table, so of the run: a batch of short rows does not change
    /// the base, as it does in transformers, and every position means the same throughout.
    Dynamic { factor: f64 },
    /// Llama 3.1: long wavelengths divided by `factor`, short ones kept, a linear blend between.
    Llama3 { factor: f64, low_freq_factor: f64, high_freq_factor: f64, original_max_position_embeddings: usize },
    /// YaRN (Peng et al. 2023): frequencies that turn less than `beta_slow` times in the original context are divided by
    /// `factor`, those that turn more than `beta_fast` times are kept, a ramp over the pairs between.
    Yarn(Yarn),
}

/// Names and defaults are those of transformers.
#[derive(Clone, Copy, PartialEq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Yarn {
    pub factor: f64,
    pub original_max_position_embeddings: usize,
    #[serde(default = "beta_fast")]
    pub beta_fast: f64,
    #[serde(default = "beta_slow")]
    pub beta_slow: f64,
    /// The ramp begins and ends at whole pairs.
    #[serde(default = "truncate")]
    pub truncate: bool,
    /// What cosines and sines are multiplied by; by default it follows from `factor` and the two below.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub attention_factor: Option<f64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mscale: Option<f64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mscale_all_dim: Option<f64>,
}

fn beta_fast() -> f64 {
    32.0
}
fn beta_slow() -> f64 {
    1.0
}
fn truncate() -> bool {
    true
}

#[derive(Clone, Copy, PartialEq, Debug)]
pub struct Rope {
    pub theta: f64,
    pub scaling: Option<Scaling>,
    /// In memory. A directory's rows are always for `Pairs::Half`.
    pub pairs: Pairs,
}

impl Rope {
    /// Not stretched, in halves.
    pub fn plain(theta: f64) -> Rope {
        Rope { theta, scaling: None, pairs: Pairs::Half }
    }

    /// (P, H): for each position H/2 cosines, then H/2 sines. `trained` is the context the model was made for.
    pub fn table(&self, positions: usize, head_dim: usize, trained: usize) -> Vec<f64> {
        let frequencies = self.frequencies(positions, head_dim, trained);
        let length = self.attention_factor();
        let row = |p: usize| {
            let angles = frequencies.iter().map(move |f| p as f64 * f);
            let cosines = angles.clone().map(move |a| length * a.cos());
            cosines.chain(angles.map(move |a| length * a.sin()))
        };
        (0..positions).flat_map(row).collect()
    }

    /// Angle per position of each of the H/2 pairs.
    fn frequencies(&self, positions: usize, head_dim: usize, trained: usize) -> Vec<f64> {
        let h = head_dim as f64;
        let pairs = 0..head_dim / 2;
        let plain = |theta: f64| move |i: usize| theta.powf(-2.0 * i as f64 / h);
        match self.scaling {
            None => pairs.map(plain(self.theta)).collect(),
            Some(Scaling::Linear { factor }) => pairs.map(plain(self.theta)).map(|f| f / factor).collect(),
            Some(Scaling::Dynamic { factor }) => {
                let stretch = positions.max(trained) as f64 / trained as f64;
                let theta = self.theta * (factor * stretch - (factor - 1.0)).powf(h / (h - 2.0));
                pairs.map(plain(theta)).collect()
            }
            Some(Scaling::Llama3 { factor, low_freq_factor, high_freq_factor, original_max_position_embeddings }) => {
                let blend = |frequency: f64| {
                    let turns = original_max_position_embeddings as f64 * frequency / TAU;
                    let keep = (turns - low_freq_factor) / (high_freq_factor - low_freq_factor);
                    mix(frequency, factor, keep)
                };
                pairs.map(plain(self.theta)).map(blend).collect()
            }
            Some(Scaling::Yarn(yarn)) => {
                let (low, high) = yarn.ramp(h, self.theta);
                let keep = |i: usize| 1.0 - (i as f64 - low) / (high - low);
                pairs.map(|i| mix(plain(self.theta)(i), yarn.factor, keep(i))).collect()
            }
        }
    }

    fn attention_factor(&self) -> f64 {
        match self.scaling {
            None | Some(Scaling::Linear { .. } | Scaling::Dynamic { .. } | Scaling::Llama3 { .. }) => 1.0,
            Some(Scaling::Yarn(yarn)) => yarn.attention_factor(),
        }
    }

    pub fn problems(&self) -> Vec<String> {
        let mut out = vec![];
        let mut positive = |key: &str, x: f64| {
            if !(x > 0.0 && x.is_finite()) {
                out.push(format!("model.{key} = {x}: must be positive"));
            }
        };
        let mut ordered = None;
        positive("rope_theta", self.theta);
        match self.scaling {
            None => {}
            Some(Scaling::Linear { factor } | Scaling::Dynamic { factor }) => positive("rope_scaling.factor", factor),
            Some(Scaling::Llama3 { factor, low_freq_factor, high_freq_factor, original_max_position_embeddings }) => {
                positive("rope_scaling.factor", factor);
                positive("rope_scaling.low_freq_factor", low_freq_factor);
                positive("rope_scaling.original_max_position_embeddings", original_max_position_embeddings as f64);
                ordered = Some(("high_freq_factor", high_freq_factor, "low_freq_factor", low_freq_factor));
            }
            Some(Scaling::Yarn(yarn)) => {
                positive("rope_scaling.factor", yarn.factor);
                positive("rope_scaling.original_max_position_embeddings", yarn.original_max_position_embeddings as f64);
                positive("rope_scaling.beta_slow", yarn.beta_slow);
                positive("rope_scaling.attention_factor", yarn.attention_factor.unwrap_or(1.0));
                ordered = Some(("beta_fast", yarn.beta_fast, "beta_slow", yarn.beta_slow));
            }
        }
        if let Some((above, high, below, low)) = ordered
            && !(high > low && high.is_finite())
        {
            out.push(format!("model.rope_scaling.{above} = {high} must be larger than {below} = {low}"));
        }
        out
    }
}

/// `keep` of a frequency as it is, the rest divided by `factor`.
fn mix(frequency: f64, factor: f64, keep: f64) -> f64 {
    let keep = keep.clamp(0.0, 1.0);
    frequency * keep + frequency / factor * (1.0 - keep)
}

impl Yarn {
    /// The pairs where the ramp begins and ends.
    fn ramp(&self, head_dim: f64, theta: f64) -> (f64, f64) {
        // The pair that turns so many times in the original context.
        let pair = |turns: f64| {
            head_dim * (self.original_max_position_embeddings as f64 / (turns * TAU)).ln() / (2.0 * theta.ln())
        };
        let (low, high) = (pair(self.beta_fast), pair(self.beta_slow));
        let (low, high) = if self.truncate { (low.floor(), high.ceil()) } else { (low, high) };
        let (low, high) = (low.max(0.0), high.min(head_dim - 1.0));
        (low, if low == high { high + 0.001 } else { high })
    }

    /// Section 3.4 of the paper, with DeepSeek's two scales.
    fn attention_factor(&self) -> f64 {
        let scale = |m: f64| if self.factor <= 1.0 { 1.0 } else { 0.1 * m * self.factor.ln() + 1.0 };
        match (self.attention_factor, self.mscale, self.mscale_all_dim) {
            (Some(given), ..) => given,
            (None, Some(m), Some(all)) if m != 0.0 && all != 0.0 => scale(m) / scale(all),
            (None, ..) => scale(1.0),
        }
    }
}
