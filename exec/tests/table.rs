//! The equivalence table: one line a layout. Each trains as its twin bit for bit and as one rank within tolerance; with
//! `reproducible` bit for bit as one rank; and holds and sends what docs/layouts.md says. Gradients are filled with NaN between steps,
//! on all ranks: nobody reads what it does not write.
mod common;
use backend::DType::F64;
use backend::{Op, Region};
use common::{Layout, ONE, Outcome, init, outcome, step};
use exec::{Lanes, World};
use model::{Phase, Tensor, TensorMode, Unit, UnitKind};
use plan::PipelineSchedule::{GPipe, Interleaved, OneFOneB, ZbH1, Zbv};
use plan::{Lane, Place, Recompute, Res, Selective, Sharing};
use schedule::{Action, RankPrograms};
use std::collections::HashMap;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

/// On a card that is emulated three steps tell what ten do: the second is the first that finds the one before under way.
fn steps() -> u64 {
    if common::on::card().is_some() { 3 } else { 10 }
}
const QUEUED: Lanes = Lanes::Queued { seed: 11 };
/// A ffn that all sizes divide.
const BASE: Layout = Layout { ffn: 24, ..ONE };

const fn tensor(mode: TensorMode, size: usize) -> Layout {
    Layout { tensor: Tensor { mode, size }, ..BASE }
}
const MTP: TensorMode = TensorMode::Mtp;
const MSP: TensorMode = TensorMode::Msp;
const FSP: TensorMode = TensorMode::Fsp;
const ISP: TensorMode = TensorMode::Isp;

/// Sums in one tree over the global batch: the bits of one rank.
const TREE: Layout = Layout { leaves: 8, ..BASE };
const SEVEN: Layout = Layout { layers: 7, ..TREE };

