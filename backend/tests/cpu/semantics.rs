//! What is written, what is added to, what is left alone, and that nothing stale gets through.
use crate::device::{Device, alibi, draw, error, heads, indices, plain, scaled};
use crate::ops::PLAIN;
use backend::{DType, Nonlinearity, Op, Scores};

fn plus(a: &[f64], b: &[f64]) -> Vec<f64> {
    a.iter().zip(b).map(|(a, b)| a + b).collect()
}

fn close(a: &[f64], b: &[f64]) {
    let error = error(a, b);
    assert!(error < 1e-13, "{error:e}");
}

/// `acc` adds, and the residual in dx stays. Without `acc` every gradient is written over NaN, here and in all tests.
#[test]
fn gradients_of_linear_layers_are_added() {
    let dev = &mut Device::new(DType::F64, 2);
    // k <= 2, one row, one column and many rows take different ways through `gemm`.
    for dims in [[1, 1, 1], [5, 2, 3], [1, 9, 70], [70, 9, 1], [130, 65, 140]] {
        let [t, d, f] = dims;
        let (x, w, dy) = (draw(1, t * d), draw(2, f * d), draw(3, t * f));
        let (y0, dw0, db0) = (draw(4, t * f), draw(5, f * d), draw(6, f));
        close(&dev.linear(&x, &w, dims, Some(&y0)), &plus(&y0, &dev.linear(&x, &w, dims, None)));
        let dw = dev.linear_backward_weight(&dy, &x, dims, 1.0, None);
        close(&dev.linear_backward_weight(&dy, &x, dims, 1.0, Some(&dw0)), &plus(&dw0, &dw));
        // What is there already is not scaled.
        let scaled_dw = plus(&dw0, &scaled(dw, 0.3));
        close(&dev.linear_backward_weight(&dy, &x, dims, 0.3, Some(&dw0)), &scaled_dw);
        close(&dev.bias_backward(&dy, f, Some(&db0)), &plus(&db0, &dev.bias_backward(&dy, f, None)));
    }
    let (t, d, v) = (67, 9, 200);
    let (ids, dy, dw0) = (indices(6, t, v), draw(3, t * d), draw(7, v * d));
    let dw = dev.embedding_backward(&ids, &dy, [v, d], 1.0, None);
    close(&dev.embedding_backward(&ids, &dy, [v, d], -2.0, Some(&dw0)), &plus(&dw0, &scaled(dw, -2.0)));
}

#[test]
fn gradients_of_norms_are_added() {
    let dev = &mut Device::new(DType::F64, 2);
    let (t, d) = (67, 9);
    let (x, w, b, dy) = (draw(1, t * d), draw(2, d), draw(8, d), draw(3, t * d));
    let (dx0, dw0, db0, none) = (draw(4, t * d), draw(5, d), draw(6, d), vec![0.0; t * d]);
    let [_, rstd] = dev.rmsnorm(&x, &w, 1.0);
    let [dx, dw] = dev.rmsnorm_backward([&x, &w, &rstd, &dy], 1.0, &none, None);
    let [dx1, dw1] = dev.rmsnorm_backward([&x, &w, &rstd, &dy], 1.0, &dx0, Some(&dw0));
    close(&dx1, &plus(&dx0, &dx));
    close(&dw1, &plus(&dw0, &dw));

    let [_, stats] = dev.layernorm(&x, &w, &b);
    let [dx, dw, db] = dev.layernorm_backward([&x, &w, &stats, &dy], &none, None);
    let [dx1, dw1, db1] = dev.layernorm_backward([&x, &w, &stats, &dy], &dx0, Some([&dw0, &db0]));
    close(&dx1, &plus(&dx0, &dx));
    close(&dw1, &plus(&dw0, &dw));
    close(&db1, &plus(&db0, &db));

    let heads = heads(3, 1, 5);
    let (x, w, dy, dw0) = (draw(1, t * heads.qkv()), draw(2, 10), draw(3, t * heads.qkv()), draw(4, 10));
    let [y, rstd] = dev.head_norm(&x, &w, heads);
    let [dx, dw] = dev.head_norm_backward([&x, &w, &rstd, &dy], heads, None);
    let [dx1, dw1] = dev.head_norm_backward([&x, &w, &rstd, &dy], heads, Some(&dw0));
    assert_eq!(dx1, dx);
    close(&dw1, &plus(&dw0, &dw));
    // Values and their gradients pass.
    let values = |x: &[f64]| x.chunks(heads.qkv()).flat_map(|row| row[20..].to_vec()).collect::<Vec<_>>();
    assert_eq!((values(&y), values(&dx)), (values(&x), values(&dy)));

    let (x, dy, dw0) = (draw(1, t * d), draw(2, t * d), draw(3, t * d));
    let [y, norms] = dev.unit_rows(&x, d);
    let dw = dev.unit_rows_backward([&y, &norms, &dy], d, 0.5, None);
    close(&dev.unit_rows_backward([&y, &norms, &dy], d, 0.5, Some(&dw0)), &plus(&dw0, &dw));
}

