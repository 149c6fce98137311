//! From the passes of a stage to the actions of a rank.
use crate::pipeline::{self, Pass, StageAction};
use crate::{Action, passes};
use model::block::Half;
use model::{Phase, Unit};
use plan::{Again, Hop, Micro, PipelineSchedule, Place, Plan, RankId, Res, Sharing, Stage, StepShape};
use std::collections::VecDeque;

pub fn lower(plan: &Plan, rank: RankId, shape: StepShape, policy: PipelineSchedule) -> Vec<Action> {
    let passes = match shape.phase {
        Phase::Train => pipeline::order(policy, plan.mesh, rank, shape.micros),
        Phase::Eval | Phase::Prefill | Phase::Decode => pipeline::forward_only(plan.mesh, rank, shape.micros),
    };
    let mut out = vec![Action::Begin];
    out.extend((0..shape.micros).map(|m| Action::Load { m: Micro(m) }));
    if plan.mesh.data > 1 {
        out.push(Action::ReduceCount);
    }

    // A receive is posted one pass early, so that it arrives behind the compute; not where it would arrive in what that pass
    // works on, the gradient of the same micro-batch in another stage.
    let clash = |a: &StageAction, b: &StageAction| turns(a.pass) && turns(b.pass) && a.micro == b.micro;
    out.extend(passes.first().and_then(|p| receive(plan, p)));
    for (i, pass) in passes.iter().enumerate() {
        let (early, late): (Vec<_>, Vec<_>) = passes.get(i + 1).into_iter().partition(|next| !clash(pass, next));
        out.extend(early.into_iter().filter_map(|p| receive(plan, p)));
        match pass.pass {
            Pass::Forward => forward(plan, pass, &mut out),
            Pass::Backward => backward(plan, pass, Half::Both, shape, &mut out),
            Pass::Input => backward(plan, pass, Half::Input, shape, &mut out),
            Pass::Weight => backward(plan, pass, Half::Weight, shape, &mut out),
        }
        out.extend(late.into_iter().filter_map(|p| receive(plan, p)));
    }
    match shape.phase {
        Phase::Train => optimize(plan, rank, &mut out),
        Phase::Eval if plan.mesh.world() > 1 => out.push(Action::ReduceStats),
        Phase::Eval | Phase::Prefill | Phase::Decode => {}
    }
    passes::unshard(plan, shape, out)
}

/// Does the gradient of the residual stream pass the stage?
fn turns(pass: Pass) -> bool {
    match pass {
        Pass::Forward | Pass::Weight => false,
        Pass::Backward | Pass::Input => true,
    }
}

/// The stage beside one, if what it makes has to travel.
fn far(plan: &Plan, stage: Stage, beside: Option<usize>) -> Option<Stage> {
    let beside = beside.map(Stage).filter(|beside| beside.0 < plan.mesh.stages())?;
    (plan.mesh.hop(stage, beside) != Hop::Stay).then_some(beside)
}

fn receive(plan: &Plan, pass: &StageAction) -> Option<Action> {
    let (Stage(s), m) = (pass.stage, pass.micro);
    let what = match pass.pass {
        Pass::Forward => Res::X(Unit(plan.units(pass.stage).start.checked_sub(1)?), m),
        Pass::Backward | Pass::Input => Res::Dx(m),
        Pass::Weight => return None,
    };
    let from = if pass.pass == Pass::Forward { s.checked_sub(1) } else { Some(s + 1) };
    far(plan, pass.stage, from).map(|from| Action::Recv { what, from })
}

fn forward(plan: &Plan, pass: &StageAction, out: &mut Vec<Action>) {
    let (units, m) = (plan.units(pass.stage), pass.micro);
    out.extend(units.clone().map(|u| Action::Forward { u: Unit(u), m }));
    let next = far(plan, pass.stage, Some(pass.stage.0 + 1));
    out.extend(next.map(|to| Action::Send { what: Res::X(Unit(units.end - 1), m), to }));
}

