//! Who holds what: which ranks form which groups, which units a stage has, how buckets are cut into shards, and where
//! every byte of a rank lies. Only shapes and indices; nothing here runs.
//!
//! Read [`mesh`] (ranks and groups), [`bucket`] (shards), [`res`] (what there is to hold), [`memory`] (where it lies).
mod bucket;
mod config;
mod memory;
mod mesh;
mod placement;
mod recompute;
mod res;
pub mod split;

pub use bucket::{Bucket, DecayRun};
pub use config::{ParallelConfig, PipelineConfig, PipelineSchedule, SizeConfig, TensorConfig, TensorMode, ZeroConfig};
pub use memory::{Life, Memory, Persistent};
pub use mesh::{LANES, Lane, Mesh, RankId, Stage};
pub use placement::{Hop, Placement};
pub use recompute::{Again, Recompute, Selective};
pub use res::{Micro, Place, Res, Size};

use backend::DType;
use model::{Decoder, ParamSpec, Phase, Unit};
use std::ops::Range;

/// Everything that a run's programs depend on.
#[derive(Clone, PartialEq, Debug)]
pub struct Plan {
    pub model: Decoder,
    pub mesh: Mesh,
    /// Parameters and activations. Gradients and optimizer state are kept in its precise type.
    pub dtype: DType,
    /// What is made again in the backward instead of being kept.
    pub recompute: Recompute,
    /// Types of tokens, K: losses are also summed by type.
    pub types: usize,
    /// Rows of the rope table: the longest segment or context.
    pub positions: usize,
    /// `train.reproducible`: leaves of the sum over the global batch, or 0 for one leaf a rank.
    pub leaves: usize,
    buckets: Vec<UnitBucket>,
}

/// What there is to know of a unit's bucket.
#[derive(Clone, PartialEq, Debug)]
struct UnitBucket {
    bucket: Bucket,
    /// Chunks of all buckets before it.
    first_chunk: usize,
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
        let mut chunks = 0;
        let bucket = |u| {
            let params = model.params(u);
            let bucket = Bucket::new(params.iter().map(ParamSpec::len).sum(), mesh.data);
            chunks += bucket.chunks();
            UnitBucket { bucket, first_chunk: chunks - bucket.chunks(), decay: bucket::decay_runs(&params) }
        };
        let buckets = model.unit_range().map(bucket).collect();
        let (recompute, types) = (Recompute::NONE, 1);
        Plan { model, mesh, dtype, recompute, types, positions, leaves, buckets }
    }

    /// Layers of a stage: split evenly.
    pub fn layers(&self, stage: Stage) -> Range<usize> {
        let (layers, stages) = (self.model.layers, self.mesh.stages());
        layers * stage.0 / stages..layers * (stage.0 + 1) / stages
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
        (self.model.tied && self.mesh.pipeline > 1).then(|| self.model.head_matrix_unit())
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

    /// Where a bucket's sums of squares stand among those of all buckets.
    pub fn first_chunk(&self, unit: Unit) -> usize {
        self.buckets[unit.0].first_chunk
    }
    pub fn chunks(&self) -> usize {
        self.buckets.iter().map(|unit| unit.bucket.chunks()).sum()
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

    /// Which micro-batch of the global step is number `m` of a rank: contiguous runs, so that a rank's sums are whole
    /// subtrees of one tree over the global index.
    pub fn global_micro(&self, rank: RankId, m: Micro, shape: StepShape) -> usize {
        self.mesh.replica(rank) * shape.micros + m.0
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

    /// A run whose numbers cannot be laid out as asked. Keys are those of the run's config.
    pub fn problems(&self, micro_batches: usize) -> Vec<String> {
        let mut out = vec![];
        let (data, stages, layers) = (self.mesh.data, self.mesh.stages(), self.model.layers);
        if stages > layers {
            let (size, chunks) = (self.mesh.pipeline, self.mesh.chunks);
            out.push(match chunks {
                1 => format!(
                    "parallel.pipeline.size = {size} is more than model.num_hidden_layers = {layers}; try {layers} or less"
                ),
                _ => format!(
                    "parallel.pipeline.size = {size} x chunks = {chunks} stages are more than model.num_hidden_layers = {layers}; lower one of them"
                ),
            });
        }
        let n = self.leaves;
        if n > 0 {
            let global = micro_batches * data;
            if !n.is_power_of_two() {
                out.push(format!("train.reproducible = {n} is not a power of two; try {}", n.next_power_of_two()));
            } else if !global.is_multiple_of(n) {
                out.push(format!(
                    "train.reproducible = {n} does not divide the {global} micro-batches of a step (train.micro_batches = {micro_batches} x {data} data-parallel ranks)"
                ));
            } else if !n.is_multiple_of(data) {
                out.push(format!(
                    "train.reproducible = {n} is not a multiple of the data-parallel size {data}; try {}",
                    data.next_power_of_two()
                ));
            }
        }
        out
    }
}
