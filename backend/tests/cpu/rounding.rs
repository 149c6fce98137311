//! The f32 kernels against the same kernels in f64, on the same inputs, at sizes with full and with partial tiles.
use crate::device::{Device, draw, error, indices, rope_table};
use backend::{DType, Heads};

/// max |f32 - f64| <= 1e-5 max |f64| for every tensor that `outputs` returns.
fn check<const N: usize>(name: &str, outputs: impl Fn(&mut Device) -> [Vec<f64>; N]) {
    let single = outputs(&mut Device::new(DType::F32, 2));
    let double = outputs(&mut Device::new(DType::F64, 2));
    for (i, (a, b)) in single.iter().zip(&double).enumerate() {
        let error = error(a, b);
        assert!(error < 1e-5, "{name}, output {i}: {error:e}");
    }
}

#[test]
fn attention() {
    let cases: [(Heads, &[u32]); 3] = [
        (Heads { n: 6, kv: 2, dim: 32 }, &[0, 1, 68, 268, 268]),
        (Heads { n: 2, kv: 2, dim: 7 }, &[0, 64, 128, 193]),
        (Heads { n: 4, kv: 1, dim: 80 }, &[0, 130]),
    ];
    for (heads, cu_seqlens) in cases {
        let t = cu_seqlens[cu_seqlens.len() - 1] as usize;
        check(&format!("attention {heads:?}"), |dev| {
            let qkv = draw(1, t * heads.qkv());
            let out = dev.attention(&qkv, cu_seqlens, heads);
            let dqkv = dev.attention_backward(&qkv, cu_seqlens, &out, &draw(2, t * heads.out()), heads);
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
                dev.linear_backward_weight(&dy, &x, dims, None),
            ]
        });
    }
}

#[test]
fn row_operations() {
    for (t, d) in [(1, 7), (67, 33), (200, 256)] {
        check(&format!("rmsnorm {t} x {d}"), |dev| {
            let (x, w, dy) = (draw(1, t * d), draw(2, d), draw(3, t * d));
            let [y, rstd] = dev.rmsnorm(&x, &w);
            let [dx, dw] = dev.rmsnorm_backward(&x, &w, &rstd, &dy, &draw(4, t * d), Some(&draw(5, d)));
            [y, rstd, dx, dw]
        });
        check(&format!("swiglu {t} x {d}"), |dev| {
            let h = draw(1, t * 2 * d);
            [dev.swiglu(&h, d), dev.swiglu_backward(&h, &draw(2, t * d), d)]
        });
        check(&format!("embedding {t} x {d}"), |dev| {
            let ids = indices(1, t, 300);
            [dev.embedding(&ids, &draw(2, 300 * d), d), dev.embedding_backward(&ids, &draw(3, t * d), [300, d], None)]
        });
        check(&format!("cross-entropy {t} x {d}"), |dev| {
            dev.cross_entropy(&draw(1, t * d), &indices(2, t, d), t as f64)
        });
    }
    let heads = Heads { n: 6, kv: 2, dim: 32 };
    check("rope", |dev| {
        let (qkv, table) = (draw(1, 67 * heads.qkv()), rope_table(100, heads.dim));
        [dev.rope(&qkv, &indices(2, 67, 100), &table, heads, false)]
    });
}

#[test]
fn adamw() {
    let n = 10_007;
    let v: Vec<f64> = draw(4, n).iter().map(|x| x * x).collect();
    check("adamw", |dev| dev.adamw(&draw(1, n), [1.0, 0.3, 1.0], [&draw(2, n), &draw(3, n), &v]));
}
