//! What is written, what is added to, what is left alone, and that nothing stale gets through.
use crate::device::{Device, draw, error, indices};
use backend::{DType, Heads, Op};

fn plus(a: &[f64], b: &[f64]) -> Vec<f64> {
    a.iter().zip(b).map(|(a, b)| a + b).collect()
}

/// `acc` adds, and the residual in dx stays. Without `acc` every gradient is written over NaN, here and in all tests.
#[test]
fn gradients_are_added() {
    let dev = &mut Device::new(DType::F64, 2);
    let close = |a: &[f64], b: &[f64]| assert!(error(a, b) < 1e-13);
    // k <= 2, one row, one column and many rows take different ways through `gemm`.
    for dims in [[1, 1, 1], [5, 2, 3], [1, 9, 70], [70, 9, 1], [130, 65, 140]] {
        let [t, d, f] = dims;
        let (x, w, dy) = (draw(1, t * d), draw(2, f * d), draw(3, t * f));
        let (y0, dw0) = (draw(4, t * f), draw(5, f * d));
        close(&dev.linear(&x, &w, dims, Some(&y0)), &plus(&y0, &dev.linear(&x, &w, dims, None)));
        let dw = dev.linear_backward_weight(&dy, &x, dims, None);
        close(&dev.linear_backward_weight(&dy, &x, dims, Some(&dw0)), &plus(&dw0, &dw));
    }

    let (t, d, v) = (67, 9, 200);
    let (x, w, dy, dx0, dw0) = (draw(1, t * d), draw(2, d), draw(3, t * d), draw(4, t * d), draw(5, d));
    let [_, rstd] = dev.rmsnorm(&x, &w);
    let [dx, dw] = dev.rmsnorm_backward(&x, &w, &rstd, &dy, &vec![0.0; t * d], None);
    let [dx1, dw1] = dev.rmsnorm_backward(&x, &w, &rstd, &dy, &dx0, Some(&dw0));
    close(&dx1, &plus(&dx0, &dx));
    close(&dw1, &plus(&dw0, &dw));

    let (ids, dw0) = (indices(6, t, v), draw(7, v * d));
    let dw = dev.embedding_backward(&ids, &dy, [v, d], None);
    close(&dev.embedding_backward(&ids, &dy, [v, d], Some(&dw0)), &plus(&dw0, &dw));
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
}

/// Not even a NaN in a row without a label is seen outside.
#[test]
fn rows_without_a_label_become_zeros() {
    let dev = &mut Device::new(DType::F32, 2);
    let mut logits = draw(1, 3 * 8);
    logits[8..16].fill(f64::NAN);
    logits[9] = f64::INFINITY;
    let labels = [2, u32::MAX, 7];
    let [loss, dlogits] = dev.cross_entropy(&logits, &labels, 2.0);
    assert!(loss[0].is_finite());
    assert_eq!(loss, dev.cross_entropy_loss(&logits, &labels));
    assert!(dlogits.iter().all(|x| x.is_finite()));
    assert_eq!(dlogits[8..16], [0.0; 8]);

    let [loss, dlogits] = dev.cross_entropy(&logits, &[u32::MAX; 3], 0.0);
    assert_eq!((loss[0], dlogits), (0.0, vec![0.0; 24]));
}

#[test]
fn large_logits_do_not_overflow() {
    let dev = &mut Device::new(DType::F32, 1);
    let [loss, dlogits] = dev.cross_entropy(&[3e38, -3e38, 0.0], &[0], 1.0);
    assert_eq!((loss[0], dlogits), (0.0, vec![0.0; 3]));
    let heads = Heads { n: 1, kv: 1, dim: 1 };
    let [o, _] = dev.attention(&[1e18, 1e18, 2.0, 1e18, 1e19, 3.0], &[0, 2], heads);
    assert_eq!(o, [2.0, 3.0]);
    let s = dev.swiglu(&[-1e30, 1e30, 1.0, 1.0], 2);
    assert_eq!(s, [0.0, 1e30_f32 as f64]);
}

#[test]
fn labels_are_counted() {
    let dev = &mut Device::new(DType::F32, 1);
    let (labels, count) = (dev.int(&[3, u32::MAX, 0]), dev.double(&[f64::NAN]));
    assert_eq!(dev.run(Op::CountLabels { labels, count, acc: false }, [count]), [[2.0]]);
    let (labels, count) = (dev.int(&[3, u32::MAX, 0]), dev.double(&[5.0]));
    assert_eq!(dev.run(Op::CountLabels { labels, count, acc: true }, [count]), [[7.0]]);
}

#[test]
fn the_norm_decides() {
    let dev = &mut Device::new(DType::F32, 2);
    assert_eq!(dev.sum_squares(&[1.0, 2.0, 3.0, 4.0, 5.0], 2), [5.0, 25.0, 25.0]);
    // f32 would overflow.
    assert!(dev.sum_squares(&[1e30; 20], 20)[0].is_finite());

    let cases = [
        // sums, labels, max norm -> norm, factor, step
        (vec![9.0, 16.0], 1.0, 0.0, [5.0, 1.0, 1.0]),
        (vec![9.0, 16.0], 1.0, 10.0, [5.0, 1.0, 1.0]),
        (vec![9.0, 16.0], 1.0, 2.5, [5.0, 0.5, 1.0]),
        (vec![0.0], 1.0, 1.0, [0.0, 1.0, 1.0]),
        (vec![9.0, 16.0], 0.0, 2.5, [5.0, 0.0, 0.0]),
        (vec![9.0, f64::INFINITY], 1.0, 2.5, [f64::INFINITY, 0.0, 0.0]),
    ];
    for (sums, count, max_norm, norm) in cases {
        assert_eq!(dev.grad_norm(&sums, count, max_norm), norm);
    }
    let norm = dev.grad_norm(&[1.0, f64::NAN], 1.0, 2.5);
    assert!(norm[0].is_nan());
    assert_eq!(norm[1..], [0.0, 0.0]);
}

#[test]
fn a_step_not_taken_writes_nothing() {
    let dev = &mut Device::new(DType::F32, 2);
    let (p, m, v) = (draw(1, 33), draw(2, 33), draw(3, 33));
    let norm = [f64::NAN, 0.0, 0.0];
    assert_eq!(dev.adamw(&[f64::NAN; 33], norm, [&p, &m, &v]), [p, m, v]);
}
