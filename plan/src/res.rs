//! What actions read and write: names of memory, by index. The bytes are in [`crate::memory`].
use crate::{Plan, RankId, StepShape};
use backend::{DType, Region, View};
use model::{Inputs, Phase, TensorMode, Unit, UnitKind, block, ends};
use std::fmt;

/// Number of a micro-batch on its rank.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Micro(pub usize);

/// One of the gradient buffers of a bucket: place 0 holds the sum, the others partial sums of the tree.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Place(pub usize);

#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Res {
    // Persistent: the same place in every program of a run.
    /// What a rank keeps of a unit's bucket of parameters.
    Param(Unit),
    /// Adam's two moments of this rank's shard, then master weights if there are.
    Opt(Unit),
    /// Of what it keeps, gradients of its micro-batches.
    Grad(Unit, Place),
    /// f64: what the head writes for each micro-batch of the global step, then the sum of squares of each chunk.
    Stats,
    /// f64: labels of the global step.
    Count,
    /// f64: what `Op::GradNorm` writes.
    Norm,
    /// f64: learning rate, bias corrections, beta2.
    Hyper,
    /// f64: the loss scale and its two counters.
    Scale,
    /// Cosines and sines.
    RopeTable,
    /// Keys and values of one layer.
    Cache(Unit),
    /// The wanted row of logits.
    Logits,

    // Planned: alive for a part of one program.
    /// u32 inputs of a micro-batch.
    Batch(Micro),
    /// Output of a unit: the residual stream after it.
    X(Unit, Micro),
    /// What a unit keeps from forward to backward.
    Saved(Unit, Micro),
    /// What a unit's computation needs meanwhile.
    Tmp(Unit, Micro),
    /// What the second half of a split backward needs of the first.
    Late(Unit, Micro),
    /// Gradient of the residual stream.
    Dx(Micro),
    /// A unit's whole bucket, where a rank keeps a part.
    Unsharded(Unit),
    /// Gradients of one micro-batch, whole, where a rank keeps a part.
    Unreduced(Unit, Micro),
}

impl Res {
    pub fn is_persistent(self) -> bool {
        match self {
            Res::Param(_) | Res::Opt(_) | Res::Grad(..) | Res::Cache(_) => true,
            Res::Stats | Res::Count | Res::Norm | Res::Hyper | Res::Scale | Res::RopeTable | Res::Logits => true,
            Res::Batch(_) | Res::X(..) | Res::Saved(..) | Res::Tmp(..) | Res::Dx(_) => false,
            Res::Late(..) | Res::Unsharded(_) | Res::Unreduced(..) => false,
        }
    }
}

/// Kind of memory, element and number of elements.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Size {
    pub region: Region,
    pub dtype: DType,
    pub len: usize,
}

impl Plan {
    pub fn size(&self, res: Res, rank: RankId, shape: StepShape) -> Size {
        let (m, t) = (&self.model, shape.t);
        let stats = self.global_micros(shape) * self.stats_per_micro() + self.terms();
        let states = if self.has_master() { 3 } else { 2 };
        let (region, dtype, len) = match res {
            Res::Param(u) => (Region::Param, self.dtype, self.kept(u, rank).len()),
            Res::Unsharded(u) => (Region::Act, self.dtype, self.bucket(u).padded),
            Res::Unreduced(u, _) => (Region::Act, self.grads, self.bucket(u).padded),
            Res::Opt(u) => (Region::Optim, self.dtype.precise(), states * self.stepped(u, rank).len()),
            Res::Grad(u, _) => (Region::Grad, self.grads, self.part_range(u, rank).len()),
            Res::Stats => (Region::Misc, DType::F64, stats),
            Res::Count => (Region::Misc, DType::F64, 1),
            Res::Norm => (Region::Misc, DType::F64, 3),
            Res::Hyper => (Region::Misc, DType::F64, 4),
            Res::Scale => (Region::Misc, DType::F64, 3),
            Res::RopeTable => (Region::Misc, self.dtype.precise(), m.rope_table_len(self.positions)),
            Res::Cache(_) => (Region::Cache, self.dtype, 2 * self.positions * self.part.heads.kv * m.heads.dim),
            Res::Logits => (Region::Misc, self.dtype, self.part.vocab * self.mesh.tensor.size),
            Res::Batch(_) => (Region::Act, DType::U32, Inputs::slab(t, shape.phase)),
            Res::X(..) | Res::Dx(_) => (Region::Act, self.dtype, self.mesh.tensor.rows(t) * m.hidden),
            Res::Saved(u, _) => (Region::Act, self.dtype, self.saved(u, shape)),
            Res::Tmp(u, _) => (Region::Act, self.dtype, self.tmp(u, shape)),
            Res::Late(u, _) => (Region::Act, self.dtype, self.late(u, shape)),
        };
        Size { region, dtype, len }
    }