#[test]
fn a_row_of_zeros_is_not_stretched() {
    let dev = &mut Device::new(DType::F32, 1);
    let [y, norms] = dev.unit_rows(&[0.0, 0.0, 3.0, 4.0], 2);
    assert_eq!((y[..2].to_vec(), norms[0]), (vec![0.0; 2], f64::from(1e-12_f32)));
    assert_eq!((error(&y[2..], &[0.6, 0.8]) < 1e-7, norms[1]), (true, 5.0));
    let dw = dev.unit_rows_backward([&y, &norms, &[1e-12, 0.0, 0.0, 0.0]], 2, 1.0, None);
    assert_eq!(dw, [1.0, 0.0, 0.0, 0.0]);
}

#[test]
fn fill_copy_add_and_take_rows() {
    let dev = &mut Device::new(DType::F32, 2);
    let n = 40_000;
    let (a, b) = (draw(1, n), draw(2, n));

    let y = dev.poison(n);
    assert_eq!(dev.run(Op::Fill { y, value: 0.5 }, [y]), [vec![0.5; n]]);
    let (x, y) = (dev.float(&a), dev.poison(n));
    assert_eq!(dev.run(Op::Copy { x, y }, [y]), std::slice::from_ref(&a));
    let (x, y) = (dev.int(&[7, 8, u32::MAX]), dev.int(&[0; 3]));
    assert_eq!(dev.run(Op::Copy { x, y }, [y]), [vec![7.0, 8.0, u32::MAX as f64]]);
    let (x, y) = (dev.float(&a), dev.float(&b));
    let [sum] = dev.run(Op::Add { x, y }, [y]);
    assert!(error(&sum, &plus(&a, &b)) < 1e-7);
    let (rows, x, y) = (dev.int(&[3, 0, 3]), dev.float(&a[..8]), dev.poison(6));
    let rows_of_two = vec![a[6], a[7], a[0], a[1], a[6], a[7]];
    assert_eq!(dev.run(Op::TakeRows { rows, x, y, d: 2 }, [y]), [rows_of_two]);
    let z = dev.float(&a);
    let [capped] = dev.run(Op::SoftCap { z, cap: 0.7 }, [z]);
    assert!(error(&capped, &a.iter().map(|z| 0.7 * (z / 0.7).tanh()).collect::<Vec<_>>()) < 1e-6);
}

#[test]
fn large_numbers_do_not_overflow() {
    let dev = &mut Device::new(DType::F32, 1);
    let heads = heads(1, 1, 1);
    let qkv = [1e18, 1e18, 2.0, 1e18, 1e19, 3.0];
    for cap in [None, Some(1e6)] {
        let [o, _] = dev.attention(&qkv, &[0, 2], heads, Scores { scale: 1.0, cap, ..plain(heads) });
        let expected = if cap.is_none() { [2.0, 3.0] } else { [2.0, 2.5] };
        assert_eq!(o, expected);
    }
    for by in [Nonlinearity::Silu, Nonlinearity::Gelu, Nonlinearity::GeluTanh] {
        assert_eq!(dev.gated(&[-1e30, 1e30, 1.0, 1.0], 2, by), [0.0, 1e30_f32 as f64], "{by:?}");
        assert_eq!(dev.activation_backward(&[-1e15, 1e15], &[1.0, 1.0], by), [0.0, 1.0], "{by:?}");
    }
}