const TABLE: &[Layout] = &[
    // Data parallelism and ZeRO.
    Layout { data: 2, zero: 2, ..TREE },
    Layout { data: 4, zero: 4, ..TREE },
    Layout { data: 4, zero: 2, lanes: QUEUED, ..TREE },
    Layout { data: 8, zero: 8, ..TREE },
    Layout { data: 8, zero: 4, ..TREE },
    Layout { data: 8, zero: 1, stage: 0, ..TREE },
    Layout { data: 2, zero: 2, leaves: 4, ..TREE },
    Layout { data: 4, zero: 4, leaves: 4, threads: 2, ..TREE },
    Layout { data: 2, zero: 2, stage: 2, ..TREE },
    Layout { data: 4, zero: 4, stage: 2, lanes: QUEUED, ..TREE },
    Layout { data: 8, zero: 2, stage: 2, ..TREE },
    Layout { data: 2, zero: 2, stage: 3, ..TREE },
    Layout { data: 4, zero: 4, stage: 3, ..TREE },
    Layout { data: 4, zero: 2, stage: 3, lanes: QUEUED, ..TREE },
    Layout { data: 8, zero: 8, stage: 3, ..TREE },
    Layout { data: 16, zero: 4, stage: 3, leaves: 16, micros: 16, ..TREE },
    Layout { data: 4, zero: 4, stage: 3, tied: true, ..TREE },
    Layout { data: 4, zero: 2, tied: true, lanes: QUEUED, ..TREE },
    Layout { data: 4, zero: 4, stage: 3, recompute: Recompute::Layers(1.0), ..TREE },
    Layout { data: 2, zero: 2, stage: 3, recompute: Recompute::Named(Selective::Selective), ..TREE },
    Layout { data: 2, zero: 2, stage: 3, ..BASE },
    Layout { data: 3, zero: 3, micros: 9, ..BASE },
    Layout { data: 6, zero: 2, micros: 12, ..BASE },
    Layout { data: 3, zero: 3, stage: 3, micros: 9, ..BASE },
    // Pipelines: every schedule, stages of unequal layers, fewer micro-batches than stages.
    Layout { pipeline: 2, ..TREE },
    Layout { pipeline: 3, policy: GPipe, lanes: QUEUED, ..TREE },
    Layout { pipeline: 7, policy: OneFOneB, leaves: 2, micros: 2, ..SEVEN },
    Layout { pipeline: 3, chunks: 2, policy: Interleaved, ..SEVEN },
    Layout { pipeline: 2, chunks: 3, policy: Interleaved, lanes: QUEUED, ..SEVEN },
    Layout { pipeline: 4, policy: ZbH1, lanes: QUEUED, ..SEVEN },
    Layout { pipeline: 3, policy: ZbH1, recompute: Recompute::Layers(0.5), ..SEVEN },
    Layout { pipeline: 2, chunks: 2, policy: Zbv, ..SEVEN },
    Layout { pipeline: 3, chunks: 2, policy: Zbv, lanes: QUEUED, ..SEVEN },
    Layout { pipeline: 3, chunks: 2, policy: Zbv, leaves: 2, micros: 2, ..SEVEN },
    Layout { pipeline: 3, tied: true, ..BASE },
    Layout { pipeline: 4, policy: ZbH1, tied: true, layers: 7, ..BASE },
    Layout { pipeline: 2, chunks: 2, policy: Zbv, tied: true, layers: 7, lanes: QUEUED, ..BASE },
    // Both.
    Layout { pipeline: 2, data: 2, zero: 2, lanes: QUEUED, ..TREE },
    Layout { pipeline: 2, data: 4, zero: 2, ..TREE },
    Layout { pipeline: 2, data: 4, zero: 4, stage: 2, ..TREE },
    Layout { pipeline: 2, data: 4, zero: 2, stage: 3, lanes: QUEUED, ..TREE },
    Layout { pipeline: 3, data: 2, zero: 2, stage: 3, policy: GPipe, ..TREE },
    Layout { pipeline: 2, chunks: 2, data: 4, zero: 4, stage: 3, policy: Interleaved, ..SEVEN },
    Layout { pipeline: 4, data: 4, zero: 4, stage: 3, policy: ZbH1, ..SEVEN },
    Layout { pipeline: 2, chunks: 2, data: 8, zero: 2, stage: 2, policy: Zbv, ..SEVEN },
    Layout { pipeline: 2, data: 2, zero: 2, stage: 3, tied: true, ..BASE },
    // Weight groups alone: isp with whole sequences.
    Layout { data: 2, weight: 2, zero: 1, ..tensor(ISP, 1) },
    Layout { data: 8, weight: 2, zero: 2, ..tensor(ISP, 1) },
    Layout { data: 4, weight: 4, pipeline: 2, lanes: QUEUED, ..tensor(ISP, 1) },
    // Tensor and sequence parallelism; odd heads, key/value heads that ranks share, a vocabulary that no size divides.
    tensor(MTP, 2),
    Layout { lanes: QUEUED, ..tensor(MTP, 4) },
    Layout { heads: (6, 3), ..tensor(MTP, 3) },
    Layout { heads: (3, 1), lanes: QUEUED, ..tensor(MTP, 3) },
    Layout { data: 2, zero: 2, pipeline: 2, ..tensor(MTP, 2) },
    Layout { data: 2, zero: 2, stage: 3, ..tensor(MTP, 2) },
    tensor(MSP, 2),
    Layout { heads: (8, 2), ..tensor(MSP, 8) },
    Layout { heads: (6, 3), tied: true, ..tensor(MSP, 3) },
    Layout { data: 2, zero: 2, lanes: QUEUED, ..tensor(MSP, 4) },
    Layout { pipeline: 3, policy: ZbH1, ..tensor(MSP, 2) },
    tensor(FSP, 2),
    Layout { heads: (3, 1), ..tensor(FSP, 3) },
    Layout { recompute: Recompute::Layers(1.0), lanes: QUEUED, ..tensor(FSP, 4) },
    Layout { data: 2, zero: 2, stage: 2, pipeline: 2, ..tensor(FSP, 4) },
    Layout { pipeline: 2, chunks: 2, policy: Zbv, layers: 7, lanes: QUEUED, ..tensor(FSP, 2) },
    // isp: Ulysses and weight groups smaller, equal and larger than tensor groups.
    Layout { weight: 2, ..tensor(ISP, 2) },
    Layout { weight: 1, lanes: QUEUED, ..tensor(ISP, 4) },
    Layout { weight: 4, data: 4, zero: 2, ..tensor(ISP, 2) },
    Layout { weight: 2, data: 2, zero: 2, lanes: QUEUED, ..tensor(ISP, 4) },
    Layout { weight: 8, data: 4, tied: true, ..tensor(ISP, 2) },
    Layout { weight: 2, data: 2, zero: 1, stage: 0, ..tensor(ISP, 2) },
    Layout { weight: 3, heads: (6, 3), pipeline: 2, ..tensor(ISP, 3) },
    Layout { weight: 4, heads: (8, 2), data: 2, pipeline: 2, recompute: Recompute::Layers(0.5), ..tensor(ISP, 4) },
    // Everything that a decoder may have, in double precision: ten steps of it stray in single precision by more than they tell.
    Layout { rich: true, dtype: F64, ..tensor(MTP, 2) },
    Layout { rich: true, dtype: F64, heads: (6, 3), lanes: QUEUED, ..tensor(MTP, 3) },
    Layout { rich: true, dtype: F64, data: 2, zero: 2, ..tensor(MSP, 2) },
    Layout { rich: true, dtype: F64, tied: true, ..tensor(FSP, 4) },
    Layout { rich: true, dtype: F64, pipeline: 2, policy: ZbH1, lanes: QUEUED, ..tensor(FSP, 2) },
    Layout { rich: true, dtype: F64, weight: 4, data: 2, lanes: QUEUED, ..tensor(ISP, 2) },
    Layout { rich: true, dtype: F64, data: 2, zero: 2, stage: 3, recompute: Recompute::Layers(1.0), ..TREE },
    Layout { rich: true, dtype: F64, pipeline: 2, chunks: 2, policy: Zbv, ..SEVEN },
];

