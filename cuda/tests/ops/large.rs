//! Sizes beyond those of the examples, where kernels of the loss and of the norm go another way.
use crate::device::{Device, draw, error, indices, scaled};
use backend::{DType, LogitLoss};

fn both(float: DType) -> [Device; 2] {
    [Device::new(float, 1), Device::on_cpu(DType::F64)]
}

/// Only a part of such a row stays in shared memory; the largest logits are spread over all of it.
#[test]
fn rows_longer_than_shared_memory() {
    let with = LogitLoss { cap: Some(5.0), smoothing: 0.1 };
    for (float, v, limit) in [(DType::F32, 60_002, 1e-5), (DType::BF16, 151_936, 2e-2), (DType::F64, 30_001, 1e-12)] {
        // Numbers that bf16 has.
        let logits: Vec<f64> = draw(1, 3 * v).iter().map(|x| half::bf16::from_f64(4.0 * x).to_f64()).collect();
        let labels = [v as u32 - 1, u32::MAX, 7];
        let run = |mut dev: Device| dev.cross_entropy(&logits, &labels, (&[0, 0, 1], 2), [2.0, 8.0], with);
        let [got, want] = both(float).map(run);
        for (got, want) in got.iter().zip(&want) {
            assert!(error(got, want) < limit, "{float:?}: {:e}", error(got, want));
        }
    }
}

/// More rows than one tile of the sums, and more terms than one stretch of the norm.
#[test]
fn many_rows_and_many_terms() {
    let (t, v, kinds) = (2500, 5, 20);
    let (logits, labels, types) = (scaled(draw(1, t * v), 3.0), indices(2, t, v), indices(3, t, kinds));
    let [got, want] = both(DType::F64).map(|mut dev| dev.cross_entropy_loss(&logits, &labels, (&types, kinds), None));
    assert!(error(&got, &want) < 1e-12);

    let sums: Vec<f64> = draw(4, 40_000).iter().map(|x| x * x).collect();
    let [got, want] = both(DType::F64).map(|mut dev| dev.grad_norm(&sums, 1.0, 4.0, 0.5).to_vec());
    assert!(error(&got, &want) < 1e-12);
    let padded: Vec<f64> = sums.iter().copied().chain([0.0; 30_000]).collect();
    let [padded, _] = both(DType::F64).map(|mut dev| dev.grad_norm(&padded, 1.0, 4.0, 0.5).to_vec());
    assert_eq!(got, padded, "zeros behind the terms change no bit");

    let x = draw(5, 100_003);
    let [got, want] = both(DType::F32).map(|mut dev| dev.sum_squares(&x, 1 << 14));
    assert!(error(&got, &want) < 1e-6);
}
