//! What an action reads and writes. Lifetimes, waits and memory all follow from this one table.
use crate::Action;
use model::block::Half;
use model::{Phase, Unit, UnitKind};
use plan::{Again, Plan, RankId, Res, StepShape};

/// A resource that is updated is in both lists; one that is only in `writes` is written anew.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Touch {
    pub reads: Vec<Res>,
    pub writes: Vec<Res>,
}

impl Touch {
    pub fn all(&self) -> impl Iterator<Item = Res> + '_ {
        self.reads.iter().chain(&self.writes).copied()
    }
}

fn touch<const R: usize, const W: usize>(reads: [Res; R], writes: [Res; W]) -> Touch {
    Touch { reads: reads.into(), writes: writes.into() }
}

impl Action {
    pub fn touch(&self, plan: &Plan, shape: StepShape) -> Touch {
        use Res::*;
        let m_head = plan.model.head_matrix_unit();
        let w_head = plan.weights(m_head);
        match *self {
            Action::Begin if shape.phase == Phase::Train => touch([], [Hyper, Stats, Count]),
            Action::Begin if shape.phase == Phase::Eval => touch([], [Stats, Count]),
            Action::Begin => touch([], []),
            Action::Load { m } if shape.phase.is_cached() => touch([], [Batch(m)]),
            Action::Load { m } => touch([Count], [Batch(m), Count]),
            Action::ReduceCount => touch([Count], [Count]),
            Action::Unshard { u, .. } => touch([Param(u)], [Unsharded(u)]),
            Action::Forward { u, m } => {
                let w = plan.weights(u);
                let mut t = match (plan.model.kind(u), shape.phase) {
                    (UnitKind::Embedding, _) => touch([w, Batch(m)], [X(u, m)]),
                    (UnitKind::Attention { .. }, Phase::Train | Phase::Eval) => {
                        touch([w, Batch(m), RopeTable, X(before(u), m)], [X(u, m), Saved(u, m)])
                    }
                    (UnitKind::Attention { .. }, Phase::Prefill | Phase::Decode) => {
                        touch([w, Batch(m), RopeTable, Cache(u), X(before(u), m)], [X(u, m), Saved(u, m), Cache(u)])
                    }
                    (UnitKind::Mlp { .. }, _) => touch([w, X(before(u), m)], [X(u, m), Saved(u, m)]),
                    // Of a head with normalised rows these are the rows.
                    (UnitKind::Head, Phase::Train) => touch([w, w_head, X(before(u), m)], [Saved(u, m)]),
                    (UnitKind::Head, Phase::Eval) => {
                        touch([w, w_head, Batch(m), X(before(u), m), Stats], [Saved(u, m), Stats])
                    }
                    (UnitKind::Head, Phase::Prefill | Phase::Decode) => {
                        touch([w, w_head, Batch(m), X(before(u), m)], [Saved(u, m), Logits])
                    }
                };
                t.writes.extend(plan.works_forward(u, shape).then_some(Tmp(u, m)));
                t
            }
            Action::Recompute { u, m } => {
                let w = plan.weights(u);
                let mut t = match plan.model.kind(u) {
                    UnitKind::Attention { .. } => touch([w, Batch(m), RopeTable, X(before(u), m)], [Saved(u, m)]),
                    _ => touch([w, X(before(u), m)], [Saved(u, m)]),
                };
                if plan.again(u) == Again::SavedAndOutput {
                    t.writes.push(X(u, m));
                }
                t.writes.extend(plan.works_forward(u, shape).then_some(Tmp(u, m)));
                t
            }
            Action::Backward { u, m, half: Half::Weight, place, acc } => {
                let grad = plan.grad_to(u, m, place);
                let mut t = touch([Saved(u, m), Late(u, m)], [grad]);
                t.reads.extend(acc.then_some(grad));
                t.writes.extend(plan.works_late().then_some(Tmp(u, m)));
                t
            }
            Action::Backward { u, m, half, place, acc } => {
                let (w, grad) = (plan.weights(u), plan.grad_to(u, m, place));
                let mut grads = vec![grad];
                let mut t = match plan.model.kind(u) {
                    UnitKind::Embedding if plan.mesh.tensor.cuts_tokens() => touch([Batch(m), Dx(m)], [Tmp(u, m)]),
                    UnitKind::Embedding => touch([Batch(m), Dx(m)], []),
                    UnitKind::Attention { .. } => {
                        touch([w, Batch(m), RopeTable, X(before(u), m), Saved(u, m), Dx(m)], [Dx(m), Tmp(u, m)])
                    }
                    // Gradients take the place of what they were computed from.
                    UnitKind::Mlp { .. } => {
                        touch([w, X(before(u), m), Saved(u, m), Dx(m)], [Dx(m), Tmp(u, m), Saved(u, m)])
                    }
                    UnitKind::Head => {
                        grads.push(plan.grad_to(m_head, m, place));
                        touch(
                            [w, w_head, Batch(m), Count, Scale, X(before(u), m), Saved(u, m), Stats],
                            [Dx(m), Tmp(u, m), Stats],
                        )
                    }
                };
                if half == Half::Input {
                    t.writes.push(Late(u, m));
                    return t;
                }
                grads.dedup();
                if acc {
                    t.reads.extend(&grads);
                }
                t.writes.extend(grads);
                t
            }
            Action::Scatter { u, m } => touch([Unreduced(u, m)], [Unreduced(u, m)]),
            Action::Accumulate { u, m, place, acc } => {
                let mut t = touch([Unreduced(u, m)], [Grad(u, place)]);
                t.reads.extend(acc.then_some(Grad(u, place)));
                t
            }
            Action::Merge { u, place } => {
                let into = Grad(u, plan::Place(place.0 - 1));
                touch([into, Grad(u, place)], [into])
            }
            Action::ReduceTensor { u }
            | Action::ReduceKv { u }
            | Action::Reduce { u }
            | Action::AllReduce { u }
            | Action::ReduceTied { u } => touch([Grad(u, plan::Place(0))], [Grad(u, plan::Place(0))]),
            Action::Send { what, .. } => touch([what], []),
            Action::Recv { what, .. } => touch([], [what]),
            Action::SumSquares { u } => touch([Grad(u, plan::Place(0)), Stats], [Stats]),
            Action::ReduceStats => touch([Stats], [Stats]),
            Action::GradNorm => touch([Stats, Count, Scale], [Norm, Scale]),
            Action::Step { u } => touch([Grad(u, plan::Place(0)), Norm, Hyper, Opt(u), Param(u)], [Param(u), Opt(u)]),
            Action::Gather { u } => touch([Param(u)], [Param(u)]),
            Action::Poison { res } => touch([res], [res]),
        }
    }

    /// All members of the lane's group issue an equal action, or the other half of a pair.
    pub fn matches(&self, rank: RankId, other: &Action, peer: RankId, plan: &Plan) -> bool {
        match (*self, *other) {
            (Action::Send { what, to }, Action::Recv { what: got, from })
            | (Action::Recv { what: got, from }, Action::Send { what, to }) => {
                let (sender, receiver) = if matches!(self, Action::Send { .. }) { (rank, peer) } else { (peer, rank) };
                let apart = if matches!(what, Res::X(..)) { to.0 == from.0 + 1 } else { from.0 == to.0 + 1 };
                what == got && apart && plan.mesh.has(receiver, to) && plan.mesh.has(sender, from)
            }
            (a, b) => a == b && !matches!(a, Action::Send { .. } | Action::Recv { .. }),
        }
    }
}

/// The unit whose output a unit takes in.
fn before(u: Unit) -> Unit {
    Unit(u.0 - 1)
}