/// The layout of the same sums: no pipeline, nothing cut that need not be, in order.
fn twin(l: &Layout) -> Layout {
    // Tied embeddings of a pipeline are one sum more, and in a V they are added as they come.
    let pipeline = if l.tied && l.pipeline > 1 { l.pipeline } else { 1 };
    let (policy, chunks) = if l.tied && l.policy == Zbv { (Zbv, 2) } else { (OneFOneB, 1) };
    let (zero, stage) = match l.stage {
        0 | 1 => (if l.tensor.mode == ISP { l.zero } else { 1 }, 1),
        _ => (l.zero, 2),
    };
    Layout { pipeline, policy, chunks, zero, stage, threads: 1, lanes: Lanes::Direct, recompute: Recompute::NONE, ..*l }
}

/// One rank on the same data.
fn one(l: &Layout) -> Layout {
    Layout {
        tensor: Tensor::ALONE,
        weight: 1,
        data: 1,
        pipeline: 1,
        chunks: 1,
        zero: 1,
        stage: 1,
        policy: OneFOneB,
        ..twin(l)
    }
}

/// Trains, with NaN in all gradients between steps, and looks at what a rank holds and has sent.
fn train(l: &Layout, edit: Option<fn(&Action) -> bool>) -> Outcome {
    let mut programs = l.programs(&l.actions());
    if let Some(dropped) = edit {
        // In the place of what is left out, something that changes nothing.
        let idle = |action: &mut Action| {
            if dropped(action) {
                *action = Action::SumSquares { u: Unit(1) };
            }
        };
        programs.iter_mut().flat_map(|of| &mut of.programs).flat_map(|p| &mut p.actions).for_each(idle);
    } else {
        holds_what_the_documents_say(l, &programs);
    }
    let world = World { timeout: std::time::Duration::from_secs(120), ..l.world() };
    let plan = l.plan();
    outcome(common::on::launch(&world, programs, |rank| {
        init(rank);
        let mut results = vec![];
        for index in 0..steps() {
            step(rank, l.shape(), index);
            results.push(rank.step_result(0));
            rank.finish().unwrap();
            if index == 0 && edit.is_none() {
                sent_what_the_documents_say(l, rank);
            }
            for u in plan.held(rank.id) {
                let grads = (0..8).filter_map(|p| rank.programs()[0].memory.try_view(Res::Grad(u, Place(p))));
                for y in grads.collect::<Vec<_>>() {
                    rank.dev.run(Op::Fill { y, value: f64::NAN });
                }
            }
        }
        (results, common::state(rank))
    }))
}

