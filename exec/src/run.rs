//! The interpreter: a program, action by action.
use crate::{Rank, optim};
use backend::{Access, DType, Op, View, upload};
use comm::{Coll, CommError};
use model::block::{self, GradTo, MicroBatch};
use model::ends::{self, HeadOut, LossOf};
use model::{Inputs, Phase, Unit, UnitKind};
use plan::{Again, Memory, Micro, Place, Res, StepShape};
use schedule::{Action, Program};
use std::sync::Arc;

/// The sender is the first of a link's communicator.
const LINK: Coll = Coll::SendRecv { from: 0, to: 1 };

/// What changes from step to step and is not data.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Hyper {
    pub lr: f64,
    /// Updates of the parameters, this one included.
    pub step: u64,
}

/// Runs one step of program number `index`. `batch` gives the input slab of a micro-batch of this rank.
pub fn run(
    rank: &mut Rank,
    index: usize,
    hyper: Hyper,
    batch: &mut dyn FnMut(Micro) -> Vec<u32>,
) -> Result<(), CommError> {
    rank.enter(index)?;
    let programs: Arc<Vec<Program>> = rank.programs.clone();
    let program = &programs[index];
    let mem = &program.memory;
    for (i, action) in program.actions.iter().enumerate() {
        for &transfer in &program.waits[i].tickets {
            rank.settle(transfer)?;
        }
        rank.spans[i][0] = rank.now();
        match *action {
            Action::Begin => rank.begin(program, hyper),
            Action::Load { m } => rank.load(program, m, batch(m)),
            Action::Forward { u, m } => rank.forward(program, u, m),
            Action::Recompute { u, m } => rank.recompute(program, u, m),
            Action::Backward { u, m, place, acc } => rank.backward(program, u, m, place, acc),
            Action::Merge { u, place } => rank.merge(mem, u, place),
            Action::SumSquares { u } => rank.sum_squares(program, u),
            Action::GradNorm => rank.grad_norm(program),
            Action::Step { u } => optim::step(&mut *rank.dev, &rank.config.optimizer, &rank.plan, mem, rank.id, u),
            Action::Poison { res } => rank.poison(mem.view(res)),
            Action::ReduceCount => {
                let count = rank.sized(program, Res::Count);
                rank.transfer(program, i, Coll::AllReduce, None, Some(count))?
            }
            Action::Reduce { u } => {
                let grad = rank.sized(program, Res::Grad(u, Place(0)));
                rank.transfer(program, i, Coll::ReduceScatter, None, Some(grad))?
            }
            Action::AllReduce { u } | Action::ReduceTied { u } => {
                let own = rank.plan.stepped(u, rank.id);
                let shard = rank.sized(program, Res::Grad(u, Place(0))).sub(own.start, own.len());
                rank.transfer(program, i, Coll::AllReduce, None, Some(shard))?
            }
            Action::Gather { u } => {
                let param = rank.sized(program, Res::Param(u));
                rank.transfer(program, i, Coll::AllGather, None, Some(param))?
            }
            Action::ReduceStats => {
                let stats = rank.sized(program, Res::Stats);
                rank.transfer(program, i, Coll::AllReduce, None, Some(stats))?
            }
            Action::Send { what, .. } => {
                let x = rank.sized(program, what);
                rank.transfer(program, i, LINK, Some(x), None)?
            }
            Action::Recv { what, .. } => {
                let x = rank.sized(program, what);
                rank.transfer(program, i, LINK, None, Some(x))?
            }
        }
        rank.marks[i] = rank.dev.mark();
        rank.spans[i][1] = rank.now();
    }
    rank.poll()
}

impl Rank {
    /// Starts a transfer on the action's lane. With `dst` alone it is in place.
    fn transfer(
        &mut self,
        program: &Program,
        i: usize,
        coll: Coll,
        src: Option<View>,
        dst: Option<View>,
    ) -> Result<(), CommError> {
        let waits = &program.waits[i];
        // A settled transfer has ordered compute behind another lane: only a fresh mark hands that order on.
        let after = match waits.after {
            _ if !waits.tickets.is_empty() => self.dev.mark(),
            Some(action) => self.marks[action],
            None => Default::default(),
        };
        let src = src.map(|view| self.dev.lend(view, Access::Read));
        let dst = dst.map(|view| self.dev.lend(view, Access::Write));
        let ticket = self.comms.on(program.actions[i].lane()).start(after, coll, src, dst)?;
        self.began(i, ticket);
        Ok(())
    }

