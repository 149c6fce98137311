//! The actions of a step. Reshard and free are not among them: they are the ends of lifetimes, which the planner reads
//! off the program.
use model::Unit;
use model::block::Half;
use plan::{Hop, Lane, Micro, Place, Plan, Res, Stage};

/// One thing a rank does. No action depends on data: what does is a tensor that an operation reads.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Hash)]
pub enum Action {
    /// Learning rate in, sums to zero.
    Begin,
    /// A micro-batch in; its labels are counted.
    Load { m: Micro },
    /// Labels are summed over data parallelism: the loss is a mean over the global batch.
    ReduceCount,
    /// The parts of a unit's parameters become the whole, for one use of it.
    Unshard { u: Unit, by: Use },
    /// One unit, one micro-batch.
    Forward { u: Unit, m: Micro },
    /// What the unit's forward left behind and was not kept is made again.
    Recompute { u: Unit, m: Micro },
    /// Gradients of the unit go to a place; `acc` adds them to what is there. Those that are scattered after every micro-batch go
    /// to memory of their own.
    Backward { u: Unit, m: Micro, half: Half, place: Place, acc: bool },
    /// Gradients of one micro-batch are summed over the weight group, each rank its part.
    Scatter { u: Unit, m: Micro },
    /// That part goes to a place.
    Accumulate { u: Unit, m: Micro, place: Place, acc: bool },
    /// The place before += this one: a node of the tree of sums.
    Merge { u: Unit, place: Place },
    /// Of what every member of the tensor-parallel group has whole, the sum over it.
    ReduceTensor { u: Unit },
    /// Of key/value heads that several members have, the sum over them.
    ReduceKv { u: Unit },
    /// Gradients are summed over the sharding group, each rank its shard.
    Reduce { u: Unit },
    /// The sum of this rank's shard over the ranks of other sharding groups that hold the same; without sharding, of all.
    AllReduce { u: Unit },
    /// To another stage: `what` is `Res::X` or `Res::Dx`.
    Send { what: Res, to: Stage },
    /// The other half of a `Send`.
    Recv { what: Res, from: Stage },
    /// The sum of this rank's shard over the first and the last stage: both hold tied embeddings.
    ReduceTied { u: Unit },
    /// Of the gradient shard, for the norm.
    SumSquares { u: Unit },
    /// Losses and sums of squares are gathered over the world.
    ReduceStats,
    /// Norm, clipping factor, and whether the step is taken.
    GradNorm,
    /// The optimizer on this rank's shard.
    Step { u: Unit },
    /// Stepped shards become whole parameters again.
    Gather { u: Unit },
    /// A planned resource is dead: NaN over its bytes, to prove that nobody reads them any more.
    Poison { res: Res },
}

/// What parameters are made whole for.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Hash)]
pub struct Use {
    pub kind: UseKind,
    /// The unit that is computed: with tied embeddings the head uses those too.
    pub u: Unit,
    pub m: Micro,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug, Hash)]
pub enum UseKind {
    Forward,
    Recompute,
    Backward,
}

impl Action {
    /// The computation of a unit that this is, if it reads parameters.
    pub fn as_use(&self) -> Option<Use> {
        match *self {
            Action::Forward { u, m } => Some(Use { kind: UseKind::Forward, u, m }),
            Action::Recompute { u, m } => Some(Use { kind: UseKind::Recompute, u, m }),
            Action::Backward { u, m, half: Half::Both | Half::Input, .. } => {
                Some(Use { kind: UseKind::Backward, u, m })
            }
            _ => None,
        }
    }

    /// Do the members of a tensor-parallel group meet in it?
    pub fn talks(&self, plan: &Plan) -> bool {
        let computes = matches!(self, Action::Forward { .. } | Action::Recompute { .. } | Action::Backward { .. });
        computes && plan.mesh.tensor.size > 1
    }

    pub fn lane(&self, plan: &Plan) -> Lane {
        match self {
            Action::ReduceCount => Lane::Data,
            Action::Unshard { .. } => Lane::Unshard,
            Action::Scatter { .. } => Lane::Scatter,
            Action::ReduceTensor { .. } => Lane::Tensor,
            Action::ReduceKv { .. } => Lane::Kv,
            Action::Reduce { u } => plan.lane_of(*u, Lane::Reduce),
            Action::AllReduce { u } => plan.lane_of(*u, Lane::Replicas),
            Action::ReduceTied { .. } => Lane::Tied,
            Action::Gather { u } => plan.lane_of(*u, Lane::Gather),
            Action::ReduceStats => Lane::World,
            Action::Send { what, to } => match (what, plan.mesh.hop(beside(*what, *to, false), *to)) {
                (Res::X(..), Hop::Previous) => Lane::SendRising,
                (Res::X(..), _) => Lane::SendDown,
                (_, Hop::Next) => Lane::SendFalling,
                (_, _) => Lane::SendUp,
            },
            Action::Recv { what, from } => match (what, plan.mesh.hop(*from, beside(*what, *from, true))) {
                (Res::X(..), Hop::Previous) => Lane::RecvRising,
                (Res::X(..), _) => Lane::RecvDown,
                (_, Hop::Next) => Lane::RecvFalling,
                (_, _) => Lane::RecvUp,
            },
            Action::Begin | Action::Load { .. } | Action::Forward { .. } | Action::Backward { .. } => Lane::Compute,
            Action::Recompute { .. } | Action::Accumulate { .. } => Lane::Compute,
            Action::Merge { .. } | Action::SumSquares { .. } | Action::GradNorm => Lane::Compute,
            Action::Step { .. } | Action::Poison { .. } => Lane::Compute,
        }
    }
}

/// The stage at the other end of a transfer: activations go down the stages, gradients up.
fn beside(what: Res, stage: Stage, is_sender: bool) -> Stage {
    match matches!(what, Res::X(..)) == is_sender {
        true => Stage(stage.0 + 1),
        false => Stage(stage.0.saturating_sub(1)),
    }
}
