//! Interleaved 1F1B (Narayanan et al. 2021, <https://arxiv.org/abs/2104.04473>, section 2.2): a rank has several stages, so
//! that a micro-batch passes it several times, and the bubble is as many times shorter.
//!
//! Micro-batches go in equal rounds, as many as there are with at least one micro-batch for each rank. A round passes the rank's
//! first stage, then its second, and so on; backward the other way round. Where PyTorch accepts the numbers, the order is its own.
use super::{Pass, StageAction};
use plan::{Micro, Stage};

/// Micro-batches of a round.
pub fn round(pipeline: usize, micros: usize) -> usize {
    let rounds = (1..=micros / pipeline).rev().find(|rounds| micros.is_multiple_of(*rounds));
    micros / rounds.unwrap_or(1)
}

/// All passes of one kind, round by round.
pub fn passes(
    pass: Pass,
    place: usize,
    pipeline: usize,
    chunks: usize,
    micros: usize,
) -> impl Iterator<Item = StageAction> {
    let round_len = round(pipeline, micros);
    let round = move |r: usize| round_len * r..round_len * (r + 1);
    let stage = move |i: usize| match pass {
        Pass::Forward => Stage(i * pipeline + place),
        Pass::Backward | Pass::Input | Pass::Weight => Stage((chunks - 1 - i) * pipeline + place),
    };
    let of = move |r, i| round(r).map(move |m| StageAction { stage: stage(i), pass, micro: Micro(m) });
    (0..micros / round_len).flat_map(move |r| (0..chunks).flat_map(move |i| of(r, i)))
}

pub fn order(place: usize, pipeline: usize, chunks: usize, micros: usize) -> Vec<StageAction> {
    let passes = |pass| passes(pass, place, pipeline, chunks, micros);
    let mut forward = passes(Pass::Forward);
    let warm_up = (chunks - 1) * round(pipeline, micros) + 2 * (pipeline - 1 - place);
    let mut out: Vec<StageAction> = forward.by_ref().take(warm_up).collect();
    for backward in passes(Pass::Backward) {
        out.extend(forward.next());
        out.push(backward);
    }
    out
}
