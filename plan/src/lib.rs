//! Who holds what: which ranks form which groups, which units a stage has, how buckets are cut into shards, and where
//! every byte of a rank lies. Only shapes and indices; nothing here runs.
//!
//! Read [`mesh`] (ranks and groups), [`bucket`] (shards), [`res`] (what there is to hold), [`memory`] (where it lies).
mod bucket;
mod config;
mod lane;
mod memory;
mod mesh;
mod placement;
mod problems;
mod recompute;
mod res;
mod shares;
pub mod split;
mod terms;

pub use bucket::{Bucket, DecayRun};
pub use config::{ParallelConfig, PipelineConfig, PipelineSchedule, SizeConfig, TensorConfig, ZeroConfig};
pub use lane::{LANES, Lane};
pub use memory::{Life, Memory, Persistent};
pub use mesh::{Member, Mesh, RankId, Sharing, Stage};
pub use placement::{Hop, Placement};
pub use recompute::{Again, Recompute, Selective};
pub use res::{Micro, Place, Res, Size};
pub use terms::Squares;

use backend::DType;
use model::{Decoder, ParamSpec, Phase, Unit, Work};
use std::ops::Range;
use terms::Terms;

/// Everything that a run's programs depend on.
#[derive(Clone, PartialEq, Debug)]
pub struct Plan {
    pub model: Decoder,
    /// What a rank has of it: a part, where a tensor-parallel group cuts it.
    pub part: Decoder,
    pub mesh: Mesh,
    /// Parameters and activations. Optimizer state is kept in its precise type.
    pub dtype: DType,
    /// Gradients of parameters: the precise type too, or that of parameters.
    pub grads: DType,
    /// What is made again in the backward instead of being kept.
    pub recompute: Recompute,
    /// Types of tokens, K: losses are also summed by type.
    pub types: usize,
    /// Rows of the rope table: the longest segment or context.
    pub positions: usize,
    /// `train.reproducible`: leaves of the sum over the global batch, or 0 for one leaf a rank.
    pub leaves: usize,
    /// Layers of each stage; none: split evenly.
    pub split: Option<Vec<usize>>,
    /// The backward is made in two halves, and what the second one needs is kept (zero-bubble schedules).
    pub split_backward: bool,
    buckets: Vec<UnitBucket>,
    /// Terms of the gradient norm.
    terms: Terms,
}

/// What there is to know of a unit's bucket.
#[derive(Clone, PartialEq, Debug)]
struct UnitBucket {
    bucket: Bucket,
    decay: Vec<DecayRun>,
}

/// The shape of one program: what it is for, and how much it takes at once.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Hash)]
pub struct StepShape {
    pub phase: Phase,
    /// Tokens of a micro-batch.
    pub t: usize,
    /// Micro-batches of this rank.
    pub micros: usize,
}

impl Plan {
    pub fn new(model: Decoder, mesh: Mesh, dtype: DType, positions: usize, leaves: usize) -> Plan {
        let part = model.part(mesh.tensor);
        let bucket = |u| {
            let params = part.params(u);
            let ends = u == Unit(0) || u == part.head();
            let shards = if ends { mesh.sharing_of_ends() } else { mesh.sharing() }.ranks();
            let bucket = Bucket::new(params.iter().map(ParamSpec::len).sum(), shards);
            UnitBucket { bucket, decay: bucket::decay_runs(&params) }
        };
        let buckets: Vec<UnitBucket> = model.unit_range().map(bucket).collect();
        let terms = Terms::new(&part, mesh.tensor, model.heads.kv, &buckets);
        Plan {
            model,
            part,
            mesh,
            dtype,
            grads: dtype.precise(),
            recompute: Recompute::NONE,
            types: 1,
            positions,
            leaves,
            split: None,
            split_backward: false,
            buckets,
            terms,
        }
    }

    pub fn layers(&self, stage: Stage) -> Range<usize> {
        split::layers(&self.split, self.model.layers, self.mesh.stages(), stage)
    }

    /// Units of a stage: its layers; the ends belong to the first and the last.
    pub fn units(&self, stage: Stage) -> Range<usize> {
        let layers = self.layers(stage);
        let first = if stage.0 == 0 { 0 } else { 1 + 2 * layers.start };
        first..if self.mesh.is_last(stage) { self.model.units() } else { 1 + 2 * layers.end }
    }

    /// The bucket that the first and the last stage both hold and step: that of tied embeddings. Its gradients are summed
    /// between them.
    pub fn tied_across(&self) -> Option<Unit> {
        (self.model.tied && self.mesh.ends_apart()).then(|| self.model.head_matrix_unit())
    }