/// Parameters P / w, gradients P / w for each buffer of the tree, optimizer 2 P / (w z): P is a rank's part of the model with
/// padding, w the ranks that cut gradients (and parameters, unless ZeRO is 2), z those that cut the optimizer's state.
fn holds_what_the_documents_say(l: &Layout, programs: &[RankPrograms]) {
    let plan = l.plan();
    for (rank, of) in plan.mesh.ranks().zip(programs) {
        let mut want = [0; 3];
        for u in plan.held(rank) {
            let Sharing { weight, zero, .. } = plan.sharing(u);
            let p = plan.bucket(u).padded * l.dtype.bytes();
            let places = match l.leaves / l.data {
                0 | 1 => 1,
                leaves => 1 + leaves.ilog2() as usize,
            };
            let kept = if l.stage == 2 { 1 } else { weight };
            for (want, bytes) in want.iter_mut().zip([p / kept, places * p / weight, 2 * p / (weight * zero)]) {
                *want += bytes.next_multiple_of(64);
            }
        }
        let have = [Region::Param, Region::Grad, Region::Optim].map(|region| of.sizes()[region as usize]);
        assert_eq!(have, want, "{l:?}: parameters, gradients, optimizer of rank {}", rank.0);
    }
}

/// The formulas of docs/layouts.md, in bytes a rank and step.
fn sent_what_the_documents_say(l: &Layout, rank: &exec::Rank) {
    let (plan, n) = (l.plan(), l.tensor.size);
    let (m, micros, bytes) = (&plan.model, l.shape().micros as f64, l.dtype.bytes());
    let others = |n: usize| (n - 1) as f64 / n as f64;
    let mut want: HashMap<Lane, f64> = HashMap::new();
    for u in plan.held(rank.id) {
        let Sharing { weight, zero, copies } = plan.sharing(u);
        let part = (plan.bucket(u).padded * bytes / weight) as f64;
        let mut add = |lane: Lane, bytes: f64| *want.entry(plan.lane_of(u, lane)).or_default() += bytes;
        add(Lane::Reduce, part * others(zero));
        add(Lane::Replicas, 2.0 * part / zero as f64 * others(copies));
        add(Lane::Gather, part * others(zero));
        add(Lane::Scatter, micros * part * weight as f64 * others(weight));
        let times = rank.programs()[0].actions.iter().filter(|a| matches!(a, Action::Unshard { u: v, .. } if *v == u));
        add(Lane::Unshard, times.count() as f64 * part * weight as f64 * others(weight));
        if plan.mesh.whole_params {
            add(Lane::Gather, part * weight as f64 * others(weight));
        }
    }
    // Inside the half-blocks of a tensor-parallel group: T tokens of D, forward and backward.
    let td = (common::T * m.hidden * bytes) as f64;
    let again = plan.recompute != Recompute::NONE;
    for u in plan.computed(rank.id).into_iter().filter(|_| n > 1 && !again) {
        let loss = (common::T * 4 * 8) as f64 * n as f64 * others(n);
        let heads = |heads: usize| (heads * m.heads.dim * common::T * bytes) as f64 * (n - 1) as f64 / (n * n) as f64;
        let kv = m.heads.kv.max(n);
        let sent = match (plan.model.kind(u), l.tensor.mode) {
            (UnitKind::Embedding, _) => 2.0 * td * others(n),
            (UnitKind::Head, _) => 2.0 * td * others(n) + loss,
            // f and g of Megatron: an all-reduce each way.
            (_, MTP) => 4.0 * td * others(n),
            // Each is a gather and a reduce-scatter.
            (_, MSP) => 4.0 * td * others(n),
            (_, FSP) => 5.0 * td * others(n),
            // 2 N + 2 K heads, each direction.
            (UnitKind::Attention { .. }, ISP) => 2.0 * heads(2 * m.heads.n + 2 * kv),
            (UnitKind::Mlp { .. }, ISP) => 0.0,
        };
        *want.entry(Lane::Tensor).or_default() += micros * sent;
    }
    for u in plan.held(rank.id).into_iter().filter(|_| n > 1 && !again) {
        let part = plan.part_range(u, rank.id);
        let all = plan.partial(u);
        let mine = all.start.max(part.start)..all.end.min(part.end);
        *want.entry(Lane::Tensor).or_default() += 2.0 * (mine.len() * bytes) as f64 * others(n);
    }
    let lanes =
        [Lane::Reduce, Lane::Replicas, Lane::Gather, Lane::Scatter, Lane::Unshard, Lane::GatherEnds, Lane::ReduceEnds];
    // What is made again talks again: of those lines the group's own bytes are not told.
    for lane in lanes.into_iter().chain((!again).then_some(Lane::Tensor)) {
        let (have, want) = (rank.sent(lane), want.get(&lane).copied().unwrap_or(0.0));
        assert!((have - want).abs() <= 1e-9 * want, "{l:?}: {lane:?} of rank {}: {have} bytes, {want}", rank.id.0);
    }
    let x = micros * (plan.mesh.tensor.rows(common::T) * m.hidden * bytes) as f64;
    let sends = [Lane::SendDown, Lane::SendUp, Lane::SendRising, Lane::SendFalling];
    let sent: f64 = sends.iter().map(|lane| rank.sent(*lane)).sum();
    let links = plan.mesh.stages_of(rank.id).map(|s| {
        let far = |other: usize| usize::from(plan.mesh.hop(s, plan::Stage(other)) != plan::Hop::Stay);
        let down = if plan.mesh.is_last(s) { 0 } else { far(s.0 + 1) };
        down + if s.0 == 0 { 0 } else { far(s.0 - 1) }
    });
    assert_eq!(sent, x * links.sum::<usize>() as f64, "{l:?}: between stages");
}