    fn saved(&self, unit: Unit, shape: StepShape) -> usize {
        let work = self.work(shape);
        match self.model.kind(unit) {
            UnitKind::Embedding => 0,
            UnitKind::Attention { .. } => View::carved(self.dtype, &block::attention_saved(&work)),
            UnitKind::Mlp { .. } => View::carved(self.dtype, &block::mlp_saved(&work)),
            UnitKind::Head => View::carved(self.dtype, &ends::head_saved(&work)),
        }
    }

    fn tmp(&self, unit: Unit, shape: StepShape) -> usize {
        let work = self.work(shape);
        match self.model.kind(unit) {
            UnitKind::Embedding => View::carved(self.dtype, &ends::embedding_tmp(&work)),
            UnitKind::Attention { .. } => View::carved(self.dtype, &block::attention_tmp(&work)),
            UnitKind::Mlp { .. } => View::carved(self.dtype, &block::mlp_tmp(&work)),
            UnitKind::Head => View::carved(self.dtype, &ends::head_tmp(&work)),
        }
    }

    fn late(&self, unit: Unit, shape: StepShape) -> usize {
        let work = self.work(shape);
        match self.model.kind(unit) {
            UnitKind::Embedding | UnitKind::Head => 0,
            UnitKind::Attention { .. } => View::carved(self.dtype, &block::attention_late(&work)),
            UnitKind::Mlp { .. } => View::carved(self.dtype, &block::mlp_late(&work)),
        }
    }

    /// Does the second half of a split backward need memory meanwhile?
    pub fn works_late(&self) -> bool {
        self.mesh.tensor.size > 1 && self.mesh.tensor.mode == TensorMode::Fsp
    }

    /// Does a forward need memory meanwhile?
    pub fn works_forward(&self, unit: Unit, shape: StepShape) -> bool {
        let tensor = self.mesh.tensor;
        match self.model.kind(unit) {
            UnitKind::Embedding | UnitKind::Attention { .. } => tensor.cuts_tokens(),
            UnitKind::Mlp { .. } => tensor.cuts_tokens() && tensor.cuts_blocks(),
            UnitKind::Head => tensor.size > 1 && shape.phase == Phase::Eval,
        }
    }

    /// As schedules print it: `x mlp.3 0`.
    pub fn show(&self, res: Res) -> impl fmt::Display {
        let unit = |u: Unit| self.model.kind(u).name();
        match res {
            Res::Param(u) => format!("param {}", unit(u)),
            Res::Opt(u) => format!("opt {}", unit(u)),
            Res::Grad(u, p) => format!("grad {} @{}", unit(u), p.0),
            Res::Stats => "stats".into(),
            Res::Count => "count".into(),
            Res::Norm => "norm".into(),
            Res::Hyper => "hyper".into(),
            Res::Scale => "scale".into(),
            Res::RopeTable => "rope_table".into(),
            Res::Cache(u) => format!("cache {}", unit(u)),
            Res::Logits => "logits".into(),
            Res::Batch(m) => format!("batch {}", m.0),
            Res::X(u, m) => format!("x {} {}", unit(u), m.0),
            Res::Saved(u, m) => format!("saved {} {}", unit(u), m.0),
            Res::Tmp(u, m) => format!("tmp {} {}", unit(u), m.0),
            Res::Late(u, m) => format!("late {} {}", unit(u), m.0),
            Res::Dx(m) => format!("dx {}", m.0),
            Res::Unsharded(u) => format!("unsharded {}", unit(u)),
            Res::Unreduced(u, m) => format!("unreduced {} {}", unit(u), m.0),
        }
    }
}
