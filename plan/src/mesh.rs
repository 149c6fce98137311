//! Ranks, their place in the mesh, and the groups they talk in.

#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct RankId(pub usize);

/// A pipeline stage.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Stage(pub usize);

/// Where work goes on independently. Compute is one; each other lane is one communicator, whose members all issue the
/// same operations in the same order. Point-to-point has a communicator for each link and direction, a lane at either
/// end: what a stage sends waits for nothing that it receives, not even on an engine that works in order.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
#[repr(u8)]
pub enum Lane {
    Compute,
    /// Parameters, from the ranks of the sharding group that stepped them.
    Gather,
    /// Gradients, to the ranks of the sharding group that step them.
    Reduce,
    /// Gradient shards, among the ranks of other sharding groups that hold the same.
    Replicas,
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
    /// Gradients of tied embeddings, between the first and the last stage.
    Tied,
    /// Losses and the gradient norm.
    World,
}
pub const LANES: [Lane; 11] = [
    Lane::Compute,
    Lane::Gather,
    Lane::Reduce,
    Lane::Replicas,
    Lane::Data,
    Lane::SendDown,
    Lane::RecvDown,
    Lane::SendUp,
    Lane::RecvUp,
    Lane::Tied,
    Lane::World,
];

impl Lane {
    /// As timelines show it.
    pub fn name(self) -> &'static str {
        match self {
            Lane::Compute => "compute",
            Lane::Gather => "gather",
            Lane::Reduce => "reduce",
            Lane::Replicas => "replicas",
            Lane::Data => "data",
            Lane::SendDown => "send down",
            Lane::RecvDown => "recv down",
            Lane::SendUp => "send up",
            Lane::RecvUp => "recv up",
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
            same => same,
        }
    }
}

/// Sizes of the axes. Rank = stage * data + replica, and replica = copy * zero + shard.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Mesh {
    pub data: usize,
    pub pipeline: usize,
    /// Ranks of a sharding group, neighbours in the data-parallel group: the optimizer state is cut over them (ZeRO stage
    /// 1, Rajbhandari et al. 2020; hybrid where groups are smaller than data parallelism). 1: everyone has it all.
    pub zero: usize,
}

impl Mesh {
    pub const SOLO: Mesh = Mesh { data: 1, pipeline: 1, zero: 1 };

    pub fn world(&self) -> usize {
        self.data * self.pipeline
    }
    pub fn ranks(&self) -> impl Iterator<Item = RankId> + use<> {
        (0..self.world()).map(RankId)
    }
    pub fn stage(&self, rank: RankId) -> Stage {
        Stage(rank.0 / self.data)
    }
    /// The first rank of a stage.
    pub fn first(&self, stage: Stage) -> RankId {
        RankId(stage.0 * self.data)
    }
    /// Index in the data-parallel group.
    pub fn replica(&self, rank: RankId) -> usize {
        rank.0 % self.data
    }
    /// Index in the sharding group.
    pub fn shard(&self, rank: RankId) -> usize {
        self.replica(rank) % self.zero
    }
    /// Which sharding group of the data-parallel group.
    pub fn copy(&self, rank: RankId) -> usize {
        self.replica(rank) / self.zero
    }
    /// How many ranks of a data-parallel group hold the same shard.
    pub fn copies(&self) -> usize {
        self.data / self.zero
    }
    pub fn is_last(&self, stage: Stage) -> bool {
        stage.0 + 1 == self.pipeline
    }

    /// The ranks that share a communicator with this lane of `rank`, in group order.
    pub fn group(&self, rank: RankId, lane: Lane) -> Vec<RankId> {
        let (stage, replica) = (self.stage(rank).0, self.replica(rank));
        match lane {
            Lane::Compute => vec![rank],
            Lane::Gather | Lane::Reduce => {
                let first = stage * self.data + self.copy(rank) * self.zero;
                (first..first + self.zero).map(RankId).collect()
            }
            Lane::Replicas => {
                let first = stage * self.data + self.shard(rank);
                (0..self.copies()).map(|copy| RankId(first + copy * self.zero)).collect()
            }
            Lane::Data => (0..self.data).map(|r| RankId(stage * self.data + r)).collect(),
            // The sender first.
            Lane::SendDown | Lane::RecvUp if !self.is_last(Stage(stage)) => {
                let pair = [rank, RankId(rank.0 + self.data)];
                if lane == Lane::SendDown { pair.into() } else { [pair[1], rank].into() }
            }
            Lane::RecvDown | Lane::SendUp if stage > 0 => {
                let pair = [RankId(rank.0 - self.data), rank];
                if lane == Lane::RecvDown { pair.into() } else { [rank, pair[0]].into() }
            }
            Lane::SendDown | Lane::RecvDown | Lane::SendUp | Lane::RecvUp => vec![rank],
            Lane::Tied if self.pipeline > 1 && (stage == 0 || self.is_last(Stage(stage))) => {
                [0, self.pipeline - 1].map(|s| RankId(s * self.data + replica)).into()
            }
            Lane::Tied => vec![rank],
            Lane::World => self.ranks().collect(),
        }
    }
}
