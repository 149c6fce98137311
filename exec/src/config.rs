//! What a training step depends on besides its plan.
use crate::OptimizerConfig;
use backend::LossScale;

#[derive(Clone, Debug, PartialEq)]
pub struct StepConfig {
    pub optimizer: OptimizerConfig,
    /// Norm over which gradients are clipped; 0: never.
    pub max_norm: f64,
    /// Part of the target that is spread over the whole vocabulary.
    pub label_smoothing: f64,
    /// What the loss is multiplied by before the backward, at the start; 1 without a rule.
    pub initial_scale: f64,
    /// How that changes. None: never.
    pub loss_scale: Option<LossScale>,
}

impl Default for StepConfig {
    fn default() -> Self {
        let optimizer = OptimizerConfig::default();
        StepConfig { optimizer, max_norm: 1.0, label_smoothing: 0.0, initial_scale: 1.0, loss_scale: None }
    }
}
