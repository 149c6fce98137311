//! Ranks, their place in the mesh, and the groups they talk in.

#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct RankId(pub usize);

/// A pipeline stage. With several chunks a rank has several of them (Narayanan et al. 2021, virtual pipeline).
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
            Lane::Compute | Lane::Gather | Lane::Reduce | Lane::Replicas | Lane::Data | Lane::Tied | Lane::World => {
                self
            }
        }
    }
}

/// Sizes of the axes. Rank = place * data + replica, and replica = copy * zero + shard. Stage s is on the ranks whose place
/// in the pipeline is s mod `pipeline`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Mesh {
    pub data: usize,
    pub pipeline: usize,
    /// Stages of a rank.
    pub chunks: usize,
    /// Ranks of a sharding group, neighbours in the data-parallel group: the optimizer state is cut over them (ZeRO stage
    /// 1, Rajbhandari et al. 2020; hybrid where groups are smaller than data parallelism). 1: everyone has it all.
    pub zero: usize,
}

impl Mesh {
    pub const SOLO: Mesh = Mesh { data: 1, pipeline: 1, chunks: 1, zero: 1 };

    pub fn world(&self) -> usize {
        self.data * self.pipeline
    }
    pub fn ranks(&self) -> impl Iterator<Item = RankId> + use<> {
        (0..self.world()).map(RankId)
    }
    /// Of the whole pipeline.
    pub fn stages(&self) -> usize {
        self.pipeline * self.chunks
    }
    /// Index in the pipeline.
    pub fn place(&self, rank: RankId) -> usize {
        rank.0 / self.data
    }
    /// The stages of a rank, in the order of the layers.
    pub fn stages_of(&self, rank: RankId) -> impl Iterator<Item = Stage> + Clone + use<> {
        (self.place(rank)..self.stages()).step_by(self.pipeline).map(Stage)
    }
    /// Is this one of the rank's stages?
    pub fn has(&self, rank: RankId, stage: Stage) -> bool {
        stage.0 % self.pipeline == self.place(rank) && stage.0 < self.stages()
    }
    /// The first rank at a place of the pipeline.
    pub fn first(&self, place: usize) -> RankId {
        RankId(place * self.data)
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
        stage.0 + 1 == self.stages()
    }

    /// The ranks that share a communicator with this lane of `rank`, in group order.
    pub fn group(&self, rank: RankId, lane: Lane) -> Vec<RankId> {
        let (place, replica) = (self.place(rank), self.replica(rank));
        // With several chunks the pipeline is a ring.
        let at = |place: usize| RankId(place % self.pipeline * self.data + replica);
        let next = (place + 1 < self.pipeline || self.chunks > 1).then(|| at(place + 1));
        let previous = (place > 0 || self.chunks > 1).then(|| at(place + self.pipeline - 1));
        let link = |from: Option<RankId>, to: Option<RankId>| match (from, to) {
            (Some(from), Some(to)) => vec![from, to],
            _ => vec![rank],
        };
        match lane {
            Lane::Compute => vec![rank],
            Lane::Gather | Lane::Reduce => {
                let first = place * self.data + self.copy(rank) * self.zero;
                (first..first + self.zero).map(RankId).collect()
            }
            Lane::Replicas => {
                let first = place * self.data + self.shard(rank);
                (0..self.copies()).map(|copy| RankId(first + copy * self.zero)).collect()
            }
            Lane::Data => (0..self.data).map(|r| RankId(place * self.data + r)).collect(),
            Lane::SendDown => link(Some(rank), next),
            Lane::RecvDown => link(previous, Some(rank)),
            Lane::SendUp => link(Some(rank), previous),
            Lane::RecvUp => link(next, Some(rank)),
            Lane::Tied if self.pipeline > 1 && (place == 0 || place + 1 == self.pipeline) => {
                [0, self.pipeline - 1].map(|s| RankId(s * self.data + replica)).into()
            }
            Lane::Tied => vec![rank],
            Lane::World => self.ranks().collect(),
        }
    }
}
