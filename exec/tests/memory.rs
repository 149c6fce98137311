//! Proofs of the memory plan.
mod common;
use backend::{Backend, Cpu, DType, Meta, Region, Traced};
use common::{Layout, ONE, init, step, train, train_actions};
use exec::{Comms, Lanes, Rank, World};
use model::{Tensor, TensorMode};
use plan::{LANES, Lane, PipelineSchedule, RankId, Recompute, Selective};
use schedule::{RankPrograms, passes};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

const LAYOUTS: [Layout; 18] = [
    Layout {
        layers: 5,
        pipeline: 2,
        chunks: 2,
        policy: PipelineSchedule::Interleaved,
        tied: true,
        lanes: Lanes::Queued { seed: 6 },
        ..ONE
    },
    Layout { data: 4, zero: 2, lanes: Lanes::Queued { seed: 7 }, ..ONE },
    Layout { data: 2, pipeline: 2, tied: true, recompute: Recompute::Layers(1.0), ..ONE },
    ONE,
    Layout { leaves: 8, tied: true, ..ONE },
    Layout { pipeline: 3, lanes: Lanes::Queued { seed: 1 }, ..ONE },
    Layout { data: 2, zero: 2, pipeline: 2, lanes: Lanes::Queued { seed: 2 }, ..ONE },
    Layout { pipeline: 2, policy: PipelineSchedule::GPipe, ..ONE },
    Layout { recompute: Recompute::Layers(1.0), ..ONE },
    Layout { pipeline: 2, recompute: Recompute::Layers(0.5), lanes: Lanes::Queued { seed: 3 }, ..ONE },
    Layout { recompute: Recompute::Named(Selective::Selective), tied: true, ..ONE },
    Layout { data: 2, zero: 2, dtype: DType::BF16, ..ONE },
    Layout { tensor: Tensor { mode: TensorMode::Mtp, size: 4 }, lanes: Lanes::Queued { seed: 8 }, ..ONE },
    Layout { tensor: Tensor { mode: TensorMode::Msp, size: 2 }, tied: true, dtype: DType::BF16, ..ONE },
    Layout { tensor: Tensor { mode: TensorMode::Fsp, size: 2 }, recompute: Recompute::Layers(1.0), ..ONE },
    Layout {
        tensor: Tensor { mode: TensorMode::Isp, size: 2 },
        weight: 4,
        data: 2,
        lanes: Lanes::Queued { seed: 9 },
        ..ONE
    },
    Layout { data: 2, zero: 2, stage: 3, pipeline: 2, policy: PipelineSchedule::ZbH1, ..ONE },
    Layout {
        layers: 5,
        data: 2,
        zero: 2,
        stage: 2,
        pipeline: 2,
        chunks: 2,
        policy: PipelineSchedule::Zbv,
        lanes: Lanes::Queued { seed: 10 },
        ..ONE
    },
];

fn rank(layout: &Layout, id: RankId, programs: RankPrograms, dev: Box<dyn Backend>) -> Rank {
    let plan = Arc::new(layout.plan());
    let mut comms = Comms::default();
    for lane in LANES.into_iter().filter(|l| *l != Lane::Compute) {
        let group = plan.group(id, lane);
        if group.len() > 1 {
            let place = group.iter().position(|r| *r == id).unwrap();
            comms.set(lane, Box::new(comm::Meta::new(place, group.len())));
        }
    }
    Rank::new(id, plan, Arc::new(programs.programs), dev, comms, layout.world().step)
}

fn panic_text(f: impl FnOnce()) -> String {
    let panic = catch_unwind(AssertUnwindSafe(f)).expect_err("it must not go through");
    panic.downcast_ref::<String>().cloned().unwrap_or_default()
}

/// Bytes filled with NaN at their planned death change no bit of ten steps.
#[test]
fn nothing_is_read_after_its_planned_death() {
    for layout in LAYOUTS {
        let (plan, actions) = (layout.plan(), layout.actions());
        let poisoned: Vec<_> = actions.iter().map(|a| passes::poison(&plan, layout.shape(), a)).collect();
        assert!(poisoned[0].len() > actions[0].len());
        assert_eq!(train_actions(&layout, &poisoned, 10), train(&layout, 10), "{layout:?}");
    }
}

