//! Pipeline policies: in which order a rank does the passes of its micro-batches. A policy is one file.
//!
//! A backward has two parts: the gradient of a stage's input, for which the stage before waits, and those of its weights, for
//! which only the optimizer does. Some policies put the second where there would be nothing to do.
mod gpipe;
pub mod interleaved;
mod one_f_one_b;
pub mod zb_h1;
pub mod zbv;

use plan::{Mesh, Micro, PipelineSchedule, RankId, Stage};
use std::fmt;

#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Pass {
    Forward,
    /// Both parts at once.
    Backward,
    /// The gradient of the stage's input; what the weights need is kept.
    Input,
    /// The gradients of the stage's weights.
    Weight,
}

/// Printed as PyTorch does: `2F0` is stage 2, forward, micro-batch 0; `B` is a whole backward, `I` and `W` are its parts.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
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
            Pass::Input => 'I',
            Pass::Weight => 'W',
        };
        write!(f, "{}{pass}{}", self.stage.0, self.micro.0)
    }
}

/// The passes of one rank.
pub fn order(policy: PipelineSchedule, mesh: Mesh, rank: RankId, micros: usize) -> Vec<StageAction> {
    let place = mesh.place(rank);
    let alone = |(pass, micro)| StageAction { stage: Stage(place), pass, micro };
    match policy {
        PipelineSchedule::GPipe => gpipe::order(micros).into_iter().map(alone).collect(),
        PipelineSchedule::OneFOneB => {
            one_f_one_b::order(Stage(place), mesh.pipeline, micros).into_iter().map(alone).collect()
        }
        PipelineSchedule::Interleaved => interleaved::order(place, mesh.pipeline, mesh.chunks, micros),
        PipelineSchedule::ZbH1 => zb_h1::order(place, mesh.pipeline, mesh.chunks, micros),
        PipelineSchedule::Zbv => zbv::order(place, mesh.pipeline, micros),
    }
}

/// Evaluation and generation have no backward.
pub fn forward_only(mesh: Mesh, rank: RankId, micros: usize) -> Vec<StageAction> {
    let pass = Pass::Forward;
    let passes = |m| mesh.stages_of(rank).map(move |stage| StageAction { stage, pass, micro: Micro(m) });
    (0..micros).flat_map(passes).collect()
}