fn near(got: &Outcome, want: &Outcome, loss: f64, weight: f32) -> Result<(), String> {
    let relative = |a: &[f64], b: &[f64]| a.iter().zip(b).map(|(a, b)| ((a - b) / b).abs()).fold(0.0, f64::max);
    let (losses, norms) = (relative(&got.losses, &want.losses), relative(&got.norms, &want.norms));
    if !(losses <= loss && norms <= 10.0 * loss) {
        return Err(format!("losses {losses:e}, norms {norms:e}"));
    }
    for (name, want) in want.state.iter().filter(|(name, _)| name.starts_with("param")) {
        let floats = |bits: &[u32]| bits.iter().map(|b| f32::from_bits(*b)).collect::<Vec<_>>();
        let (got, want) = (floats(&got.state[name]), floats(want));
        let largest = want.iter().fold(0.0f32, |a, b| a.max(b.abs()));
        let worst = got.iter().zip(&want).map(|(a, b)| (a - b).abs()).fold(0.0f32, f32::max);
        if worst.is_nan() || worst > weight * largest {
            return Err(format!("{name}: {worst} of {largest}"));
        }
    }
    Ok(())
}

/// Outcomes of twins and of single ranks, which many lines share.
#[derive(Default)]
struct Known(Mutex<HashMap<String, Outcome>>);

impl Known {
    fn of(&self, l: &Layout) -> Outcome {
        let key = format!("{l:?}");
        if let Some(known) = self.0.lock().unwrap().get(&key) {
            return known.clone();
        }
        let outcome = common::train(l, steps());
        self.0.lock().unwrap().insert(key, outcome.clone());
        outcome
    }
}

#[test]
fn every_layout_trains_as_its_twin() {
    assert!(TABLE.len() >= 60 && TABLE.iter().any(|l| l.plan().mesh.world() == 16));
    let table: Vec<&Layout> = match common::on::card() {
        None => TABLE.iter().collect(),
        // A card that is shared by many ranks, or emulated, takes its time: one line of each kind.
        Some(_) => TABLE.iter().filter(|l| l.plan().mesh.world() <= 4).step_by(4).collect(),
    };
    let (known, next, as_one) = (Known::default(), AtomicUsize::new(0), AtomicUsize::new(0));
    std::thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                while let Some(l) = table.get(next.fetch_add(1, Ordering::Relaxed)) {
                    let got = train(l, None);
                    assert!(got == known.of(&twin(l)), "{l:?}: other bits than its twin {:?}", twin(l));
                    let alone = known.of(&one(l));
                    let (loss, weight) = if l.dtype == F64 { (1e-10, 1e-6) } else { (2e-6, 1e-3) };
                    near(&got, &alone, loss, weight).unwrap_or_else(|e| panic!("{l:?} and one rank: {e}"));
                    if l.leaves > 0 {
                        assert!(got == alone, "{l:?}: other bits than one rank");
                        as_one.fetch_add(1, Ordering::Relaxed);
                    }
                }
            });
        }
    });
    assert!(as_one.load(Ordering::Relaxed) * 3 >= table.len(), "{as_one:?} lines equal one rank");
}

