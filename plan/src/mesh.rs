//! Ranks, their place in the mesh, and the groups they talk in.

#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct RankId(pub usize);

/// A pipeline stage.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Stage(pub usize);

/// Where work goes on independently. Compute is one; each other lane is one communicator, whose members all issue the
/// same operations in the same order. Point-to-point has a lane for each direction: with one, 1F1B deadlocks on an
/// engine that works in order.
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
    Down,
    /// Gradients of activations, to the previous stage.
    Up,
    /// Gradients of tied embeddings, between the first and the last stage.
    Tied,
    /// Losses and the gradient norm.
    World,
}
pub const LANES: [Lane; 9] = [
    Lane::Compute,
    Lane::Gather,
    Lane::Reduce,
    Lane::Replicas,
    Lane::Data,
    Lane::Down,
    Lane::Up,
    Lane::Tied,
    Lane::World,
];

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

    /// The ranks that share a lane with `rank`, in group order.
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
            Lane::Down | Lane::Up => (0..self.pipeline).map(|s| RankId(s * self.data + replica)).collect(),
            Lane::Tied if self.pipeline > 1 && (stage == 0 || self.is_last(Stage(stage))) => {
                [0, self.pipeline - 1].map(|s| RankId(s * self.data + replica)).into()
            }
            Lane::Tied => vec![rank],
            Lane::World => self.ranks().collect(),
        }
    }
}
