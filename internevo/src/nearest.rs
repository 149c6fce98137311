//! Layouts near one that does not fit into memory.
use crate::config::RunConfig;
use crate::job::{self, Beside, Job, human};
use model::{Decoder, TensorMode};
use plan::{ParallelConfig, Recompute};

/// So many are told.
const TOLD: usize = 3;

/// What is changed, as keys of a run file, and what a rank then needs; the smallest changes first. A rank may have `limit`
/// bytes, of which it needs `workspace` beside the plan.
pub fn layouts(
    config: &RunConfig,
    decoder: &Decoder,
    types: usize,
    ranks: usize,
    [limit, workspace]: [usize; 2],
) -> Vec<String> {
    let sizes = || (2..=ranks.min(64)).filter(|size| ranks.is_multiple_of(*size));
    let given = &config.parallel;
    let mut changes: Vec<(Vec<String>, ParallelConfig, Recompute)> = vec![];
    let mut add = |keys: &[String], parallel: &ParallelConfig| {
        if !keys.is_empty() {
            changes.push((keys.to_vec(), parallel.clone(), config.memory.recompute));
        }
        let recompute = "memory.recompute = 1.0".to_string();
        changes.push(([keys, &[recompute]].concat(), parallel.clone(), Recompute::Layers(1.0)));
    };
    add(&[], given);
    if given.tensor.mode != TensorMode::Isp && given.zero.stage < 3 {
        let mut cut = given.clone();
        (cut.zero.stage, cut.zero.size) = (3, -1);
        add(&["parallel.zero.stage = 3".into(), "parallel.zero.size = -1".into()], &cut);
    }
    for size in sizes().filter(|size| *size > given.tensor.size) {
        let mut cut = given.clone();
        (cut.tensor.size, cut.tensor.mode) = (size, TensorMode::Fsp);
        add(&[format!("parallel.tensor.size = {size}"), "parallel.tensor.mode = \"fsp\"".into()], &cut);
    }
    for size in sizes().filter(|size| *size > given.pipeline.size) {
        let mut cut = given.clone();
        cut.pipeline.size = size;
        add(&[format!("parallel.pipeline.size = {size}")], &cut);
    }
    let fits = |(keys, parallel, recompute): (Vec<String>, ParallelConfig, Recompute)| {
        let mut near = config.clone();
        (near.parallel, near.memory.recompute) = (parallel, recompute);
        // One that cannot be laid out is no way out.
        let job = Job::new(&near, decoder.clone(), types, ranks).ok()?;
        let (programs, copy) = (job.stage_programs().ok()?, job.copy_bytes(&near));
        let need = programs.iter().map(|of| job::total(&job::memory_by_kind(of, Beside { workspace, copy }))).max()?;
        (need <= limit).then(|| format!("  {:>10}  {}", human(need), keys.join(", ")))
    };
    changes.into_iter().filter_map(fits).take(TOLD).collect()
}
