//! Low-precision storage with f32 master weights, and loss scaling.
mod common;
use backend::{DType, LossScale, Region, download_floats};
use common::{Layout, ONE, init, step, train, train_world};
use exec::{Lanes, State, StepConfig, World};
use plan::Res;

const BF16: Layout = Layout { dtype: DType::BF16, ..ONE };
const F16: Layout = Layout { dtype: DType::F16, ..ONE };
const NARROW: Layout = Layout { narrow_grads: true, ..BF16 };

/// Rounded to so many bits of fraction, to nearest and ties to even.
fn rounded(x: f32, bits: u32) -> f32 {
    let ulp = 2.0f64.powi((x.abs().log2().floor() as i32).max(-126) - bits as i32);
    ((x as f64 / ulp).round_ties_even() * ulp) as f32
}

#[test]
fn the_working_copy_is_the_rounded_master() {
    for (layout, bits) in [(BF16, 7), (F16, 10)] {
        let copies = layout.world().launch(layout.programs(&layout.actions()), |rank| {
            init(rank);
            let mut moved = 0;
            for index in 0..3 {
                for spec in rank.params() {
                    let master = rank.get(State::Param, &spec, 0..spec.len());
                    let view = rank.programs()[0].memory.view(Res::Param(spec.unit)).sub(spec.offset, spec.len());
                    let mut copy = vec![0.0; view.len];
                    download_floats(&mut *rank.dev, view, &mut copy);
                    for (master, copy) in master.iter().zip(&copy) {
                        // Subnormals of f16 are coarser; initial weights are not that small.
                        if *master != 0.0 && (bits == 7 || master.abs() > 1e-4) {
                            assert_eq!(rounded(*master, bits), *copy, "{} step {index}", spec.name);
                        }
                        moved += usize::from(master != copy);
                    }
                }
                step(rank, layout.shape(), index);
            }
            moved
        });
        assert!(copies[0] > 1000, "the master knows more than the copy");
    }
}

#[test]
fn losses_follow_those_of_f32() {
    let (exact, shape) = (train(&ONE, 10), ONE.shape());
    for (layout, tolerance) in [(BF16, 2e-2), (F16, 3e-3), (NARROW, 2e-2)] {
        let low = train(&layout, 10);
        assert_ne!(low.losses, exact.losses);
        for (a, b) in low.losses.iter().zip(&exact.losses) {
            assert!((a - b).abs() < tolerance * b, "{:?}: {a}, in f32 {b}", layout.dtype);
        }
        assert!(low.losses[9] < low.losses[0]);
        assert_eq!(layout.shape(), shape);
    }
}

/// The contract of layouts holds in every precision. Gradients in 16 bits are rounded at each sum of a rank and once over ranks, so
/// those have the bits of one rank without data parallelism only.
#[test]
fn layouts_equal_their_twins() {
    for base in [BF16, F16, NARROW] {
        let tree = Layout { leaves: 4, ..base };
        let want = train(&tree, 5);
        for layout in [
            Layout { threads: 3, ..tree },
            Layout { pipeline: 3, ..tree },
            Layout { data: 2, zero: 2, ..tree },
            Layout { data: 2, pipeline: 2, lanes: Lanes::Queued { seed: 9 }, ..tree },
            Layout { data: 4, zero: 4, lanes: Lanes::Queued { seed: 4 }, ..tree },
        ] {
            if layout.data == 1 || !layout.narrow_grads {
                assert!(train(&layout, 5) == want, "{layout:?}");
            }
        }
    }
}

const RULE: LossScale = LossScale { min: 1.0, max: 16777216.0, growth: 2.0, backoff: 0.5, interval: 3, hysteresis: 2 };

fn scaled(layout: &Layout, initial_scale: f64, rule: Option<LossScale>) -> World {
    let world = layout.world();
    World { step: StepConfig { initial_scale, loss_scale: rule, ..world.step }, ..world }
}

/// A power of two moves exponents only.
#[test]
fn a_scale_changes_no_bit_of_f32() {
    let want = train(&ONE, 5);
    let got = train_world(&ONE, scaled(&ONE, 4096.0, None), &ONE.actions(), 5);
    assert_eq!(got, want);
}

/// The scale comes down by the rule until nothing overflows, and then goes up again.
#[test]
fn the_scale_follows_its_rule() {
    for layout in [F16, Layout { data: 2, zero: 2, pipeline: 2, ..F16 }] {
        let world = scaled(&layout, 2.0f64.powi(24), Some(RULE));
        let ranks = world.launch(layout.programs(&layout.actions()), |rank| {
            init(rank);
            let mut seen = vec![];
            for index in 0..30 {
                let before = rank.loss_scale();
                let weights =
                    rank.params().iter().map(|s| rank.get(State::Param, s, rank.stepped(s))).collect::<Vec<_>>();
                step(rank, layout.shape(), index);
                let result = rank.step_result(0);
                rank.finish().unwrap();
                let after =
                    rank.params().iter().map(|s| rank.get(State::Param, s, rank.stepped(s))).collect::<Vec<_>>();
                assert_eq!(weights == after, !result.taken, "a skipped step changes nothing");
                seen.push((before, result.taken, result.grad_norm, rank.loss_scale()));
            }
            seen
        });
        assert!(
            ranks.iter().all(|seen| format!("{seen:?}") == format!("{:?}", ranks[0])),
            "every rank has the same scale"
        );
        let seen = &ranks[0];
        assert!(!seen[0].1, "2^24 overflows f16");
        assert!(seen.iter().filter(|s| s.1).count() > 5, "then steps are taken: {seen:?}");
        for (before, taken, norm, after) in seen {
            let [scale, good, overflows] = *before;
            let want = match (taken, good + 1.0 == 3.0, overflows + 1.0 >= 2.0) {
                (true, false, _) => [scale, good + 1.0, overflows],
                (true, true, _) => [(scale * 2.0).min(RULE.max), 0.0, 0.0],
                (false, _, false) => [scale, 0.0, overflows + 1.0],
                (false, _, true) => [(scale * 0.5).max(RULE.min), 0.0, overflows + 1.0],
            };
            assert_eq!(*after, want);
            assert_eq!(norm.is_finite(), *taken);
        }
        let norms: Vec<f64> = seen.iter().filter(|s| s.1).map(|s| s.2).collect();
        assert!(norms.iter().all(|n| (0.01..100.0).contains(n)), "norms are without the scale: {norms:?}");
    }
}

/// Gradients in bf16 take half the memory, and are other numbers.
#[test]
fn gradients_may_be_narrow() {
    let of = |layout: &Layout| layout.programs(&layout.actions())[0].sizes()[Region::Grad as usize];
    assert!(of(&NARROW) < of(&BF16) * 6 / 10);
    assert_ne!(train(&NARROW, 3).losses, train(&BF16, 3).losses);
}
