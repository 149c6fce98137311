//! The f32 kernels against the same kernels in f64, on the same inputs, at sizes with full and with partial tiles.
use crate::device::{Device, draw, error, heads, plain};
use crate::examples::examples;
use backend::{DType, Heads};

/// Of max |f64|.
const LIMIT: f64 = 1e-5;

#[test]
fn every_operation() {
    let (single, double) = (&mut Device::new(DType::F32, 2), &mut Device::new(DType::F64, 2));
    for (t, d) in [(1, 7), (67, 33), (200, 256)] {
        for example in examples(t, d) {
            let (a, b) = (example.run(single), example.run(double));
            for (i, (a, b)) in a.iter().zip(&b).enumerate() {
                let error = error(a, b);
                assert!(error < LIMIT, "{}, tensor {i}: {error:e}", example.name);
            }
        }
    }
}

/// max |f32 - f64| <= LIMIT max |f64| for every tensor that `outputs` returns.
fn check<const N: usize>(name: &str, outputs: impl Fn(&mut Device) -> [Vec<f64>; N]) {
    let single = outputs(&mut Device::new(DType::F32, 2));
    let double = outputs(&mut Device::new(DType::F64, 2));
    for (i, (a, b)) in single.iter().zip(&double).enumerate() {
        let error = error(a, b);
        assert!(error < LIMIT, "{name}, output {i}: {error:e}");
    }
}

#[test]
fn attention() {
    let cases: [(Heads, &[u32]); 3] =
        [(heads(6, 2, 32), &[0, 1, 68, 268, 268]), (heads(2, 2, 7), &[0, 64, 128, 193]), (heads(4, 1, 80), &[0, 130])];
    for (heads, cu_seqlens) in cases {
        let (t, scores) = (cu_seqlens[cu_seqlens.len() - 1] as usize, plain(heads));
        check(&format!("attention {heads:?}"), |dev| {
            let qkv = draw(1, t * heads.qkv());
            let out = dev.attention(&qkv, cu_seqlens, heads, scores);
            let dqkv = dev.attention_backward(&qkv, cu_seqlens, &out, &draw(2, t * heads.out()), heads, scores);
            let [o, lse] = out;
            [o, lse, dqkv]
        });
    }
}

#[test]
fn linear() {
    for dims in [[1, 300, 515], [2, 33, 200], [513, 129, 130], [600, 64, 257], [37, 1, 2], [3, 1100, 5]] {
        let [t, d, f] = dims;
        check(&format!("linear {dims:?}"), |dev| {
            let (x, w, dy) = (draw(1, t * d), draw(2, f * d), draw(3, t * f));
            [
                dev.linear(&x, &w, dims, None),
                dev.linear_backward_input(&dy, &w, dims),
                dev.linear_backward_weight(&dy, &x, dims, 0.7, None),
            ]
        });
    }
}
