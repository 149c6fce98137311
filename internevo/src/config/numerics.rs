//! `[precision]` and `[loss]`: in what numbers a run computes, and what exactly it minimises.
use backend::{DType, LossScale};
use clap::ValueEnum;
use cuda::F32Products;
use serde::{Deserialize, Serialize};
use std::fmt;

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum Precision {
    #[default]
    F32,
    /// f32 whose products are done on tensor cores, with factors rounded to ten bits of fraction: a card's.
    Tf32,
    /// Everything in double precision: slow, for checks of the numerics.
    F64,
    /// bf16 parameters and activations; f32 gradients, statistics, master weights and optimizer state.
    Bf16,
    /// The same with f16, and with loss scaling.
    F16,
}

impl fmt::Display for Precision {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        let value = self.to_possible_value().expect("none is hidden");
        write!(f, "{}", value.get_name())
    }
}

impl Precision {
    pub fn dtype(self) -> DType {
        match self {
            Precision::F32 | Precision::Tf32 => DType::F32,
            Precision::F64 => DType::F64,
            Precision::Bf16 => DType::BF16,
            Precision::F16 => DType::F16,
        }
    }

    /// How a card does products of f32.
    pub fn products(self) -> F32Products {
        if self == Precision::Tf32 { F32Products::Tf32 } else { F32Products::Full }
    }
}

#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct PrecisionConfig {
    pub params: Precision,
    /// Gradients of parameters: "f32", which is the default, or in half the memory the type of 16-bit parameters.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub grads: Option<Precision>,
    /// On a card: the same bits in every run. Without it the fastest way of each product is found by timing.
    pub deterministic: bool,
    /// By default only f16 has it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub loss_scale: Option<LossScaleConfig>,
}

/// `[precision.loss_scale]`: the loss is multiplied by a number that keeps small gradients from vanishing, and that
/// shrinks when one overflows.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct LossScaleConfig {
    pub initial: f64,
    pub min: f64,
    pub max: f64,
    pub growth_factor: f64,
    pub backoff_factor: f64,
    /// Steps without an overflow after which it grows.
    pub growth_interval: u64,
    /// Overflows since it last grew after which it shrinks.
    pub hysteresis: u64,
}

impl Default for LossScaleConfig {
    fn default() -> Self {
        LossScaleConfig {
            initial: 65536.0,
            min: 1.0,
            max: 16777216.0,
            growth_factor: 2.0,
            backoff_factor: 0.5,
            growth_interval: 1000,
            hysteresis: 2,
        }
    }
}

impl PrecisionConfig {
    pub fn grads(&self) -> DType {
        self.grads.map_or(self.params.dtype().precise(), Precision::dtype)
    }

    /// The scale to begin with, and its rule.
    pub fn scaling(&self) -> (f64, Option<LossScale>) {
        let given = match (&self.loss_scale, self.params) {
            (Some(given), _) => given.clone(),
            (None, Precision::F16) => LossScaleConfig::default(),
            (None, Precision::F32 | Precision::Tf32 | Precision::F64 | Precision::Bf16) => return (1.0, None),
        };
        let rule = LossScale {
            min: given.min,
            max: given.max,
            growth: given.growth_factor,
            backoff: given.backoff_factor,
            interval: given.growth_interval,
            hysteresis: given.hysteresis,
        };
        (given.initial, Some(rule))
    }

    pub fn problems(&self) -> Vec<String> {
        let mut out = vec![];
        let (params, precise) = (self.params.dtype(), self.params.dtype().precise());
        if ![params, precise].contains(&self.grads()) || self.grads == Some(Precision::Tf32) {
            let grads = self.grads.unwrap_or_default();
            let way_out = "remove it, or give the type of 16-bit parameters";
            out.push(format!("precision.grads = \"{grads}\" beside params = \"{}\": {way_out}", self.params));
        }
        let Some(s) = &self.loss_scale else { return out };
        let mut check = |key: &str, x: f64, fits: bool, way_out: &str| {
            if !fits || !x.is_finite() {
                out.push(format!("precision.loss_scale.{key} = {x}: {way_out}"));
            }
        };
        check("min", s.min, s.min > 0.0, "must be positive; try 1");
        check("max", s.max, s.max >= s.min, "must be at least precision.loss_scale.min; try 16777216");
        let between = (s.min..=s.max).contains(&s.initial);
        check("initial", s.initial, between, "must be between precision.loss_scale.min and max; try 65536");
        check("growth_factor", s.growth_factor, s.growth_factor >= 1.0, "must be at least 1; try 2");
        let shrinks = s.backoff_factor > 0.0 && s.backoff_factor <= 1.0;
        check("backoff_factor", s.backoff_factor, shrinks, "must be above 0 and at most 1; try 0.5");
        check("growth_interval", s.growth_interval as f64, s.growth_interval > 0, "must be at least 1; try 1000");
        check("hysteresis", s.hysteresis as f64, s.hysteresis > 0, "must be at least 1; try 2");
        out
    }
}

#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct LossConfig {
    /// Part of the target that is spread evenly over the vocabulary (Szegedy et al. 2016). Validation is without.
    pub label_smoothing: f64,
}

impl LossConfig {
    pub fn problems(&self) -> Vec<String> {
        let x = self.label_smoothing;
        let fits = (0.0..1.0).contains(&x);
        (!fits)
            .then(|| format!("loss.label_smoothing = {x}: must be at least 0 and below 1; try 0"))
            .into_iter()
            .collect()
    }
}
