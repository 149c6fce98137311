//! ZB-V (Qi et al. 2023, "Zero Bubble Pipeline Parallelism", <https://arxiv.org/abs/2401.10241>, section 6): the pipeline is
//! a V.
//!
//! A rank has two stages; micro-batches go down the ranks and up again, so the first rank has both ends. A rank that is early
//! on the way down is late on the way up: hence all keep the same, two stages of p micro-batches, which is what 1F1B keeps on
//! its first rank. With F = I = W and at least 2p micro-batches no rank waits between its first pass and its last. The order is
//! PyTorch's.
use super::{Pass, StageAction};
use plan::{Micro, Stage};
use std::collections::HashMap;

pub fn order(place: usize, pipeline: usize, micros: usize) -> Vec<StageAction> {
    let (down, up) = (Stage(place), Stage(2 * pipeline - 1 - place));
    let [f, i, w] = [Pass::Forward, Pass::Input, Pass::Weight].map(|pass| (down, pass));
    let [g, j, v] = [Pass::Forward, Pass::Input, Pass::Weight].map(|pass| (up, pass));
    // Fewer micro-batches than fill the V are the first ones of as many as do.
    let full = micros.max(2 * pipeline - 1);
    let behind = pipeline - place;
    let phases: [(usize, &[(Stage, Pass)]); 8] = [
        // Until the first micro-batch is back up here.
        (2 * behind - 1, &[f]),
        (place, &[g, f]),
        // The head of the V turns micro-batches round: backward begins.
        (behind, &[g, j, v]),
        // Everything in turn.
        (full - pipeline, &[f, i, w, g, j, v]),
        // No forwards are left. The ranks before wait for the first parts, and the second ones fill the end.
        (place, &[i, j]),
        (behind, &[i, w]),
        (place, &[v]),
        (place, &[w]),
    ];
    let mut done: HashMap<(Stage, Pass), usize> = HashMap::new();
    let mut out = vec![];
    for (times, passes) in phases {
        for &(stage, pass) in (0..times).flat_map(|_| passes) {
            let next = done.entry((stage, pass)).or_default();
            out.push(StageAction { stage, pass, micro: Micro(*next) });
            *next += 1;
        }
    }
    out.retain(|pass| pass.micro.0 < micros);
    out
}
