//! Pipeline policies: in which order a stage does the passes of its micro-batches. A policy is one file.
mod gpipe;
mod one_f_one_b;

use plan::{Micro, PipelineSchedule, Stage};
use std::fmt;

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Pass {
    Forward,
    Backward,
}

/// Printed as PyTorch does: `2F0` is stage 2, forward, micro-batch 0.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct StageAction {
    pub stage: Stage,
    pub pass: Pass,
    pub micro: Micro,
}

impl fmt::Display for StageAction {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let pass = match self.pass {
            Pass::Forward => 'F',
            Pass::Backward => 'B',
        };
        write!(f, "{}{pass}{}", self.stage.0, self.micro.0)
    }
}

/// The passes of one stage.
pub fn order(policy: PipelineSchedule, stage: Stage, stages: usize, micros: usize) -> Vec<StageAction> {
    let passes = match policy {
        PipelineSchedule::GPipe => gpipe::order(micros),
        PipelineSchedule::OneFOneB => one_f_one_b::order(stage, stages, micros),
    };
    passes.into_iter().map(|(pass, micro)| StageAction { stage, pass, micro }).collect()
}

/// Evaluation and generation have no backward.
pub fn forward_only(stage: Stage, micros: usize) -> Vec<StageAction> {
    (0..micros).map(|m| StageAction { stage, pass: Pass::Forward, micro: Micro(m) }).collect()
}
