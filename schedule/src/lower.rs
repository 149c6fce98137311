//! From the passes of a stage to the actions of a rank.
use crate::Action;
use crate::pipeline::{self, Pass, StageAction};
use model::{Phase, Unit};
use plan::{Again, Micro, PipelineSchedule, Place, Plan, RankId, Res, Stage, StepShape};

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
    let clash =
        |a: &StageAction, b: &StageAction| (a.pass, b.pass, a.micro) == (Pass::Backward, Pass::Backward, b.micro);
    out.extend(passes.first().and_then(|p| receive(plan, p)));
    for (i, pass) in passes.iter().enumerate() {
        let (early, late): (Vec<_>, Vec<_>) = passes.get(i + 1).into_iter().partition(|next| !clash(pass, next));
        out.extend(early.into_iter().filter_map(|p| receive(plan, p)));
        match pass.pass {
            Pass::Forward => forward(plan, pass, &mut out),
            Pass::Backward => backward(plan, pass, shape, &mut out),
            Pass::Input | Pass::Weight => unreachable!("no policy of a run splits its backward yet: {pass}"),
        }
        out.extend(late.into_iter().filter_map(|p| receive(plan, p)));
    }
    match shape.phase {
        Phase::Train => optimize(plan, rank, &mut out),
        Phase::Eval if plan.mesh.world() > 1 => out.push(Action::ReduceStats),
        Phase::Eval | Phase::Prefill | Phase::Decode => {}
    }
    out
}

fn receive(plan: &Plan, pass: &StageAction) -> Option<Action> {
    let (Stage(s), m) = (pass.stage, pass.micro);
    let units = plan.units(pass.stage);
    match pass.pass {
        Pass::Forward if s > 0 => Some(Action::Recv { what: Res::X(Unit(units.start - 1), m), from: Stage(s - 1) }),
        Pass::Backward if !plan.mesh.is_last(pass.stage) => Some(Action::Recv { what: Res::Dx(m), from: Stage(s + 1) }),
        Pass::Forward | Pass::Backward | Pass::Input | Pass::Weight => None,
    }
}

fn forward(plan: &Plan, pass: &StageAction, out: &mut Vec<Action>) {
    let (units, m) = (plan.units(pass.stage), pass.micro);
    out.extend(units.clone().map(|u| Action::Forward { u: Unit(u), m }));
    if !plan.mesh.is_last(pass.stage) {
        out.push(Action::Send { what: Res::X(Unit(units.end - 1), m), to: Stage(pass.stage.0 + 1) });
    }
}

fn backward(plan: &Plan, pass: &StageAction, shape: StepShape, out: &mut Vec<Action>) {
    let m = pass.micro;
    let leaf = plan.leaf(m, shape);
    let (place, merges) = plan.place(leaf);
    let is_leaf = |other: Micro| plan.leaf(other, shape) == leaf;
    let first_of_leaf = m.0 == 0 || !is_leaf(Micro(m.0 - 1));
    let last_of_step = m.0 + 1 == shape.micros;
    let last_of_leaf = last_of_step || !is_leaf(Micro(m.0 + 1));

    // Of the sums of a bucket that follow each other, the first begins at once and the next backward hides it.
    let mut later = vec![];
    for u in plan.units(pass.stage).rev().map(Unit) {
        // With tied embeddings the head has been at the embedding's bucket before, if it is here.
        let acc = !first_of_leaf || (plan.model.tied && u == Unit(0) && plan.tied_across().is_none());
        out.extend(recompute(plan, u, m));
        out.push(Action::Backward { u, m, place, acc });
        for u in plan.completes(u) {
            if last_of_leaf {
                out.extend((0..merges).map(|i| Action::Merge { u, place: Place(place.0 - i) }));
            }
            if last_of_step {
                let mut sums = sums(plan, u).into_iter();
                out.extend(sums.next());
                out.append(&mut later);
                later.extend(sums);
            }
        }
    }
    out.append(&mut later);
    if pass.stage.0 > 0 {
        out.push(Action::Send { what: Res::Dx(m), to: Stage(pass.stage.0 - 1) });
    }
}

/// What makes the gradients of a bucket, complete on each rank, those of the global batch.
fn sums(plan: &Plan, u: Unit) -> Vec<Action> {
    let steps = [
        (plan.mesh.zero > 1, Action::Reduce { u }),
        (plan.mesh.copies() > 1, Action::AllReduce { u }),
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
        if plan.mesh.zero > 1 {
            out.push(Action::Gather { u });
        }
    }
}