    fn begin(&mut self, program: &Program, hyper: Hyper) {
        let shape = program.shape;
        if shape.phase == Phase::Train {
            let values = self.config.optimizer.hyper(hyper.lr, hyper.step);
            upload(&mut *self.dev, &values, program.memory.view(Res::Hyper));
        }
        if !shape.phase.is_cached() {
            for res in [Res::Stats, Res::Count] {
                self.dev.run(Op::Fill { y: self.sized(program, res), value: 0.0 });
            }
        }
    }

    /// Persistent memory is sized for the largest program; this one's part of it.
    fn sized(&self, program: &Program, res: Res) -> View {
        program.memory.view(res).sub(0, self.plan.size(res, self.id, program.shape).len)
    }

    fn load(&mut self, program: &Program, m: Micro, slab: Vec<u32>) {
        let (view, shape) = (program.memory.view(Res::Batch(m)), program.shape);
        upload(&mut *self.dev, &slab, view);
        if !shape.phase.is_cached() {
            let Inputs { labels, .. } = Inputs::of(view, shape.t, shape.phase);
            self.dev.run(Op::CountLabels { labels, count: program.memory.view(Res::Count), acc: true });
        }
    }

    fn forward(&mut self, program: &Program, u: Unit, m: Micro) {
        let (plan, mem) = (self.plan.clone(), &program.memory);
        let mb = micro_batch(&plan, mem, program.shape, m);
        let x = || mem.view(Res::X(Unit(u.0 - 1), m));
        let w = self.weights(mem, u);
        let dev = &mut *self.dev;
        match plan.model.kind(u) {
            UnitKind::Embedding => ends::embedding_forward(dev, &mb, w, mem.view(Res::X(u, m))),
            UnitKind::Attention { layer } => {
                let (y, saved) = (mem.view(Res::X(u, m)), mem.view(Res::Saved(u, m)));
                let cache = mb.phase.is_cached().then(|| mem.view(Res::Cache(u)));
                block::attention_forward(dev, &mb, layer, w, x(), y, saved, cache)
            }
            UnitKind::Mlp { .. } => {
                block::mlp_forward(dev, &mb, w, x(), mem.view(Res::X(u, m)), mem.view(Res::Saved(u, m)))
            }
            UnitKind::Head => {
                let out = match mb.phase {
                    Phase::Train => HeadOut::Nothing,
                    Phase::Eval => HeadOut::Stats(self.stats(program, m)),
                    Phase::Prefill | Phase::Decode => HeadOut::Logits(mem.view(Res::Logits)),
                };
                let [norm, matrix] = self.head_weights(mem, Res::Param);
                ends::head_forward(&mut *self.dev, &mb, norm, matrix, x(), mem.view(Res::Saved(u, m)), out)
            }
        }
    }

    /// As `forward`, of what was not kept.
    fn recompute(&mut self, program: &Program, u: Unit, m: Micro) {
        let (plan, mem) = (self.plan.clone(), &program.memory);
        let mb = micro_batch(&plan, mem, program.shape, m);
        let (x, saved) = (mem.view(Res::X(Unit(u.0 - 1), m)), mem.view(Res::Saved(u, m)));
        let w = self.weights(mem, u);
        let dev = &mut *self.dev;
        match (plan.model.kind(u), plan.again(u)) {
            (UnitKind::Attention { layer }, Again::SavedAndOutput) => {
                block::attention_forward(dev, &mb, layer, w, x, mem.view(Res::X(u, m)), saved, None)
            }
            (UnitKind::Attention { layer }, Again::Saved) => block::attention_inner(dev, &mb, layer, w, x, saved, None),
            (UnitKind::Mlp { .. }, Again::Saved) => block::mlp_inner(dev, &mb, w, x, saved),
            (kind, again) => unreachable!("{kind:?} is not recomputed: {again:?}"),
        }
    }