fn backward(plan: &Plan, pass: &StageAction, half: Half, shape: StepShape, out: &mut Vec<Action>) {
    let m = pass.micro;
    // Of the sums of a bucket that follow each other, the first begins at once and the next backward hides it.
    let mut later: VecDeque<Vec<Action>> = VecDeque::new();
    for u in plan.units(pass.stage).rev().map(Unit) {
        // Both ends do it all at once: their second half would need as much memory as the logits.
        let half = match half {
            Half::Weight if plan.is_end(u) => continue,
            _ if plan.is_end(u) => Half::Both,
            half => half,
        };
        if half != Half::Weight {
            out.extend(recompute(plan, u, m));
        }
        out.push(backward_of(plan, u, m, half, shape));
        out.extend(later.pop_front().unwrap_or_default());
        for u in plan.completes(u).filter(|_| half != Half::Input) {
            let mut sums = sums(plan, u, m, shape).into_iter();
            out.extend(sums.next().unwrap_or_default());
            for (i, sum) in sums.enumerate() {
                if later.len() == i {
                    later.push_back(vec![]);
                }
                later[i].extend(sum);
            }
        }
    }
    out.extend(later.into_iter().flatten());
    let before = far(plan, pass.stage, pass.stage.0.checked_sub(1)).filter(|_| half != Half::Weight);
    out.extend(before.map(|to| Action::Send { what: Res::Dx(m), to }));
}

fn backward_of(plan: &Plan, u: Unit, m: Micro, half: Half, shape: StepShape) -> Action {
    // With tied embeddings the head has been at the embedding's bucket before, if it is here.
    let after_head = plan.model.tied && u == Unit(0) && plan.tied_across().is_none();
    let (place, first) = match half {
        Half::Input => (Place(0), true),
        _ if plan.scatters(u) => (Place(0), true),
        Half::Both | Half::Weight => place_of(plan, m, shape),
    };
    Action::Backward { u, m, half, place, acc: after_head || !first }
}

/// Where a micro-batch's gradients are added, and whether it is the first there.
fn place_of(plan: &Plan, m: Micro, shape: StepShape) -> (Place, bool) {
    let leaf = plan.leaf(m, shape);
    (plan.place(leaf).0, m.0 == 0 || plan.leaf(Micro(m.0 - 1), shape) != leaf)
}

/// What follows when a bucket has the gradients of a micro-batch: lists of actions, of which each waits for the one before.
fn sums(plan: &Plan, u: Unit, m: Micro, shape: StepShape) -> Vec<Vec<Action>> {
    let leaf = plan.leaf(m, shape);
    let (place, merges) = plan.place(leaf);
    let last_of_step = m.0 + 1 == shape.micros;
    let last_of_leaf = last_of_step || plan.leaf(Micro(m.0 + 1), shape) != leaf;

    let (mut out, mut now) = (vec![], vec![]);
    if plan.scatters(u) {
        out.push(vec![Action::Scatter { u, m }]);
        now.push(Action::Accumulate { u, m, place, acc: !place_of(plan, m, shape).1 });
    }
    if last_of_leaf {
        now.extend((0..merges).map(|i| Action::Merge { u, place: Place(place.0 - i) }));
    }
    let mut over_ranks = over_ranks(plan, u).into_iter().filter(|_| last_of_step);
    now.extend(over_ranks.next());
    out.push(now);
    out.extend(over_ranks.map(|sum| vec![sum]));
    out
}

/// What makes the gradients of a bucket, complete on each rank, those of the global batch.
fn over_ranks(plan: &Plan, u: Unit) -> Vec<Action> {
    let Sharing { zero, copies, .. } = plan.sharing(u);
    let steps = [
        (!plan.partial(u).is_empty(), Action::ReduceTensor { u }),
        (!plan.shared_heads(u).is_empty(), Action::ReduceKv { u }),
        (zero > 1, Action::Reduce { u }),
        (copies > 1, Action::AllReduce { u }),
        (plan.tied_across() == Some(u), Action::ReduceTied { u }),
    ];
    steps.into_iter().filter_map(|(needed, action)| needed.then_some(action)).collect()
}

/// Before a unit's backward: a whole layer is made again from its input when the backward comes to its MLP.
fn recompute(plan: &Plan, u: Unit, m: Micro) -> Vec<Action> {
    let again = |u: Unit| Action::Recompute { u, m };
    let before = Unit(u.0.saturating_sub(1));
    match plan.again(u) {
        Again::Saved if plan.again(before) == Again::SavedAndOutput => vec![again(before), again(u)],
        Again::Saved => vec![again(u)],
        Again::SavedAndOutput | Again::Nothing => vec![],
    }
}

fn optimize(plan: &Plan, rank: RankId, out: &mut Vec<Action>) {
    out.extend(plan.computed(rank).into_iter().map(|u| Action::SumSquares { u }));
    if plan.mesh.world() > 1 {
        out.push(Action::ReduceStats);
    }
    out.push(Action::GradNorm);
    for u in plan.held(rank) {
        out.push(Action::Step { u });
        if plan.gathers(u) {
            out.push(Action::Gather { u });
        }
    }
}
