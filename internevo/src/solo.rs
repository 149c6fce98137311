//! A checkpoint on the ranks of a tensor-parallel group, often one, for the commands that do not train.
use crate::device::On;
use crate::job;
use anyhow::{Result, bail};
use backend::DType;
use checkpoint::HfDir;
use exec::{Lanes, Rank, State, StepConfig, World};
use model::{Tensor, TensorMode};
use plan::{Mesh, PipelineSchedule, Plan, StepShape};
use schedule::RankPrograms;
use std::sync::Arc;

/// Threads of this process that share the model, the compute threads of all, and where they compute.
#[derive(Clone, Copy)]
pub struct Ranks<'a> {
    pub ranks: usize,
    pub threads: usize,
    pub on: &'a On,
}

/// Runs `body` on every rank, with one program for each shape, `positions` tokens of context, and the weights in place. The
/// result is that of rank 0; all come to the same.
pub fn run<T: Send>(
    dir: &HfDir,
    positions: usize,
    shapes: &[StepShape],
    Ranks { ranks, threads, on }: Ranks,
    body: impl Fn(&mut Rank) -> Result<T> + Sync,
) -> Result<T> {
    let tensor = Tensor { mode: TensorMode::Mtp, size: ranks };
    if let Some(problem) = dir.decoder().cannot_be_cut(tensor).first() {
        bail!("--ranks {ranks}: the ranks share the model by tensor parallelism, and {problem}");
    }
    let plan = Arc::new(Plan::new(dir.decoder().clone(), Mesh { tensor, ..Mesh::SOLO }, DType::F32, positions, 0));
    let programs: Vec<RankPrograms> =
        plan.mesh.ranks().map(|r| RankPrograms::new(&plan, r, shapes, PipelineSchedule::OneFOneB)).collect();
    let step = StepConfig::default();
    job::check_memory(on, None, (&plan, &step), (&programs, 0), ranks, |_, _| {
        "try fewer tokens at once, or a machine with more memory".into()
    })?;
    let world = World {
        plan,
        step,
        lanes: Lanes::Direct,
        threads: (threads / ranks).max(1),
        timeout: job::TIMEOUT,
        record: false,
        clock: None,
    };
    let results = on.launch(&world, programs, false, |rank| {
        put_weights(rank, dir)?;
        body(rank)
    })?;
    Ok(results.into_iter().collect::<Result<Vec<T>>>()?.swap_remove(0))
}

fn put_weights(rank: &mut Rank, dir: &HfDir) -> Result<()> {
    for (part, whole) in rank.parts() {
        // Rows that fill up the vocabulary are zeros.
        let mut values = vec![0.0; part.len()];
        for (here, there, len) in rank.plan.stretches(rank.id, &part, &whole, 0..part.len()) {
            dir.read(&whole.name, there, &mut values[here..here + len])?;
        }
        rank.set(State::Param, &part, 0, &values);
    }
    Ok(())
}
