//! ZB-H1 (Qi et al. 2023, "Zero Bubble Pipeline Parallelism", <https://arxiv.org/abs/2401.10241>, section 2.1): 1F1B whose
//! backward is done in two parts, so that the stage before waits for the first part only.
//!
//! The second part fills what is left of the bubble. The later a stage is, the fewer micro-batches it has after warming up
//! and the longer it has nothing to do at the end; so it keeps as many second parts back as there are stages before it. The
//! bubble is (p - 1)(F + I - W) instead of 1F1B's (p - 1)(F + I + W), from p micro-batches on and with W <= F; and every stage
//! keeps p micro-batches at most, what 1F1B keeps on its first stage. With several stages a rank the same is done to the interleaved order.
use super::interleaved::{passes, round};
use super::{Pass, StageAction};

pub fn order(place: usize, pipeline: usize, chunks: usize, micros: usize) -> Vec<StageAction> {
    let passes = |pass| passes(pass, place, pipeline, chunks, micros);
    let (mut forward, mut weight) = (passes(Pass::Forward), passes(Pass::Weight));
    let warm_up = (chunks - 1) * round(pipeline, micros) + pipeline - 1 - place;
    let mut out: Vec<StageAction> = forward.by_ref().take(warm_up).collect();
    for (i, input) in passes(Pass::Input).enumerate() {
        out.extend(forward.next());
        out.push(input);
        if i >= place {
            out.extend(weight.next());
        }
    }
    out.extend(weight);
    out
}
