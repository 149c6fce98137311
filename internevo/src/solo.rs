//! A checkpoint on one rank, for the commands that do not train.
use crate::job;
use anyhow::Result;
use backend::DType;
use checkpoint::HfDir;
use exec::{Lanes, Rank, State, StepConfig, World};
use plan::{Mesh, PipelineSchedule, Plan, RankId, StepShape};
use schedule::RankPrograms;
use std::sync::Arc;
use std::time::Duration;

/// One program for each shape, with `positions` tokens of context, and the weights in place.
pub fn open(dir: &HfDir, positions: usize, shapes: &[StepShape], threads: usize) -> Result<Rank> {
    let plan = Arc::new(Plan::new(dir.decoder().clone(), Mesh::SOLO, DType::F32, positions, 0));
    let programs = RankPrograms::new(&plan, RankId(0), shapes, PipelineSchedule::OneFOneB);
    job::check_memory(None, std::slice::from_ref(&programs), 1, |_| {
        "try fewer tokens at once, or a machine with more memory".into()
    })?;
    let world = World {
        plan,
        step: StepConfig::default(),
        lanes: Lanes::Direct,
        threads,
        timeout: Duration::ZERO,
        record: false,
        clock: None,
    };
    let mut rank = world.solo(programs);
    for spec in rank.params() {
        let mut values = vec![0.0; spec.len()];
        dir.read(&spec.name, 0, &mut values)?;
        rank.set(State::Param, &spec, 0, &values);
    }
    Ok(rank)
}
