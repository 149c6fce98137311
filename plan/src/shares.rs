//! Which part of a bucket a rank keeps, steps and counts.
//!
//! A bucket's gradients are added up by `weight x zero x copies` ranks ([`Sharing`]). Cut into as many shards, a rank keeps a run of
//! `zero x copies` of them, steps a run of `copies`, and counts one for the gradient norm.
use crate::{Lane, Member, Place, Plan, RankId, Res, Sharing};
use model::{ParamSpec, Split, Stretch, Unit};
use std::ops::Range;

impl Plan {
    pub fn is_end(&self, unit: Unit) -> bool {
        unit == Unit(0) || unit == self.model.head()
    }
    pub fn sharing(&self, unit: Unit) -> Sharing {
        if self.is_end(unit) { self.mesh.sharing_of_ends() } else { self.mesh.sharing() }
    }
    pub fn member(&self, unit: Unit, rank: RankId) -> Member {
        if self.is_end(unit) { self.mesh.member_of_ends(rank) } else { self.mesh.member(rank) }
    }

    /// Are the gradients of every micro-batch cut over the weight group?
    pub fn scatters(&self, unit: Unit) -> bool {
        self.sharing(unit).weight > 1
    }
    /// Are the parameters whole only while they are used?
    pub fn unshards(&self, unit: Unit) -> bool {
        self.scatters(unit) && !self.mesh.whole_params
    }
    /// Do stepped parameters come from several ranks?
    pub fn gathers(&self, unit: Unit) -> bool {
        let Sharing { weight, zero, .. } = self.sharing(unit);
        zero > 1 || (weight > 1 && self.mesh.whole_params)
    }
    /// What a computation reads of a unit's parameters.
    pub fn weights(&self, unit: Unit) -> Res {
        if self.unshards(unit) { Res::Unsharded(unit) } else { Res::Param(unit) }
    }

    /// Part of a bucket whose gradients a rank keeps.
    pub fn part_range(&self, unit: Unit, rank: RankId) -> Range<usize> {
        let (Sharing { zero, copies, .. }, Member { part, .. }) = (self.sharing(unit), self.member(unit, rank));
        self.bucket(unit).run(part * zero * copies..(part + 1) * zero * copies)
    }
    /// Part of a bucket whose parameters a rank keeps.
    pub fn kept(&self, unit: Unit, rank: RankId) -> Range<usize> {
        if self.unshards(unit) { self.part_range(unit, rank) } else { 0..self.bucket(unit).padded }
    }
    /// Part of a bucket whose optimizer state a rank holds, and that it steps.
    pub fn stepped(&self, unit: Unit, rank: RankId) -> Range<usize> {
        let (Sharing { zero, copies, .. }, Member { part, shard, .. }) = (self.sharing(unit), self.member(unit, rank));
        let run = (part * zero + shard) * copies;
        self.bucket(unit).run(run..run + copies)
    }
    /// Part of a bucket whose squares a rank adds up for the norm: its own of what the ranks with the same shard hold.
    pub fn squared(&self, unit: Unit, rank: RankId) -> Range<usize> {
        let (Sharing { zero, copies, .. }, Member { part, shard, copy }) =
            (self.sharing(unit), self.member(unit, rank));
        self.bucket(unit).filled((part * zero + shard) * copies + copy)
    }

    /// The lane of a unit's sums over sharding groups, and of what they gather.
    pub fn lane_of(&self, unit: Unit, lane: Lane) -> Lane {
        match lane {
            _ if !(self.is_end(unit) && self.mesh.sums_over_plane()) => lane,
            Lane::Reduce | Lane::Replicas => Lane::ReduceEnds,
            Lane::Gather => Lane::GatherEnds,
            lane => lane,
        }
    }

    // ---- over a tensor-parallel group ---------------------------------------------------------------------------------

    /// Does a tensor-parallel group cut this bucket?
    pub fn is_cut(&self, unit: Unit) -> bool {
        self.mesh.tensor.cuts(self.is_end(unit))
    }

    /// Part of a bucket that every member has whole, with a gradient that is a part of the sum over the group: of its tokens, or
    /// of its heads.
    pub fn partial(&self, unit: Unit) -> Range<usize> {
        let tokens = self.mesh.tensor.cuts_tokens();
        let is_partial = |spec: &&ParamSpec| match spec.split {
            Split::Whole => tokens,
            Split::PerHead => true,
            Split::Rows | Split::KvRows | Split::Columns => false,
        };
        let params = if self.is_cut(unit) { self.part.params(unit) } else { vec![] };
        let mut ranges = params.iter().filter(is_partial).map(|spec| spec.offset..spec.offset + spec.len());
        let first = ranges.next().unwrap_or(0..0);
        ranges.fold(first, |all, range| {
            assert_eq!(all.end, range.start, "what every member has whole lies together");
            all.start..range.end
        })
    }

    /// Runs of a bucket that several members have: key/value heads, where there are fewer than members.
    pub fn shared_heads(&self, unit: Unit) -> Vec<Range<usize>> {
        let mut out: Vec<Range<usize>> = vec![];
        if self.kv_sharers() == 1 || !self.is_cut(unit) {
            return out;
        }
        for spec in self.part.params(unit).iter().filter(|spec| spec.split == Split::KvRows) {
            match out.last_mut() {
                Some(last) if last.end == spec.offset => last.end += spec.len(),
                _ => out.push(spec.offset..spec.offset + spec.len()),
            }
        }
        out
    }

    /// Parameters of a unit as a rank has them, each with the one of the model that it is a part of.
    pub fn params(&self, unit: Unit) -> Vec<(ParamSpec, ParamSpec)> {
        self.part.params(unit).into_iter().zip(self.model.params(unit)).collect()
    }

    /// Where elements `range` of what a rank has of a parameter stand in the whole.
    pub fn stretches(&self, rank: RankId, part: &ParamSpec, whole: &ParamSpec, range: Range<usize>) -> Vec<Stretch> {
        model::stretches(part, whole, self.mesh.tensor_rank(rank), self.mesh.tensor.size, range)
    }

    /// Of the ranks that hold the same elements of a parameter, is this the one that tells them to others?
    pub fn tells(&self, rank: RankId, part: &ParamSpec) -> bool {
        let (index, kv) = (self.mesh.tensor_rank(rank), self.model.heads.kv);
        let first_of_tensor = !self.is_cut(part.unit) || self.mesh.tensor.is_first_with(part.split, kv, index);
        self.member(part.unit, rank).copy == 0 && first_of_tensor
    }

    /// Where a computation puts the gradients of a micro-batch.
    pub fn grad_to(&self, unit: Unit, m: crate::Micro, place: Place) -> Res {
        if self.scatters(unit) { Res::Unreduced(unit, m) } else { Res::Grad(unit, place) }
    }
}
