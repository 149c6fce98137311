//! Lanes: compute, and one for every communicator of a rank.

/// Where work goes on independently. Compute is one; each other lane is one communicator, whose members all issue the
/// same operations in the same order. Point-to-point has a communicator for each link and direction, a lane at either
/// end: what a stage sends waits for nothing that it receives, not even on an engine that works in order.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
#[repr(u8)]
pub enum Lane {
    Compute,
    /// What the members of a tensor-parallel group say inside a half-block, and gradients of what each of them has whole.
    Tensor,
    /// Gradients of a key/value head that several members of a tensor-parallel group have.
    Kv,
    /// Parameters before their use, from the ranks of the weight group that keep them.
    Unshard,
    /// Gradients of one micro-batch, to the ranks of the weight group that keep them.
    Scatter,
    /// Parameters, from the ranks of the sharding group that stepped them.
    Gather,
    /// Gradients, to the ranks of the sharding group that step them.
    Reduce,
    /// Gradient shards, among the ranks of other sharding groups that hold the same.
    Replicas,
    /// In `isp`, embedding and head from those that stepped them: all of data parallelism.
    GatherEnds,
    /// In `isp`, gradients of embedding and head.
    ReduceEnds,
    /// Label counts, over all of data parallelism.
    Data,
    /// Activations, to the next stage.
    SendDown,
    /// Those of the previous stage.
    RecvDown,
    /// Gradients of activations, to the previous stage.
    SendUp,
    /// Those of the next stage.
    RecvUp,
    /// In a V, activations of the way up: to the place before.
    SendRising,
    /// Those of the place after.
    RecvRising,
    /// In a V, gradients of the way up: to the place after.
    SendFalling,
    /// Those of the place before.
    RecvFalling,
    /// Gradients of tied embeddings, between the first and the last stage.
    Tied,
    /// Losses and the gradient norm.
    World,
}
pub const LANES: [Lane; 21] = [
    Lane::Compute,
    Lane::Tensor,
    Lane::Kv,
    Lane::Unshard,
    Lane::Scatter,
    Lane::Gather,
    Lane::Reduce,
    Lane::Replicas,
    Lane::GatherEnds,
    Lane::ReduceEnds,
    Lane::Data,
    Lane::SendDown,
    Lane::RecvDown,
    Lane::SendUp,
    Lane::RecvUp,
    Lane::SendRising,
    Lane::RecvRising,
    Lane::SendFalling,
    Lane::RecvFalling,
    Lane::Tied,
    Lane::World,
];

impl Lane {
    /// As timelines show it.
    pub fn name(self) -> &'static str {
        match self {
            Lane::Compute => "compute",
            Lane::Tensor => "tensor",
            Lane::Kv => "kv",
            Lane::Unshard => "unshard",
            Lane::Scatter => "scatter",
            Lane::Gather => "gather",
            Lane::Reduce => "reduce",
            Lane::Replicas => "replicas",
            Lane::GatherEnds => "gather ends",
            Lane::ReduceEnds => "reduce ends",
            Lane::Data => "data",
            Lane::SendDown => "send down",
            Lane::RecvDown => "recv down",
            Lane::SendUp => "send up",
            Lane::RecvUp => "recv up",
            Lane::SendRising => "send rising",
            Lane::RecvRising => "recv rising",
            Lane::SendFalling => "send falling",
            Lane::RecvFalling => "recv falling",
            Lane::Tied => "tied",
            Lane::World => "world",
        }
    }
    /// The lane on which the other members of a communicator have it.
    pub fn other_end(self) -> Lane {
        match self {
            Lane::SendDown => Lane::RecvDown,
            Lane::RecvDown => Lane::SendDown,
            Lane::SendUp => Lane::RecvUp,
            Lane::RecvUp => Lane::SendUp,
            Lane::SendRising => Lane::RecvRising,
            Lane::RecvRising => Lane::SendRising,
            Lane::SendFalling => Lane::RecvFalling,
            Lane::RecvFalling => Lane::SendFalling,
            _ => self,
        }
    }
}
