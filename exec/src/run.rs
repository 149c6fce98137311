//! The interpreter: a program, action by action.
use crate::{Rank, optim};
use backend::{Access, DType, Op, View, upload};
use comm::{Coll, CommError};
use model::block::{self, GradTo, Half, MicroBatch};
use model::ends::{self, HeadOut, LossOf};
use model::{Dev, Inputs, Phase, Unit, UnitKind};
use plan::{Again, Lane, Memory, Micro, Place, Plan, Res, Squares};
use schedule::{Action, Program};
use std::ops::Range;
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
            Action::Forward { u, m } => rank.forward(program, u, m)?,
            Action::Recompute { u, m } => rank.recompute(program, u, m)?,
            Action::Backward { u, m, half, place, acc } => rank.backward(program, u, m, half, GradIn { place, acc })?,
            Action::Accumulate { u, m, place, acc } => rank.accumulate(mem, u, m, GradIn { place, acc }),
            Action::Merge { u, place } => rank.merge(mem, u, place),
            Action::SumSquares { u } => rank.sum_squares(program, u),
            Action::GradNorm => rank.grad_norm(program),
            Action::Step { u } => optim::step(&mut *rank.dev, &rank.config.optimizer, &rank.plan, mem, rank.id, u),
            Action::Poison { res } => rank.poison(mem.view(res)),
            Action::ReduceCount => {
                let count = rank.sized(program, Res::Count);
                rank.transfer(program, i, Coll::AllReduce, None, Some(count))?
            }
            Action::Unshard { u, .. } => {
                let (part, whole) = (rank.sized(program, Res::Param(u)), mem.view(Res::Unsharded(u)));
                rank.transfer(program, i, Coll::AllGather, Some(part), Some(whole))?
            }
            Action::Scatter { u, m } => {
                let grad = mem.view(Res::Unreduced(u, m));
                rank.transfer(program, i, Coll::ReduceScatter, None, Some(grad))?
            }
            Action::Reduce { u } => {
                let grad = rank.sized(program, Res::Grad(u, Place(0)));
                rank.transfer(program, i, Coll::ReduceScatter, None, Some(grad))?
            }
            Action::AllReduce { u } | Action::ReduceTied { u } => {
                let shard = rank.grad(mem, u, &rank.plan.stepped(u, rank.id));
                rank.transfer(program, i, Coll::AllReduce, None, Some(shard))?
            }
            Action::ReduceTensor { u } => {
                let shared = rank.kept_grad(mem, u, rank.plan.partial(u));
                shared.map_or(Ok(()), |grad| rank.transfer(program, i, Coll::AllReduce, None, Some(grad)))?
            }
            Action::ReduceKv { u } => {
                for heads in rank.plan.shared_heads(u) {
                    let grad = rank.kept_grad(mem, u, heads);
                    grad.map_or(Ok(()), |grad| rank.transfer(program, i, Coll::AllReduce, None, Some(grad)))?
                }
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
            after => after.map_or(self.before, |action| self.marks[action].max(self.before)),
        };
        let lane = program.actions[i].lane(&self.plan);
        let lent = || [src, dst].into_iter().flatten();
        let (whole, bytes) = (lent().map(|view| view.len).max(), lent().next().map_or(0, |view| view.dtype.bytes()));
        let src = src.map(|view| self.dev.lend(view, Access::Read));
        let dst = dst.map(|view| self.dev.lend(view, Access::Write));
        let end = self.comms.on(lane);
        let elements = coll.sent([end.rank(), end.size()], whole.unwrap_or(0));
        self.sent[lane as usize] += elements * bytes as f64;
        let ticket = end.start(after, coll, src, dst)?;
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
        if !shape.phase.is_cached() {
            self.segments.insert(m, Inputs::segments(&slab, shape.t));
        }
        upload(&mut *self.dev, &slab, view);
        if !shape.phase.is_cached() {
            let Inputs { labels, .. } = Inputs::of(view, shape.t, shape.phase);
            self.dev.run(Op::CountLabels { labels, count: program.memory.view(Res::Count), acc: true });
        }
    }

    fn forward(&mut self, program: &Program, u: Unit, m: Micro) -> Result<(), CommError> {
        let (plan, mem) = (self.plan.clone(), &program.memory);
        let mb = self.micro_batch(&plan, program, m);
        let x = || mem.view(Res::X(Unit(u.0 - 1), m));
        let (w, tmp) = (self.weights(mem, u), meanwhile(mem, u, m, plan.works_forward(u, program.shape)));
        let is_head = plan.model.kind(u) == UnitKind::Head;
        let head = is_head.then(|| self.head_weights(mem, |u| plan.weights(u)));
        let stats = (is_head && !program.shape.phase.is_cached()).then(|| self.stats(program, m));
        let dev = &mut self.dev();
        match plan.model.kind(u) {
            UnitKind::Embedding => ends::embedding_forward(dev, &mb, w, mem.view(Res::X(u, m)), tmp),
            UnitKind::Attention { layer } => {
                let (y, saved) = (mem.view(Res::X(u, m)), mem.view(Res::Saved(u, m)));
                let cache = mb.work.phase.is_cached().then(|| mem.view(Res::Cache(u)));
                block::attention_forward(dev, &mb, layer, w, x(), y, saved, tmp, cache)
            }
            UnitKind::Mlp { .. } => {
                block::mlp_forward(dev, &mb, w, x(), mem.view(Res::X(u, m)), mem.view(Res::Saved(u, m)), tmp)
            }
            UnitKind::Head => {
                let out = match mb.work.phase {
                    Phase::Train => HeadOut::Nothing,
                    Phase::Eval => HeadOut::Stats(stats.expect("a packed phase has stats")),
                    Phase::Prefill | Phase::Decode => HeadOut::Logits(mem.view(Res::Logits)),
                };
                let [norm, matrix] = head.expect("of a head");
                ends::head_forward(dev, &mb, norm, matrix, x(), mem.view(Res::Saved(u, m)), tmp, out)
            }
        }
    }

    /// As `forward`, of what was not kept.
    fn recompute(&mut self, program: &Program, u: Unit, m: Micro) -> Result<(), CommError> {
        let (plan, mem) = (self.plan.clone(), &program.memory);
        let mb = self.micro_batch(&plan, program, m);
        let (x, saved) = (mem.view(Res::X(Unit(u.0 - 1), m)), mem.view(Res::Saved(u, m)));
        let (w, tmp) = (self.weights(mem, u), meanwhile(mem, u, m, plan.works_forward(u, program.shape)));
        let dev = &mut self.dev();
        match (plan.model.kind(u), plan.again(u)) {
            (UnitKind::Attention { layer }, Again::SavedAndOutput) => {
                block::attention_forward(dev, &mb, layer, w, x, mem.view(Res::X(u, m)), saved, tmp, None)
            }
            (UnitKind::Attention { layer }, Again::Saved) => {
                block::attention_inner(dev, &mb, layer, w, x, saved, tmp, None)
            }
            (UnitKind::Mlp { .. }, Again::Saved) => block::mlp_inner(dev, &mb, w, x, saved, tmp),
            (kind, again) => unreachable!("{kind:?} is not recomputed: {again:?}"),
        }
    }

    fn backward(&mut self, program: &Program, u: Unit, m: Micro, half: Half, to: GradIn) -> Result<(), CommError> {
        let (plan, mem) = (self.plan.clone(), &program.memory);
        let mb = self.micro_batch(&plan, program, m);
        let (x, dx) = (|| mem.view(Res::X(Unit(u.0 - 1), m)), mem.view(Res::Dx(m)));
        let needs_tmp = half != Half::Weight || plan.works_late();
        let (saved, tmp) = (|| mem.view(Res::Saved(u, m)), || meanwhile(mem, u, m, needs_tmp));
        let late = (half != Half::Both).then(|| mem.view(Res::Late(u, m)));
        let (w, acc) = (self.weights(mem, u), to.acc);
        let grad = |u: Unit| plan.grad_to(u, m, to.place);
        let dw = GradTo { view: mem.view(grad(u)).sub(0, plan.bucket(u).len), acc };
        match plan.model.kind(u) {
            UnitKind::Embedding => {
                let tmp = meanwhile(mem, u, m, plan.mesh.tensor.cuts_tokens());
                ends::embedding_backward(&mut self.dev(), &mb, dw, dx, tmp)
            }
            UnitKind::Attention { layer } => {
                block::attention_backward(&mut self.dev(), &mb, layer, w, dw, x(), dx, saved(), tmp(), half, late)
            }
            UnitKind::Mlp { .. } => {
                block::mlp_backward(&mut self.dev(), &mb, w, dw, x(), dx, saved(), tmp(), half, late)
            }
            UnitKind::Head => {
                let w = self.head_weights(mem, |u| plan.weights(u));
                let dw = self.head_weights(mem, grad).map(|view| GradTo { view, acc });
                let loss = LossOf {
                    stats: self.stats(program, m),
                    count: mem.view(Res::Count),
                    scale: mem.view(Res::Scale).sub(0, 1),
                    smoothing: self.config.label_smoothing,
                };
                ends::head_backward(&mut self.dev(), &mb, w, dw, x(), dx, saved(), tmp(), loss)
            }
        }
    }

    /// This rank's part of a micro-batch's gradients, summed over the weight group, goes where they are kept.
    fn accumulate(&mut self, mem: &Memory, u: Unit, m: Micro, to: GradIn) {
        let part = self.plan.part_range(u, self.id);
        let (x, y) = (mem.view(Res::Unreduced(u, m)).sub(part.start, part.len()), mem.view(Res::Grad(u, to.place)));
        self.dev.run(if to.acc { Op::Add { x, y } } else { Op::Copy { x, y } });
    }

    /// The device, and this rank's end of its tensor-parallel group.
    fn dev(&mut self) -> Dev<'_> {
        let sent = &mut self.sent[Lane::Tensor as usize];
        Dev { backend: &mut *self.dev, group: self.comms.get(Lane::Tensor), sent }
    }

    fn micro_batch<'a>(&self, plan: &'a Plan, program: &Program, m: Micro) -> MicroBatch<'a> {
        let (mem, shape) = (&program.memory, program.shape);
        MicroBatch {
            work: plan.work(shape),
            whole: &plan.model,
            rank: plan.mesh.tensor_rank(self.id),
            inputs: match self.segments.get(&m).filter(|_| !shape.phase.is_cached()) {
                Some(segments) => Inputs::of(mem.view(Res::Batch(m)), shape.t, shape.phase).bounded(*segments),
                None => Inputs::of(mem.view(Res::Batch(m)), shape.t, shape.phase),
            },
            rope_table: mem.view(Res::RopeTable),
        }
    }

    /// Elements of a bucket's gradients, which this rank keeps.
    fn grad(&self, mem: &Memory, u: Unit, elements: &Range<usize>) -> View {
        let kept = self.plan.part_range(u, self.id);
        mem.view(Res::Grad(u, Place(0))).sub(elements.start - kept.start, elements.len())
    }

    /// As far as this rank keeps them.
    fn kept_grad(&self, mem: &Memory, u: Unit, elements: Range<usize>) -> Option<View> {
        let kept = self.plan.part_range(u, self.id);
        let both = elements.start.max(kept.start)..elements.end.min(kept.end);
        (!both.is_empty()).then(|| self.grad(mem, u, &both))
    }

    /// Where the losses of a micro-batch go.
    fn stats(&self, program: &Program, m: Micro) -> View {
        let (number, len) = (self.plan.global_micro(self.id, m, program.shape), self.plan.stats_per_micro());
        program.memory.view(Res::Stats).sub(number * len, len)
    }

    /// A unit's parameters, without the padding of its bucket.
    fn weights(&self, mem: &Memory, u: Unit) -> View {
        mem.view(self.plan.weights(u)).sub(0, self.plan.bucket(u).len)
    }

    /// Norm and matrix of the head, in its own bucket or, tied, the matrix in the embedding's.
    fn head_weights(&self, mem: &Memory, bucket: impl Fn(Unit) -> Res) -> [View; 2] {
        let m = &self.plan.part;
        let own = mem.view(bucket(m.head()));
        let (matrix, norm) = (m.vocab * m.hidden, m.norm_len());
        let at = if m.tied { mem.view(bucket(m.head_matrix_unit())).sub(0, matrix) } else { own.sub(norm, matrix) };
        [own.sub(0, norm), at]
    }

    fn merge(&mut self, mem: &Memory, u: Unit, place: Place) {
        let at = |p: usize| mem.view(Res::Grad(u, Place(p)));
        self.dev.run(Op::Add { x: at(place.0), y: at(place.0 - 1) });
    }

    /// Each term of the norm is summed by exactly one rank.
    fn sum_squares(&mut self, program: &Program, u: Unit) {
        let mem = &program.memory;
        let losses = self.plan.global_micros(program.shape) * self.plan.stats_per_micro();
        let (plan, chunk) = (self.plan.clone(), self.plan.bucket(u).chunk);
        for Squares { elements, first } in plan.squares(u, self.id) {
            let sums = mem.view(Res::Stats).sub(losses + first, elements.len().div_ceil(chunk));
            self.dev.run(Op::SumSquares { x: self.grad(mem, u, &elements), sums, chunk });
        }
    }

    fn grad_norm(&mut self, program: &Program) {
        let mem = &program.memory;
        let losses = self.plan.global_micros(program.shape) * self.plan.stats_per_micro();
        let (norm, scale) = (mem.view(Res::Norm), mem.view(Res::Scale));
        self.dev.run(Op::GradNorm {
            sums: mem.view(Res::Stats).sub(losses, self.plan.terms()),
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

/// Where a leaf's gradients are added up, or written.
#[derive(Clone, Copy)]
struct GradIn {
    place: Place,
    acc: bool,
}

/// Memory that a unit needs meanwhile, or none.
fn meanwhile(mem: &Memory, u: Unit, m: Micro, needed: bool) -> View {
    if needed { mem.view(Res::Tmp(u, m)) } else { mem.view(Res::Batch(m)).sub(0, 0) }
}
