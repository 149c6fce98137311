//! Bits depend on shapes and inputs: not on the number of threads, not on the run, not on where memory lies.
use crate::device::{Device, draw, indices, rope_table};
use backend::{DType, Heads};

fn same_bits(name: &str, outputs: impl Fn(&mut Device) -> Vec<Vec<f64>>) {
    let bits = |threads, base| {
        let mut dev = Device::new(DType::F32, threads);
        dev.base = base;
        let bits = |x: Vec<f64>| x.into_iter().map(f64::to_bits).collect::<Vec<u64>>();
        outputs(&mut dev).into_iter().map(bits).collect::<Vec<_>>()
    };
    let expected = bits(1, 0);
    for (threads, base) in [(1, 0), (1, 8), (2, 0), (2, 24), (3, 0), (3, 40)] {
        // Not `assert_eq!`: nobody reads thousands of numbers.
        assert!(bits(threads, base) == expected, "{name}: {threads} threads, memory from {base} on");
    }
}

#[test]
fn linear() {
    let odd = [[1, 7, 5], [1, 300, 700], [65, 129, 300], [600, 33, 257], [2, 1, 1], [1030, 64, 96], [129, 2, 513]];
    for dims in odd {
        let [t, d, f] = dims;
        same_bits(&format!("linear {dims:?}"), |dev| {
            let (x, w, dy) = (draw(1, t * d), draw(2, f * d), draw(3, t * f));
            vec![
                dev.linear(&x, &w, dims, None),
                dev.linear(&x, &w, dims, Some(&dy)),
                dev.linear_backward_input(&dy, &w, dims),
                dev.linear_backward_weight(&dy, &x, dims, None),
                dev.linear_backward_weight(&dy, &x, dims, Some(&w)),
            ]
        });
    }
}

#[test]
fn attention() {
    let cases: [(Heads, &[u32]); 3] = [
        (Heads { n: 6, kv: 2, dim: 32 }, &[0, 1, 68, 268, 268]),
        (Heads { n: 3, kv: 3, dim: 5 }, &[0, 4, 5, 9]),
        (Heads { n: 4, kv: 1, dim: 17 }, &[0, 150]),
    ];
    for (heads, cu_seqlens) in cases {
        let t = cu_seqlens[cu_seqlens.len() - 1] as usize;
        same_bits(&format!("attention {heads:?}"), |dev| {
            let qkv = draw(1, t * heads.qkv());
            let [o, lse] = dev.attention(&qkv, cu_seqlens, heads);
            let d_o = draw(2, t * heads.out());
            let dqkv = dev.attention_backward(&qkv, cu_seqlens, &[o.clone(), lse.clone()], &d_o, heads);
            let cache = draw(3, 2 * (t + 40) * heads.kv * heads.dim);
            let [prompt, cache] = dev.attention_cached(&qkv, [33, t as u32 - 1], &cache, heads);
            let [token, _] = dev.attention_cached(&qkv[..heads.qkv()], [33 + t as u32, 1], &cache, heads);
            vec![o, lse, dqkv, prompt, token, cache]
        });
    }
}

#[test]
fn row_operations() {
    let heads = Heads { n: 6, kv: 2, dim: 10 };
    for (t, d) in [(1, 1), (33, 7), (100, 65), (257, 128)] {
        same_bits(&format!("row operations {t} x {d}"), |dev| {
            let (x, w, dy, h) = (draw(1, t * d), draw(2, d), draw(3, t * d), draw(4, t * 2 * d));
            let [y, rstd] = dev.rmsnorm(&x, &w);
            let [dx, dw] = dev.rmsnorm_backward(&x, &w, &rstd, &dy, &y, Some(&w));
            let [dx_again, dw_written] = dev.rmsnorm_backward(&x, &w, &rstd, &dy, &y, None);
            let [loss, dlogits] = dev.cross_entropy(&x, &indices(5, t, d), t as f64);
            let (ids, vocabulary) = (indices(6, t, 300), draw(7, 300 * d));
            let (qkv, table) = (draw(8, t * heads.qkv()), rope_table(300, heads.dim));
            vec![
                y,
                rstd,
                dx,
                dw,
                dx_again,
                dw_written,
                loss,
                dlogits,
                dev.cross_entropy_loss(&x, &indices(5, t, d)),
                dev.swiglu(&h, d),
                dev.swiglu_backward(&h, &dy, d),
                dev.embedding(&ids, &vocabulary, d),
                dev.embedding_backward(&ids, &dy, [300, d], None),
                dev.embedding_backward(&ids, &dy, [300, d], Some(&vocabulary)),
                dev.rope(&qkv, &ids, &table, heads, false),
            ]
        });
    }
}

#[test]
fn optimizer() {
    for n in [1, 1000, 50_001] {
        same_bits(&format!("optimizer {n}"), |dev| {
            let g = draw(1, n);
            let sums = dev.sum_squares(&g, 1 << 10);
            let norm = dev.grad_norm(&sums, 1.0, 1.0);
            let norm: [f64; 3] = norm.try_into().unwrap();
            let v: Vec<f64> = draw(4, n).iter().map(|x| x * x).collect();
            let [p, m, v] = dev.adamw(&g, norm, [&draw(2, n), &draw(3, n), &v]);
            vec![sums, norm.to_vec(), p, m, v]
        });
    }
}
