//! The learning rate follows the step index.
use serde::{Deserialize, Serialize};
use std::f64::consts::PI;

/// `[lr_schedule]` of a run.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct LrScheduleConfig {
    pub kind: LrKind,
    /// Steps at the very start whose learning rate is 0.
    pub init_steps: u64,
    /// Steps of linear growth at the start, or a part of all steps.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub warmup_steps: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub warmup_ratio: Option<f64>,
    /// Where the cosine or the decay ends.
    pub min_lr: f64,
    /// Steps of decay at the end of `wsd`; by default a tenth of all.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub decay_steps: Option<u64>,
    /// How `wsd` decays; by default linearly.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub decay: Option<Decay>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LrKind {
    /// Half a cosine, from the peak to `min_lr` (Loshchilov & Hutter 2017).
    Cosine,
    /// The peak to the end.
    Constant,
    /// Warm-up, stable, decay: the peak, and only at the end down to `min_lr` (Hu et al. 2024, MiniCPM).
    Wsd,
}

/// With x from 0 to 1 over the steps of decay.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Decay {
    /// 1 - x
    Linear,
    /// 1 - √x (Hägele et al. 2024)
    Sqrt,
}

impl Default for LrScheduleConfig {
    fn default() -> Self {
        LrScheduleConfig {
            kind: LrKind::Cosine,
            init_steps: 0,
            warmup_steps: None,
            warmup_ratio: None,
            min_lr: 0.0,
            decay_steps: None,
            decay: None,
        }
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

    fn decay_steps(&self, steps: u64) -> u64 {
        self.decay_steps.unwrap_or(steps.div_ceil(10))
    }

    /// Of step `index`, counted from 0, out of `steps`.
    pub fn lr(&self, peak: f64, index: u64, steps: u64) -> f64 {
        if index < self.init_steps {
            return 0.0;
        }
        let (index, steps, warmup) = (index - self.init_steps, steps - self.init_steps, self.warmup(steps));
        if index < warmup {
            return peak * (index + 1) as f64 / warmup as f64;
        }
        // The part of the way from `min_lr` to the peak.
        let part = match self.kind {
            LrKind::Constant => 1.0,
            LrKind::Cosine => {
                let done = (index - warmup) as f64 / (steps - warmup).max(1) as f64;
                0.5 * (1.0 + (PI * done.min(1.0)).cos())
            }
            LrKind::Wsd => {
                let decay = self.decay_steps(steps);
                let done = (index + decay).saturating_sub(steps) as f64 / decay.max(1) as f64;
                match self.decay.unwrap_or(Decay::Linear) {
                    Decay::Linear => 1.0 - done.min(1.0),
                    Decay::Sqrt => 1.0 - done.min(1.0).sqrt(),
                }
            }
        };
        self.min_lr + (peak - self.min_lr) * part
    }

    pub fn problems(&self, peak: f64, steps: u64) -> Vec<String> {
        let mut out = vec![];
        if self.warmup_steps.is_some() && self.warmup_ratio.is_some() {
            out.push("lr_schedule.warmup_steps and lr_schedule.warmup_ratio are both set; keep one".into());
        }
        if self.warmup_ratio.is_some_and(|r| !(0.0..=1.0).contains(&r)) {
            let ratio = self.warmup_ratio.unwrap_or_default();
            out.push(format!("lr_schedule.warmup_ratio = {ratio}: must be in 0 to 1; try 0.05"));
        } else if self.init_steps > steps {
            let init = self.init_steps;
            out.push(format!("lr_schedule.init_steps = {init} is more than train.steps = {steps}; lower it"));
            return out;
        } else if self.warmup(steps) > steps - self.init_steps {
            let warmup = self.warmup(steps);
            let after = if self.init_steps > 0 { " without lr_schedule.init_steps" } else { "" };
            out.push(format!(
                "lr_schedule.warmup_steps = {warmup} is more than train.steps = {steps}{after}; lower it"
            ));
        }
        if self.kind == LrKind::Wsd {
            let (warmup, decay) = (self.warmup(steps), self.decay_steps(steps));
            let left = steps - self.init_steps;
            if warmup <= left && warmup.saturating_add(decay) > left {
                out.push(format!(
                    "lr_schedule.decay_steps = {decay} and the {warmup} steps of warm-up are more than train.steps = {steps}; lower one"
                ));
            }
        } else {
            let given = [("decay_steps", self.decay_steps.is_some()), ("decay", self.decay.is_some())];
            for (key, _) in given.iter().filter(|(_, given)| *given) {
                out.push(format!("lr_schedule.{key} is for kind = \"wsd\"; remove it, or change the kind"));
            }
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

    #[test]
    fn nothing_then_warm_up() {
        let s = LrScheduleConfig { init_steps: 2, warmup_steps: Some(2), ..Default::default() };
        let all: Vec<f64> = (0..5).map(|i| s.lr(1.0, i, 6)).collect();
        assert_eq!(all, [0.0, 0.0, 0.5, 1.0, 1.0]);
        assert_eq!(s.lr(1.0, 5, 6), 0.5);
        assert!(s.problems(1.0, 3)[0].contains("warmup_steps = 2"));
        assert!(s.problems(1.0, 1)[0].contains("init_steps = 2"));
    }

    #[test]
    fn warm_up_stable_decay() {
        let s = LrScheduleConfig {
            kind: LrKind::Wsd,
            warmup_steps: Some(2),
            decay_steps: Some(4),
            min_lr: 0.2,
            ..Default::default()
        };
        let check = |s: &LrScheduleConfig, want: [f64; 10]| {
            let got = std::array::from_fn::<f64, 10, _>(|i| s.lr(1.0, i as u64, 9));
            assert!(got.iter().zip(want).all(|(a, b)| (a - b).abs() < 1e-12), "{got:?}");
        };
        check(&s, [0.5, 1.0, 1.0, 1.0, 1.0, 1.0, 0.8, 0.6, 0.4, 0.2]);
        let root = |x: f64| 0.2 + 0.8 * (1.0 - x.sqrt());
        let sqrt = LrScheduleConfig { decay: Some(Decay::Sqrt), ..s.clone() };
        check(&sqrt, [0.5, 1.0, 1.0, 1.0, 1.0, 1.0, root(0.25), root(0.5), root(0.75), 0.2]);

        assert!(s.problems(1.0, 9).is_empty());
        assert!(s.problems(1.0, 5)[0].contains("decay_steps = 4 and the 2 steps of warm-up"));
        let cosine = LrScheduleConfig { kind: LrKind::Cosine, ..sqrt };
        assert_eq!(cosine.problems(1.0, 9).len(), 2);
    }
}