/// A sum left out, in each family of lines, is seen.
#[test]
fn a_sum_that_is_left_out_is_seen() {
    type Mutant = (Layout, &'static str, fn(&Action) -> bool);
    let data = Layout { data: 4, zero: 2, ..TREE };
    let three = Layout { data: 2, zero: 2, stage: 3, ..TREE };
    let tied = Layout { pipeline: 2, tied: true, ..BASE };
    let isp = Layout { weight: 2, data: 2, zero: 2, ..tensor(ISP, 2) };
    let kv = Layout { heads: (4, 2), ..tensor(MTP, 4) };
    let mutants: [Mutant; 14] = [
        (data, "reduce_count", |a| matches!(a, Action::ReduceCount)),
        (data, "reduce", |a| matches!(a, Action::Reduce { .. })),
        (data, "one reduce", |a| *a == Action::Reduce { u: Unit(3) }),
        (data, "all_reduce", |a| matches!(a, Action::AllReduce { .. })),
        (data, "gather", |a| matches!(a, Action::Gather { .. })),
        (data, "merge", |a| matches!(a, Action::Merge { u: Unit(2), .. })),
        (three, "scatter", |a| matches!(a, Action::Scatter { .. })),
        (three, "one unshard", |a| matches!(a, Action::Unshard { u: Unit(2), .. })),
        (tied, "reduce_tied", |a| matches!(a, Action::ReduceTied { .. })),
        (tensor(MSP, 2), "reduce_tensor", |a| matches!(a, Action::ReduceTensor { .. })),
        (tensor(FSP, 2), "reduce_tensor of the head", |a| *a == Action::ReduceTensor { u: Unit(7) }),
        (kv, "reduce_kv", |a| matches!(a, Action::ReduceKv { .. })),
        (isp, "scatter", |a| matches!(a, Action::Scatter { u: Unit(1), .. })),
        (isp, "reduce of the ends", |a| *a == Action::Reduce { u: Unit(0) }),
    ];
    for (layout, what, dropped) in mutants {
        let alone = common::train(&one(&layout), steps());
        let outcome = std::panic::catch_unwind(|| train(&layout, Some(dropped)));
        // Ranks that come to disagree are seen as well.
        let seen = outcome.is_err() || near(&outcome.unwrap(), &alone, 2e-6, 1e-3).is_err();
        assert!(seen, "{layout:?} without {what} trains as one rank");
    }
}

/// One rank that scales its loss by half is seen, whatever the ranks share.
#[test]
fn a_halved_scale_is_seen() {
    let layouts = [
        Layout { data: 2, zero: 2, ..BASE },
        Layout { data: 2, zero: 2, stage: 3, ..BASE },
        Layout { pipeline: 2, tied: true, ..BASE },
        tensor(MTP, 2),
        tensor(MSP, 2),
        Layout { weight: 2, ..tensor(ISP, 2) },
    ];
    for layout in layouts {
        let run = |scale: f64| {
            let world = World { timeout: std::time::Duration::from_secs(120), ..layout.world() };
            outcome(common::on::launch(&world, layout.programs(&layout.actions()), |rank| {
                init(rank);
                rank.set_loss_scale([if rank.id.0 == 1 { scale } else { 1.0 }, 0.0, 0.0]);
                let results = (0..steps()).map(|index| {
                    step(rank, layout.shape(), index);
                    rank.step_result(0)
                });
                let results = results.collect();
                rank.finish().unwrap();
                (results, common::state(rank))
            }))
        };
        let alone = common::train(&one(&layout), steps());
        near(&run(1.0), &alone, 2e-6, 1e-3).unwrap();
        let halved = std::panic::catch_unwind(|| run(0.5));
        assert!(halved.is_err() || near(&halved.unwrap(), &alone, 2e-6, 1e-3).is_err(), "{layout:?}");
    }
}

/// What it takes to be a leaf: another order of the same sums has other bits.
#[test]
fn a_swapped_group_has_other_bits() {
    let layout = Layout { data: 4, zero: 4, ..TREE };
    let (plan, shape) = (layout.plan(), layout.shape());
    let run = |order: [usize; 4]| {
        outcome(common::on::launch(&layout.world(), layout.programs(&layout.actions()), |rank| {
            init(rank);
            let of = plan::RankId(order[rank.id.0]);
            let results = (0..steps()).map(|index| {
                let first = index * plan.global_micros(shape) as u64;
                let batch = &mut |m| common::slab(first + plan.global_micro(of, m, shape) as u64);
                exec::run(rank, 0, exec::Hyper { lr: 1e-2, step: index + 1 }, batch).unwrap();
                rank.step_result(0)
            });
            let results = results.collect();
            rank.finish().unwrap();
            (results, common::state(rank))
        }))
    };
    let one = common::train(&one(&layout), steps());
    assert!(run([0, 1, 2, 3]).state == one.state);
    assert!(run([1, 0, 3, 2]).state == one.state, "a sum of two does not know who was first");
    assert!(run([0, 2, 1, 3]).state != one.state, "but who was with whom");
}

/// Activations are 1 / n of one rank's under isp, up to what does not depend on tokens; under msp and fsp that part of them which is
/// not gathered.
#[test]
fn activations_fall_with_the_size_of_the_group() {
    let slabs = |l: Layout| {
        let plan = Layout { layers: 4, ..l }.plan();
        let shape = plan::StepShape { phase: Phase::Train, t: 960, micros: 1 };
        let bytes = |res| plan.size(res, plan::RankId(0), shape).len as f64;
        let m = plan::Micro(0);
        [bytes(Res::X(Unit(1), m)), bytes(Res::Saved(Unit(1), m)), bytes(Res::Saved(Unit(2), m))]
    };
    let alone = slabs(Layout { heads: (8, 4), ..BASE });
    let gathered = (960 * 20) as f64;
    for mode in [MSP, FSP, ISP] {
        for n in [2, 4] {
            let got = slabs(Layout { heads: (8, 4), ..tensor(mode, n) });
            assert_eq!(got[0], alone[0] / n as f64);
            for i in [1, 2] {
                // isp keeps what attention gave twice: by heads, and by tokens. msp keeps the gathered input.
                let extra = match (mode, i) {
                    (MSP, _) => gathered,
                    (ISP, 1) => (960 * 48) as f64 / n as f64,
                    _ => 0.0,
                };
                let want = alone[i] / n as f64 + extra;
                assert!((got[i] - want).abs() <= 16.0, "{mode:?} {n}: {} of {want}", got[i]);
            }
        }
    }
}

/// In the measured trace of an isp run the gather of the next half-block is issued before the forward that hides it ends, in every
/// block; and so it is in the backward.
#[test]
fn the_next_half_block_is_gathered_behind_the_one_before() {
    let layout = Layout { weight: 2, layers: 4, ..tensor(ISP, 2) };
    let began = std::time::Instant::now();
    let clock: exec::Clock = std::sync::Arc::new(move || began.elapsed());
    let world = World { clock: Some(clock), ..layout.world() };
    let behind = world.launch(layout.programs(&layout.actions()), |rank| {
        init(rank);
        (0..2).for_each(|index| step(rank, layout.shape(), index));
        let (actions, spans) = (&rank.programs()[0].actions, rank.spans());
        let uses: Vec<usize> = (0..actions.len()).filter(|&i| actions[i].as_use().is_some()).collect();
        let mut behind = 0;
        for (i, action) in actions.iter().enumerate() {
            let Action::Unshard { by, .. } = action else { continue };
            let of = uses.iter().position(|&at| actions[at].as_use() == Some(*by)).unwrap();
            if let Some(before) = of.checked_sub(1) {
                assert!(spans[i][0] <= spans[uses[before]][1], "{}", action.show(&rank.plan));
                behind += 1;
            }
        }
        behind
    });
    // Of eight micro-batches eight half-blocks, forward and backward; at every turn two are still there.
    assert_eq!(behind, [8 * 16 - 2 * 15; 2]);
}
