//! Pipeline policies: in which order a stage does the passes of its micro-batches. A policy is one file.
mod gpipe;
pub(crate) mod interleaved;
mod one_f_one_b;

use plan::{Mesh, Micro, PipelineSchedule, RankId, Stage};
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
    }
}

/// Evaluation and generation have no backward.
pub fn forward_only(mesh: Mesh, rank: RankId, micros: usize) -> Vec<StageAction> {
    let pass = Pass::Forward;
    let passes = |m| mesh.stages_of(rank).map(move |stage| StageAction { stage, pass, micro: Micro(m) });
    (0..micros).flat_map(passes).collect()
}
