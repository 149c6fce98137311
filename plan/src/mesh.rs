//! Ranks, their place in the mesh, and the groups they talk in.
//!
//! Fastest to slowest: tensor, data, pipeline. The ranks at one place of the pipeline are a *plane* of data x tensor of them.
use crate::{Hop, Lane, Placement};
use model::{Tensor, TensorMode};
use std::fmt;

#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct RankId(pub usize);

/// A pipeline stage. With several chunks a rank has several of them (Narayanan et al. 2021, virtual pipeline).
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Stage(pub usize);

/// Sizes of the axes. Rank = (place * data + replica) * tensor + its index in the tensor-parallel group.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Mesh {
    pub tensor: Tensor,
    pub data: usize,
    pub pipeline: usize,
    /// Stages of a rank.
    pub chunks: usize,
    /// Which ranks have which stages.
    pub placement: Placement,
    /// Ranks that share the gradients of every micro-batch, and between uses the parameters: the weight group of `isp`, or the
    /// sharding group of ZeRO stages 2 and 3 (Rajbhandari et al. 2020). 1: everyone has them whole.
    pub weight: usize,
    /// Parameters stay whole all the same: ZeRO stage 2.
    pub whole_params: bool,
    /// Ranks of a sharding group, neighbours among those that have the same part: the optimizer state is cut over them (ZeRO
    /// stage 1; hybrid where groups are smaller than data parallelism). 1: everyone has it all.
    pub zero: usize,
    /// The same for embedding and head: as the original has it, in `isp` all of data parallelism.
    pub zero_ends: usize,
}

/// As commands print it: `data 2 x tensor 2 (msp) x pipeline 2, sharding groups of 2`.
impl fmt::Display for Mesh {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        let Tensor { mode, size } = self.tensor;
        write!(f, "data {}", self.data)?;
        if size > 1 {
            write!(f, " x tensor {size} ({})", mode.name())?;
        }
        write!(f, " x pipeline {}", self.pipeline)?;
        for (what, size) in [("weight", self.weight), ("sharding", self.zero)] {
            if size > 1 {
                write!(f, ", {what} groups of {size}")?;
            }
        }
        Ok(())
    }
}

/// How the ranks that add up the gradients of a bucket share it. Their index is (copy * zero + shard) * weight + part.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Sharing {
    pub weight: usize,
    pub zero: usize,
    pub copies: usize,
}

/// A rank's index among them.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Member {
    pub part: usize,
    pub shard: usize,
    pub copy: usize,
}

impl Sharing {
    pub fn ranks(&self) -> usize {
        self.weight * self.zero * self.copies
    }
    fn member(&self, index: usize) -> Member {
        let (part, rest) = (index % self.weight, index / self.weight);
        Member { part, shard: rest % self.zero, copy: rest / self.zero }
    }
}

impl Mesh {
    pub const SOLO: Mesh = Mesh {
        tensor: Tensor::ALONE,
        data: 1,
        pipeline: 1,
        chunks: 1,
        placement: Placement::Loop,
        weight: 1,
        whole_params: false,
        zero: 1,
        zero_ends: 1,
    };

    pub fn world(&self) -> usize {
        self.plane() * self.pipeline
    }
    /// Ranks at one place of the pipeline.
    pub fn plane(&self) -> usize {
        self.data * self.tensor.size
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
        rank.0 / self.plane()
    }
    /// The stages of a rank, in the order of the layers.
    pub fn stages_of(&self, rank: RankId) -> impl Iterator<Item = Stage> + Clone + use<> {
        self.placement.stages(self.place(rank), self.pipeline, self.chunks)
    }
    /// Is this one of the rank's stages?
    pub fn has(&self, rank: RankId, stage: Stage) -> bool {
        stage.0 < self.stages() && self.placement.place(stage, self.pipeline) == self.place(rank)
    }
    /// The way from a stage to the one before or after it.
    pub fn hop(&self, from: Stage, to: Stage) -> Hop {
        self.placement.hop(from, to, self.pipeline)
    }
    /// Are the first and the last stage on different ranks?
    pub fn ends_apart(&self) -> bool {
        self.placement.place(Stage(self.stages() - 1), self.pipeline) != 0
    }
    /// The first rank at a place of the pipeline.
    pub fn first(&self, place: usize) -> RankId {
        RankId(place * self.plane())
    }
    /// Index in the tensor-parallel group.
    pub fn tensor_rank(&self, rank: RankId) -> usize {
        rank.0 % self.tensor.size
    }
    /// Index in the data-parallel group.
    pub fn replica(&self, rank: RankId) -> usize {
        rank.0 % self.plane() / self.tensor.size
    }
    pub fn is_last(&self, stage: Stage) -> bool {
        stage.0 + 1 == self.stages()
    }
    /// In `isp` the members of a tensor-parallel group have different tokens and the same blocks: gradients of blocks are added
    /// up over the whole plane.
    pub fn sums_over_plane(&self) -> bool {
        self.tensor.mode == TensorMode::Isp
    }
    /// Replicas that share the gradients of a micro-batch: it is then one of each that is added up first.
    pub fn replicas_at_once(&self) -> usize {
        if self.sums_over_plane() { (self.weight / self.tensor.size).max(1) } else { self.weight }
    }