    fn backward(&mut self, program: &Program, u: Unit, m: Micro, place: Place, acc: bool) {
        let (plan, mem) = (self.plan.clone(), &program.memory);
        let mb = micro_batch(&plan, mem, program.shape, m);
        let (x, dx) = (|| mem.view(Res::X(Unit(u.0 - 1), m)), mem.view(Res::Dx(m)));
        let (saved, tmp) = (|| mem.view(Res::Saved(u, m)), || mem.view(Res::Tmp(u, m)));
        let w = self.weights(mem, u);
        let len = plan.bucket(u).len;
        let dw = GradTo { view: mem.view(Res::Grad(u, place)).sub(0, len), acc };
        let dev = &mut *self.dev;
        match plan.model.kind(u) {
            UnitKind::Embedding => ends::embedding_backward(dev, &mb, dw, dx),
            UnitKind::Attention { layer } => block::attention_backward(dev, &mb, layer, w, dw, x(), dx, saved(), tmp()),
            UnitKind::Mlp { .. } => block::mlp_backward(dev, &mb, w, dw, x(), dx, saved(), tmp()),
            UnitKind::Head => {
                let w = self.head_weights(mem, Res::Param);
                let dw = self.head_weights(mem, |unit| Res::Grad(unit, place)).map(|view| GradTo { view, acc });
                let loss = LossOf {
                    stats: self.stats(program, m),
                    count: mem.view(Res::Count),
                    scale: mem.view(Res::Scale).sub(0, 1),
                    smoothing: self.config.label_smoothing,
                };
                ends::head_backward(&mut *self.dev, &mb, w, dw, x(), dx, saved(), tmp(), loss)
            }
        }
    }

    /// Where the losses of a micro-batch go.
    fn stats(&self, program: &Program, m: Micro) -> View {
        let (number, len) = (self.plan.global_micro(self.id, m, program.shape), self.plan.stats_per_micro());
        program.memory.view(Res::Stats).sub(number * len, len)
    }

    /// A unit's parameters, without the padding of its bucket.
    fn weights(&self, mem: &Memory, u: Unit) -> View {
        mem.view(Res::Param(u)).sub(0, self.plan.bucket(u).len)
    }

    /// Norm and matrix of the head, in its own bucket or, tied, the matrix in the embedding's.
    fn head_weights(&self, mem: &Memory, bucket: impl Fn(Unit) -> Res) -> [View; 2] {
        let m = &self.plan.model;
        let own = mem.view(bucket(m.head()));
        let (matrix, norm) = (m.vocab * m.hidden, m.norm_len());
        let at = if m.tied { mem.view(bucket(m.head_matrix_unit())).sub(0, matrix) } else { own.sub(norm, matrix) };
        [own.sub(0, norm), at]
    }

    fn merge(&mut self, mem: &Memory, u: Unit, place: Place) {
        let at = |p: usize| mem.view(Res::Grad(u, Place(p)));
        self.dev.run(Op::Add { x: at(place.0), y: at(place.0 - 1) });
    }

    /// Each chunk of the model is summed by exactly one rank.
    fn sum_squares(&mut self, program: &Program, u: Unit) {
        let bucket = self.plan.bucket(u);
        let part = self.plan.squared(u, self.id);
        if part.is_empty() {
            return;
        }
        let chunks = part.len().div_ceil(bucket.chunk);
        let losses = self.plan.global_micros(program.shape) * self.plan.stats_per_micro();
        let first = losses + self.plan.first_chunk(u) + part.start / bucket.chunk;
        let x = program.memory.view(Res::Grad(u, Place(0))).sub(part.start, part.len());
        let sums = program.memory.view(Res::Stats).sub(first, chunks);
        self.dev.run(Op::SumSquares { x, sums, chunk: bucket.chunk });
    }

    fn grad_norm(&mut self, program: &Program) {
        let mem = &program.memory;
        let losses = self.plan.global_micros(program.shape) * self.plan.stats_per_micro();
        let (norm, scale) = (mem.view(Res::Norm), mem.view(Res::Scale));
        self.dev.run(Op::GradNorm {
            sums: mem.view(Res::Stats).sub(losses, self.plan.chunks()),
            count: mem.view(Res::Count),
            scale,
            norm,
            max_norm: self.config.max_norm,
        });
        if let Some(rule) = self.config.loss_scale {
            self.dev.run(Op::LossScale { norm, scale, rule });
        }
    }

    fn poison(&mut self, view: View) {
        if view.dtype == DType::U32 {
            upload(&mut *self.dev, &vec![u32::MAX; view.len], view);
        } else {
            self.dev.run(Op::Fill { y: view, value: f64::NAN });
        }
    }
}

fn micro_batch<'a>(plan: &'a plan::Plan, mem: &Memory, shape: StepShape, m: Micro) -> MicroBatch<'a> {
    let StepShape { phase, t, .. } = shape;
    let inputs = Inputs::of(mem.view(Res::Batch(m)), t, phase);
    MicroBatch { model: &plan.model, dtype: plan.dtype, phase, t, inputs, rope_table: mem.view(Res::RopeTable) }
}
