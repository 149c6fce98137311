//! The learning rate follows the step index.
use serde::{Deserialize, Serialize};
use std::f64::consts::PI;

/// `[lr_schedule]` of a run.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct LrScheduleConfig {
    pub kind: LrKind,
    /// Steps of linear growth at the start, or a part of all steps.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub warmup_steps: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub warmup_ratio: Option<f64>,
    /// Where the cosine ends.
    pub min_lr: f64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LrKind {
    Cosine,
    Constant,
}

impl Default for LrScheduleConfig {
    fn default() -> Self {
        LrScheduleConfig { kind: LrKind::Cosine, warmup_steps: None, warmup_ratio: None, min_lr: 0.0 }
    }
}

impl LrScheduleConfig {
    fn warmup(&self, steps: u64) -> u64 {
        match (self.warmup_steps, self.warmup_ratio) {
            (Some(n), _) => n,
            (None, Some(ratio)) => (ratio * steps as f64).round() as u64,
            (None, None) => 0,
        }
    }

    /// Of step `index`, counted from 0, out of `steps`.
    pub fn lr(&self, peak: f64, index: u64, steps: u64) -> f64 {
        let warmup = self.warmup(steps);
        if index < warmup {
            return peak * (index + 1) as f64 / warmup as f64;
        }
        match self.kind {
            LrKind::Constant => peak,
            LrKind::Cosine => {
                let done = (index - warmup) as f64 / (steps - warmup).max(1) as f64;
                self.min_lr + (peak - self.min_lr) * 0.5 * (1.0 + (PI * done.min(1.0)).cos())
            }
        }
    }

    pub fn problems(&self, peak: f64, steps: u64) -> Vec<String> {
        let mut out = vec![];
        if self.warmup_steps.is_some() && self.warmup_ratio.is_some() {
            out.push("lr_schedule.warmup_steps and lr_schedule.warmup_ratio are both set; keep one".into());
        }
        if self.warmup_ratio.is_some_and(|r| !(0.0..=1.0).contains(&r)) {
            let ratio = self.warmup_ratio.unwrap_or_default();
            out.push(format!("lr_schedule.warmup_ratio = {ratio}: must be in 0 to 1; try 0.05"));
        } else if self.warmup(steps) > steps {
            let warmup = self.warmup(steps);
            out.push(format!("lr_schedule.warmup_steps = {warmup} is more than train.steps = {steps}; lower it"));
        }
        if !(0.0..=peak).contains(&self.min_lr) {
            out.push(format!("lr_schedule.min_lr = {}: must be between 0 and optimizer.lr = {peak}", self.min_lr));
        }
        out
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn warm_up_then_half_a_cosine() {
        let s = LrScheduleConfig { warmup_steps: Some(2), min_lr: 0.1, ..Default::default() };
        let all: Vec<f64> = (0..7).map(|i| s.lr(1.0, i, 6)).collect();
        let near = |a: f64, b: f64| (a - b).abs() < 1e-12;
        assert!(near(all[0], 0.5) && near(all[1], 1.0) && near(all[2], 1.0));
        assert!(near(all[4], 0.55) && near(all[6], 0.1), "{all:?}");
        let flat = LrScheduleConfig { kind: LrKind::Constant, warmup_ratio: Some(0.5), ..Default::default() };
        assert!(near(flat.lr(1.0, 0, 4), 0.5) && near(flat.lr(1.0, 3, 4), 1.0));
    }
}
