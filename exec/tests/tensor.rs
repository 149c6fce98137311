//! Tensor-, sequence- and weight-parallel layouts near one rank, ZeRO stages bit for bit as their twin.
mod common;
use common::{Layout, ONE, Outcome, train};
use exec::Lanes;
use model::{Tensor, TensorMode};

const STEPS: u64 = 10;
const QUEUED: Lanes = Lanes::Queued { seed: 5 };

fn near(got: &Outcome, want: &Outcome, what: &Layout) {
    let relative = |a: &[f64], b: &[f64]| a.iter().zip(b).map(|(a, b)| ((a - b) / b).abs()).fold(0.0, f64::max);
    let (loss, norm) = (relative(&got.losses, &want.losses), relative(&got.norms, &want.norms));
    assert!(loss < 2e-6 && norm < 2e-5, "{what:?}: losses {loss:e}, norms {norm:e}");
    assert_eq!(got.state.len(), want.state.len());
    for (name, want) in want.state.iter().filter(|(name, _)| name.starts_with("param")) {
        let [got, want] =
            [&got.state[name], want].map(|bits| bits.iter().map(|b| f32::from_bits(*b)).collect::<Vec<_>>());
        let largest = want.iter().fold(0.0f32, |a, b| a.max(b.abs()));
        let worst = got.iter().zip(&want).map(|(a, b)| (a - b).abs()).fold(0.0f32, f32::max);
        assert!(worst <= 1e-3 * largest, "{what:?}: {name} {worst} of {largest}");
    }
}

#[test]
fn zero_stages_2_and_3_equal_each_other_and_one_rank() {
    let data = Layout { data: 4, ..ONE };
    let two = train(&Layout { zero: 4, stage: 2, ..data }, 4);
    assert_eq!(train(&Layout { zero: 4, stage: 3, ..data }, 4), two);
    assert_eq!(train(&Layout { zero: 4, stage: 3, lanes: QUEUED, ..data }, 4), two);
    let one = train(&Layout { leaves: 8, ..ONE }, 4);
    let tree = Layout { leaves: 8, ..data };
    for (zero, stage) in [(4, 2), (4, 3), (2, 2), (2, 3)] {
        assert_eq!(train(&Layout { zero, stage, ..tree }, 4), one, "{zero} {stage}");
        assert_eq!(train(&Layout { zero, stage, lanes: QUEUED, ..tree }, 4), one, "{zero} {stage}");
    }
}

#[test]
fn tensor_parallel_layouts_are_near_one_rank() {
    let one = train(&ONE, STEPS);
    for mode in [TensorMode::Mtp, TensorMode::Msp, TensorMode::Fsp, TensorMode::Isp] {
        for size in [2, 4] {
            let layout = Layout { tensor: Tensor { mode, size }, ..ONE };
            near(&train(&layout, STEPS), &one, &layout);
            let queued = Layout { lanes: QUEUED, ..layout };
            assert_eq!(train(&queued, 2), train(&layout, 2), "{layout:?}");
        }
    }
}

#[test]
fn weight_groups_are_independent_of_tensor_groups() {
    let one = train(&ONE, STEPS);
    for (size, weight, data, zero) in [(2, 4, 4, 2), (4, 2, 2, 2), (2, 2, 2, 1), (1, 2, 4, 2), (2, 8, 4, 1)] {
        let tensor = Tensor { mode: TensorMode::Isp, size };
        let layout = Layout { tensor, weight, data, zero, ..ONE };
        near(&train(&layout, STEPS), &one, &layout);
        let queued = Layout { lanes: QUEUED, ..layout };
        assert_eq!(train(&queued, 2), train(&layout, 2), "{layout:?}");
    }
}
