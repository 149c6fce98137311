//! The actions of a step. Reshard and free are not among them: they are the ends of lifetimes, which the planner reads
//! off the program.
use model::Unit;
use plan::{Lane, Micro, Place, Res, Stage};

/// One thing a rank does. No action depends on data: what does is a tensor that an operation reads.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Hash)]
pub enum Action {
    /// Learning rate in, sums to zero.
    Begin,
    /// A micro-batch in; its labels are counted.
    Load { m: Micro },
    /// Labels are summed over data parallelism: the loss is a mean over the global batch.
    ReduceCount,
    /// One unit, one micro-batch.
    Forward { u: Unit, m: Micro },
    /// What the unit's forward left behind and was not kept is made again.
    Recompute { u: Unit, m: Micro },
    /// Gradients of the unit go to a place; `acc` adds them to what is there.
    Backward { u: Unit, m: Micro, place: Place, acc: bool },
    /// The place before += this one: a node of the tree of sums.
    Merge { u: Unit, place: Place },
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

impl Action {
    pub fn lane(&self) -> Lane {
        match self {
            Action::ReduceCount => Lane::Data,
            Action::Reduce { .. } => Lane::Reduce,
            Action::AllReduce { .. } => Lane::Replicas,
            Action::ReduceTied { .. } => Lane::Tied,
            Action::Gather { .. } => Lane::Gather,
            Action::ReduceStats => Lane::World,
            Action::Send { what: Res::X(..), .. } => Lane::SendDown,
            Action::Recv { what: Res::X(..), .. } => Lane::RecvDown,
            Action::Send { .. } => Lane::SendUp,
            Action::Recv { .. } => Lane::RecvUp,
            Action::Begin | Action::Load { .. } | Action::Forward { .. } | Action::Backward { .. } => Lane::Compute,
            Action::Recompute { .. } => Lane::Compute,
            Action::Merge { .. } | Action::SumSquares { .. } | Action::GradNorm => Lane::Compute,
            Action::Step { .. } | Action::Poison { .. } => Lane::Compute,
        }
    }
}
