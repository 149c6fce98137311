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
    /// Parameters, from the ranks that stepped them.
    Gather,
    /// Gradients, to the ranks that step them.
    Reduce,
    /// Activations, to the next stage.
    Down,
    /// Gradients of activations, to the previous stage.
    Up,
    /// Losses and the gradient norm.
    World,
}
pub const LANES: [Lane; 6] = [Lane::Compute, Lane::Gather, Lane::Reduce, Lane::Down, Lane::Up, Lane::World];

/// Sizes of the axes. Rank = stage * data + replica.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Mesh {
    pub data: usize,
    pub pipeline: usize,
    /// ZeRO stage 1: the optimizer state is sharded over the data-parallel group. Stage 0: everyone has it all.
    pub shard_optimizer: bool,
}

impl Mesh {
    pub const SOLO: Mesh = Mesh { data: 1, pipeline: 1, shard_optimizer: false };

    pub fn world(&self) -> usize {
        self.data * self.pipeline
    }
    pub fn ranks(&self) -> impl Iterator<Item = RankId> + use<> {
        (0..self.world()).map(RankId)
    }
    pub fn stage(&self, rank: RankId) -> Stage {
        Stage(rank.0 / self.data)
    }
    /// Index in the data-parallel group.
    pub fn replica(&self, rank: RankId) -> usize {
        rank.0 % self.data
    }
    pub fn is_last(&self, stage: Stage) -> bool {
        stage.0 + 1 == self.pipeline
    }

    /// The ranks that share a lane with `rank`, in group order.
    pub fn group(&self, rank: RankId, lane: Lane) -> Vec<RankId> {
        let (stage, replica) = (self.stage(rank).0, self.replica(rank));
        match lane {
            Lane::Compute => vec![rank],
            Lane::Gather | Lane::Reduce => (0..self.data).map(|r| RankId(stage * self.data + r)).collect(),
            Lane::Down | Lane::Up => (0..self.pipeline).map(|s| RankId(s * self.data + replica)).collect(),
            Lane::World => self.ranks().collect(),
        }
    }
}