    /// Of the buckets of blocks.
    pub fn sharing(&self) -> Sharing {
        let Mesh { weight, zero, .. } = *self;
        let ranks = if self.sums_over_plane() { self.plane() } else { self.data };
        Sharing { weight, zero, copies: ranks / (weight * zero) }
    }
    /// Of those of embedding and head.
    pub fn sharing_of_ends(&self) -> Sharing {
        match self.sums_over_plane() {
            true => Sharing { weight: 1, zero: self.zero_ends, copies: self.data / self.zero_ends },
            false => self.sharing(),
        }
    }
    pub(crate) fn member(&self, rank: RankId) -> Member {
        self.sharing().member(self.index(rank))
    }
    pub(crate) fn member_of_ends(&self, rank: RankId) -> Member {
        self.sharing_of_ends().member(self.replica(rank))
    }
    /// Among those that add up gradients of blocks.
    fn index(&self, rank: RankId) -> usize {
        if self.sums_over_plane() { rank.0 % self.plane() } else { self.replica(rank) }
    }

    /// The ranks that share a communicator with this lane of `rank`, in group order. With `kv_sharers` members of a tensor-parallel
    /// group that have the same key/value head.
    pub(crate) fn group(&self, rank: RankId, lane: Lane, kv_sharers: usize) -> Vec<RankId> {
        let (place, plane) = (self.place(rank), self.plane());
        let (in_plane, size) = (rank.0 % plane, self.tensor.size);
        let at = |place: usize| RankId(place * plane + in_plane);
        let [previous, next] = self.placement.neighbours(place, self.pipeline, self.chunks).map(|place| place.map(at));
        let v = |rank: Option<RankId>| rank.filter(|_| self.placement == Placement::V);
        let link = |from: Option<RankId>, to: Option<RankId>| match (from, to) {
            (Some(from), Some(to)) => vec![from, to],
            _ => vec![rank],
        };
        let run = |first: usize, n: usize, step: usize| (0..n).map(move |i| RankId(first + i * step)).collect();
        let data = || run(rank.0 - in_plane + in_plane % size, self.data, size);
        // Of those that add up gradients of blocks: n of them, `step` apart, beginning with the one whose index is smallest.
        let Sharing { weight, zero, copies } = self.sharing();
        let unit = if self.sums_over_plane() { 1 } else { size };
        let index = self.index(rank);
        let sharers = |n: usize, step: usize| run(rank.0 - index / step % n * step * unit, n, step * unit);
        match lane {
            Lane::Compute => vec![rank],
            Lane::Tensor => run(rank.0 - rank.0 % size, size, 1),
            Lane::Kv => run(rank.0 - rank.0 % kv_sharers, kv_sharers, 1),
            Lane::Unshard if self.whole_params => vec![rank],
            Lane::Unshard | Lane::Scatter => sharers(weight, 1),
            Lane::Gather if self.whole_params => sharers(weight, 1),
            Lane::Gather | Lane::Reduce => sharers(zero, weight),
            Lane::Replicas => sharers(copies, weight * zero),
            Lane::GatherEnds | Lane::ReduceEnds if self.sums_over_plane() => data(),
            Lane::GatherEnds | Lane::ReduceEnds => vec![rank],
            Lane::Data => data(),
            Lane::SendDown => link(Some(rank), next),
            Lane::RecvDown => link(previous, Some(rank)),
            Lane::SendUp => link(Some(rank), previous),
            Lane::RecvUp => link(next, Some(rank)),
            Lane::SendRising => link(Some(rank), v(previous)),
            Lane::RecvRising => link(v(next), Some(rank)),
            Lane::SendFalling => link(Some(rank), v(next)),
            Lane::RecvFalling => link(v(previous), Some(rank)),
            Lane::Tied if self.ends_apart() && (place == 0 || place + 1 == self.pipeline) => {
                [0, self.pipeline - 1].map(at).into()
            }
            Lane::Tied => vec![rank],
            Lane::World => self.ranks().collect(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::LANES;

    fn groups(mesh: Mesh, lane: Lane) -> Vec<Vec<usize>> {
        let mut out: Vec<Vec<usize>> =
            mesh.ranks().map(|r| mesh.group(r, lane, 1).into_iter().map(|r| r.0).collect()).collect();
        out.sort();
        out.dedup();
        out
    }

    /// The examples of the original's groups: 8 ranks, tensor 2, pipeline 2, zero1 2.
    #[test]
    fn groups_are_those_of_the_original() {
        let mesh =
            Mesh { tensor: Tensor { mode: TensorMode::Msp, size: 2 }, data: 2, pipeline: 2, zero: 2, ..Mesh::SOLO };
        assert_eq!(groups(mesh, Lane::Tensor), [[0, 1], [2, 3], [4, 5], [6, 7]]);
        assert_eq!(groups(mesh, Lane::Data), [[0, 2], [1, 3], [4, 6], [5, 7]]);
        assert_eq!(groups(mesh, Lane::Reduce), groups(mesh, Lane::Data));
        assert_eq!(groups(mesh, Lane::Tied), [[0, 4], [1, 5], [2, 6], [3, 7]]);
        assert_eq!(groups(mesh, Lane::Unshard).len(), 8);
    }

    /// Weight and tensor groups are both contiguous and independent: tensor 2, weight 4 and the other way round.
    #[test]
    fn weight_and_tensor_groups_are_independent() {
        let isp = |size, weight, zero| Mesh {
            tensor: Tensor { mode: TensorMode::Isp, size },
            data: 8 / size,
            weight,
            zero,
            zero_ends: 8 / size,
            ..Mesh::SOLO
        };
        let wide = isp(2, 4, 2);
        assert_eq!(groups(wide, Lane::Tensor), [[0, 1], [2, 3], [4, 5], [6, 7]]);
        assert_eq!(groups(wide, Lane::Unshard), [[0, 1, 2, 3], [4, 5, 6, 7]]);
        assert_eq!(groups(wide, Lane::Reduce), [[0, 4], [1, 5], [2, 6], [3, 7]]);
        assert_eq!(groups(wide, Lane::ReduceEnds), [[0, 2, 4, 6], [1, 3, 5, 7]]);
        let narrow = isp(4, 2, 2);
        assert_eq!(groups(narrow, Lane::Unshard), [[0, 1], [2, 3], [4, 5], [6, 7]]);
        assert_eq!(groups(narrow, Lane::Reduce), [[0, 2], [1, 3], [4, 6], [5, 7]]);
        assert_eq!(groups(narrow, Lane::Replicas), [[0, 4], [1, 5], [2, 6], [3, 7]]);
        assert_eq!((wide.replicas_at_once(), narrow.replicas_at_once()), (2, 1));
    }

    /// Whatever the sizes, every rank is at its own place of each of its groups, and all members see the same group.
    #[test]
    fn members_agree_about_their_groups() {
        for mode in [TensorMode::Mtp, TensorMode::Isp] {
            for (size, data, pipeline, weight, zero) in
                [(2, 4, 2, 2, 2), (2, 4, 1, 4, 1), (4, 2, 2, 2, 1), (1, 6, 2, 3, 2), (3, 4, 1, 4, 1)]
            {
                let mesh = Mesh { tensor: Tensor { mode, size }, data, pipeline, weight, zero, ..Mesh::SOLO };
                for lane in LANES {
                    for rank in mesh.ranks() {
                        let group = mesh.group(rank, lane, 1);
                        assert!(group.contains(&rank), "{mesh:?} {lane:?} {rank:?}");
                        let other = |r: &RankId| mesh.group(*r, if *r == rank { lane } else { lane.other_end() }, 1);
                        assert!(group.iter().all(|r| other(r) == group), "{mesh:?} {lane:?} {group:?}");
                    }
                }
            }
        }
    }
}