/// Every planned byte is used, and an arena one unit smaller refuses.
#[test]
fn the_plan_is_exact() {
    let layout = ONE;
    let programs = || layout.programs(&layout.actions()).remove(0);
    let sizes = programs().sizes();
    let mut one = rank(&layout, RankId(0), programs(), Box::new(Cpu::new(sizes, 1)));
    init(&mut one);
    step(&mut one, layout.shape(), 0);
    for region in [Region::Param, Region::Optim, Region::Grad, Region::Act, Region::Misc] {
        let (used, planned) = (one.dev.high_water(region), sizes[region as usize]);
        // What no operation touches: up to the next cache line, and the padding of the last bucket.
        let bucket = one.plan.bucket(one.plan.model.head());
        let padding = if matches!(region, Region::Act | Region::Misc) { 0 } else { 4 * (bucket.padded - bucket.len) };
        assert!(used <= planned && planned - used < 64 + padding, "{region:?}: {used} of {planned} bytes");

        let mut small = sizes;
        small[region as usize] = used - 4;
        let error = panic_text(|| {
            let mut one = rank(&layout, RankId(0), programs(), Box::new(Cpu::new(small, 1)));
            init(&mut one);
            step(&mut one, layout.shape(), 0);
        });
        assert!(error.contains("outside its region"), "{region:?}: {error}");
    }
}

/// What is predicted without memory is what is executed: same operations, shapes and bytes, in the same order.
#[test]
fn the_meta_trace_is_the_executed_trace() {
    for layout in LAYOUTS {
        let programs = layout.programs(&layout.actions());
        let first_step = |r: &mut Rank| {
            r.dev.take_trace();
            step(r, layout.shape(), 0);
            r.dev.take_trace()
        };
        let executed = World { record: true, ..layout.world() }.launch(programs.clone(), first_step);
        for ((id, programs), executed) in layout.plan().mesh.ranks().zip(programs).zip(executed) {
            let meta = Traced::new(Box::new(Meta::new(programs.sizes())));
            let predicted = first_step(&mut rank(&layout, id, programs, Box::new(meta)));
            assert!(predicted.rows.len() > 100);
            assert_eq!(predicted, executed, "{layout:?}");
        }
    }
}

/// The closed form of useful FLOPs is what the operations add up to.
#[test]
fn flops_per_token_are_those_of_the_trace() {
    for tied in [false, true] {
        let layout = Layout { tied, micros: 1, ..ONE };
        let plan = layout.plan();
        let programs = layout.programs(&layout.actions()).remove(0);
        let mut r =
            rank(&layout, RankId(0), programs.clone(), Box::new(Traced::new(Box::new(Meta::new(programs.sizes())))));
        step(&mut r, layout.shape(), 0);
        let useful = ["linear", "linear_backward_input", "linear_backward_weight", "attention", "attention_backward"];
        let rows = r.dev.take_trace().rows;
        let counted: f64 = rows.iter().filter(|row| useful.contains(&row.name)).map(|row| row.flops).sum();
        let formula = plan.model.flops_per_token(common::T) * common::T as f64;
        assert!((counted - formula).abs() < 1e-9 * formula, "{counted} {formula}");
    }
}

/// Without the derived waits the ledger refuses the first conflicting access, before any byte is raced for.
#[test]
fn a_missing_wait_is_caught() {
    let layout = Layout { pipeline: 2, ..ONE };
    let error = panic_text(|| {
        let mut programs = layout.programs(&layout.actions());
        programs.iter_mut().flat_map(|p| &mut p.programs).for_each(|p| p.waits.fill(Default::default()));
        layout.world().launch(programs, |r| {
            init(r);
            step(r, layout.shape(), 0);
        });
    });
    assert!(error.contains("a wait is missing") || error.contains("left before"), "{error}");
}