/// A window as long as the longest segment hides nothing and changes no bit; one of a single token leaves its value.
#[test]
fn windows() {
    let (dev, heads) = (&mut Device::new(DType::F32, 2), heads(4, 2, 8));
    let (qkv, d_o, cu_seqlens) = (draw(1, 200 * heads.qkv()), draw(2, 200 * heads.out()), [0, 130, 130, 200]);
    let of = |window| Scores { window, ..plain(heads) };
    let out = dev.attention(&qkv, &cu_seqlens, heads, of(None));
    let dqkv = dev.attention_backward(&qkv, &cu_seqlens, &out, &d_o, heads, of(None));
    for window in [130, 131, usize::MAX] {
        assert!(dev.attention(&qkv, &cu_seqlens, heads, of(Some(window))) == out, "{window}");
        let same = dev.attention_backward(&qkv, &cu_seqlens, &out, &d_o, heads, of(Some(window))) == dqkv;
        assert!(same, "backward, {window}");
    }
    // One less, and the last token of the first segment misses its first.
    let [narrower, _] = dev.attention(&qkv, &cu_seqlens, heads, of(Some(129)));
    let differ: Vec<usize> = (0..200 * heads.out()).filter(|&i| narrower[i] != out[0][i]).collect();
    assert!(!differ.is_empty() && differ.iter().all(|i| i / heads.out() == 129));

    let [o, _] = dev.attention(&qkv, &cu_seqlens, heads, of(Some(1)));
    for (o, qkv) in o.chunks(heads.out()).zip(qkv.chunks(heads.qkv())) {
        let (first, second) = qkv[6 * 8..].split_at(8);
        assert_eq!(o, [first, first, second, second].concat());
    }
}

/// What one segment holds, NaN included, does not reach another.
#[test]
fn segments_are_apart() {
    let (dev, heads) = (&mut Device::new(DType::F32, 2), heads(2, 1, 4));
    let (mut qkv, mut d_o, cu_seqlens) = (draw(1, 90 * heads.qkv()), draw(2, 90 * heads.out()), [0, 20, 20, 70, 90]);
    qkv[20 * heads.qkv()..70 * heads.qkv()].fill(f64::NAN);
    d_o[20 * heads.out()..70 * heads.out()].fill(f64::NAN);
    let out = dev.attention(&qkv, &cu_seqlens, heads, plain(heads));
    let dqkv = dev.attention_backward(&qkv, &cu_seqlens, &out, &d_o, heads, plain(heads));
    for (x, width) in [(&out[0], heads.out()), (&dqkv, heads.qkv())] {
        for (token, row) in x.chunks(width).enumerate() {
            assert_eq!(row.iter().any(|x| x.is_nan()), (20..70).contains(&token), "token {token}");
        }
    }
}

#[test]
#[should_panic(expected = "out of range")]
fn a_type_beyond_the_last_is_refused() {
    Device::new(DType::F32, 1).cross_entropy(&[0.0, 1.0], &[0], (&[2], 2), [1.0, 1.0], PLAIN);
}

#[test]
#[should_panic(expected = "a token sees itself")]
fn an_empty_window_is_refused() {
    let heads = heads(1, 1, 1);
    Device::new(DType::F32, 1).attention(&[1.0; 3], &[0, 1], heads, Scores { window: Some(0), ..plain(heads) });
}

/// With queries of zeros the scores are the slopes alone: the log-sum-exp of two tokens is ln(1 + exp(-slope)).
#[test]
fn slopes_of_alibi() {
    let slopes = |n: usize| {
        let heads = heads(n, 1, 2);
        let dev = &mut Device::new(DType::F64, 1);
        let alibi = Scores { alibi: alibi(heads), ..plain(heads) };
        let [_, lse] = dev.attention(&vec![0.0; 2 * heads.qkv()], &[0, 2], heads, alibi);
        lse.chunks(2).map(|lse| -lse[1].exp_m1().ln()).collect::<Vec<f64>>()
    };
    let powers = |exponents: &[f64]| exponents.iter().map(|e| (-e).exp2()).collect::<Vec<f64>>();
    assert!(error(&slopes(8), &powers(&[1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0])) < 1e-12);
    assert!(error(&slopes(2), &powers(&[4.0, 8.0])) < 1e-12);
    assert!(error(&slopes(3), &powers(&[4.0, 8.0, 2.0])) < 1e-12);
    let twelve = [1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0, 0.5, 1.5, 2.5, 3.5];
    assert!(error(&slopes(12), &powers(&twelve)) < 1e-12);
}