    /// One rank has both ends of a pipeline and tied embeddings: it comes back to the embedding when the head has been at other
    /// micro-batches, so their gradients are not added in turn.
    pub fn tied_in_a_v(&self) -> bool {
        self.model.tied && self.mesh.pipeline > 1 && !self.mesh.ends_apart()
    }

    pub fn stage_of(&self, unit: Unit) -> Stage {
        let mut stages = (0..self.mesh.stages()).map(Stage);
        stages.find(|s| self.units(*s).contains(&unit.0)).expect("every unit has a stage")
    }

    /// Units that a rank computes.
    pub fn computed(&self, rank: RankId) -> Vec<Unit> {
        self.mesh.stages_of(rank).flat_map(|stage| self.units(stage)).map(Unit).collect()
    }

    /// Units whose parameters a rank holds: those that it computes, and at the end of a pipeline tied embeddings.
    pub fn held(&self, rank: RankId) -> Vec<Unit> {
        let copy = self.tied_across().filter(|_| self.mesh.place(rank) + 1 == self.mesh.pipeline);
        self.computed(rank).into_iter().chain(copy).collect()
    }

    /// Buckets that have the gradients of a micro-batch once the backward of a unit has been.
    pub fn completes(&self, unit: Unit) -> impl Iterator<Item = Unit> + use<> {
        let copy = self.tied_across().filter(|_| unit == self.model.head());
        [unit].into_iter().chain(copy)
    }

    pub fn bucket(&self, unit: Unit) -> Bucket {
        self.buckets[unit.0].bucket
    }

    /// Runs of a unit's bucket with and without weight decay, as far as they lie in `within`.
    pub fn decay_runs(&self, unit: Unit, within: Range<usize>) -> impl Iterator<Item = DecayRun> + '_ {
        self.buckets[unit.0].decay.iter().filter_map(move |run| {
            let range = run.range.start.max(within.start)..run.range.end.min(within.end);
            (!range.is_empty()).then_some(DecayRun { range, decay: run.decay })
        })
    }

    /// The ranks that share a communicator with this lane of `rank`, in group order.
    pub fn group(&self, rank: RankId, lane: Lane) -> Vec<RankId> {
        self.mesh.group(rank, lane, self.kv_sharers())
    }

    /// So many members of a tensor-parallel group have the same key/value head.
    pub fn kv_sharers(&self) -> usize {
        self.mesh.tensor.kv_sharers(self.model.heads.kv)
    }

    /// What a rank computes of a micro-batch.
    pub fn work(&self, shape: StepShape) -> Work<'_> {
        Work { model: &self.part, tensor: self.mesh.tensor, phase: shape.phase, t: shape.t, dtype: self.dtype }
    }

    /// Numbers that the head writes for a micro-batch: its loss, then three sums for each type of tokens.
    pub fn stats_per_micro(&self) -> usize {
        1 + 3 * self.types
    }

    /// Master weights: parameters whose type is too coarse to step are kept a second time, with the optimizer.
    pub fn has_master(&self) -> bool {
        self.dtype != self.dtype.precise()
    }

    /// Micro-batches of a global step.
    pub fn global_micros(&self, shape: StepShape) -> usize {
        shape.micros * self.mesh.data
    }

    /// Which micro-batch of the global step is number `m` of a rank, so that sums are whole subtrees of one tree over the global
    /// index: contiguous runs where a rank adds up its own first, and in turn where a weight group adds up one of each.
    pub fn global_micro(&self, rank: RankId, m: Micro, shape: StepShape) -> usize {
        let (replica, at_once) = (self.mesh.replica(rank), self.mesh.replicas_at_once());
        (replica / at_once * shape.micros + m.0) * at_once + replica % at_once
    }

    /// The leaf of the gradient sum that a rank's micro-batch belongs to: a run that the kernels accumulate.
    pub fn leaf(&self, m: Micro, shape: StepShape) -> usize {
        let local = (self.leaves / self.mesh.data).max(1);
        m.0 * local / shape.micros
    }

    /// Where leaf `i` is accumulated, and how many merges follow it: a binary counter. Leaf 0 goes to place 0, leaf 1 to
    /// place 1 and is merged once, leaf 2 to place 1, leaf 3 to place 2 and is merged twice, and so on.
    pub fn place(&self, leaf: usize) -> (Place, usize) {
        (Place(leaf.count_ones() as usize), leaf.trailing_ones() as usize)
    }
}
