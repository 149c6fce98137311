//! 1F1B (Narayanan et al. 2019): after a warm-up as deep as the stages that follow, one forward and one backward in turn,
//! so that a stage keeps at most that many micro-batches.
use super::Pass;
use plan::{Micro, Stage};

pub fn order(stage: Stage, stages: usize, micros: usize) -> Vec<(Pass, Micro)> {
    let warm_up = (stages - 1 - stage.0).min(micros);
    let mut out: Vec<_> = (0..warm_up).map(|m| (Pass::Forward, Micro(m))).collect();
    for m in 0..micros {
        if warm_up + m < micros {
            out.push((Pass::Forward, Micro(warm_up + m)));
        }
        out.push((Pass::Backward, Micro(m)));
    }
    out
}
