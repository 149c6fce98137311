//! Labels, counts, norms and the step: what counts, what does not, and what a step that is not taken leaves alone.
use crate::device::{Device, draw, error, indices, scaled};
use crate::ops::PLAIN;
use backend::{DType, LogitLoss, LossScale, Op};

const NONE: u32 = u32::MAX;
/// Each way of treating logits.
const WAYS: [LogitLoss; 4] = [
    PLAIN,
    LogitLoss { cap: None, smoothing: 0.1 },
    LogitLoss { cap: Some(3.0), smoothing: 0.0 },
    LogitLoss { cap: Some(3.0), smoothing: 0.1 },
];

/// Not even a NaN in a row without a label, or a type that does not exist, is seen outside.
#[test]
fn rows_without_a_label_become_zeros() {
    let dev = &mut Device::new(DType::F32, 2);
    let mut logits = draw(1, 3 * 8);
    let clean = [&logits[..8], &logits[16..]].concat();
    logits[8..16].fill(f64::NAN);
    logits[9] = f64::INFINITY;
    let (labels, types) = ([2, NONE, 7], [1, NONE, 0]);
    for with in WAYS {
        let [stats, dlogits] = dev.cross_entropy(&logits, &labels, (&types, 2), [2.0, 8.0], with);
        let [stats_of_two, dlogits_of_two] = dev.cross_entropy(&clean, &[2, 7], (&[1, 0], 2), [2.0, 8.0], with);
        assert_eq!(stats, stats_of_two);
        assert_eq!(dlogits, [&dlogits_of_two[..8], &[0.0; 8], &dlogits_of_two[8..]].concat());
        assert!(stats.iter().chain(&dlogits).all(|x| x.is_finite()));
        let loss = dev.cross_entropy_loss(&logits, &labels, (&types, 2), with.cap);
        assert_eq!(loss, dev.cross_entropy_loss(&clean, &[2, 7], (&[1, 0], 2), with.cap));
    }
}

#[test]
fn without_labels_there_is_no_loss_and_no_gradient() {
    let dev = &mut Device::new(DType::F32, 2);
    for with in WAYS {
        let [stats, dlogits] =
            dev.cross_entropy(&draw(1, 24), &[NONE; 3], (&[0, 1, NONE], 2), [0.0, f64::INFINITY], with);
        assert_eq!((stats, dlogits), (vec![0.0; 7], vec![0.0; 24]));
    }
    let stats = dev.cross_entropy_loss(&[f64::NAN; 24], &[NONE; 3], (&[5; 3], 2), Some(1.0));
    assert_eq!(stats, [0.0; 7]);
}

#[test]
fn the_gradient_is_scaled_and_the_loss_is_not() {
    let dev = &mut Device::new(DType::F64, 2);
    let (logits, labels) = (scaled(draw(1, 5 * 9), 3.0), indices(2, 5, 9));
    for with in WAYS {
        let mut run = |count, scale| dev.cross_entropy(&logits, &labels, (&[0; 5], 1), [count, scale], with);
        let ([stats, gradient], [same, larger]) = (run(5.0, 1.0), run(10.0, 1024.0));
        assert_eq!(stats, same);
        assert!(error(&larger, &scaled(gradient, 512.0)) < 1e-14);
    }
}

/// The sums by type are those of their tokens alone, and together those of all.
#[test]
fn stats_of_types_add_up() {
    let dev = &mut Device::new(DType::F64, 2);
    let (t, v, kinds) = (200, 7, 4);
    let logits = draw(1, t * v);
    let mut labels = indices(2, t, v);
    labels[10..20].fill(NONE);
    // The last type occurs in no token.
    let types = indices(3, t, kinds - 1);
    for with in WAYS {
        let [stats, _] = dev.cross_entropy(&logits, &labels, (&types, kinds), [190.0, 1.0], with);
        let [all, _] = dev.cross_entropy(&logits, &labels, (&vec![0; t], 1), [190.0, 1.0], with);
        assert_eq!(stats[0], all[0]);
        assert_eq!(stats[10..], [0.0; 3]);
        for i in 0..3 {
            let sum: f64 = (0..kinds).map(|kind| stats[1 + 3 * kind + i]).sum();
            assert!((sum - all[1 + i]).abs() < 1e-11 * sum, "{sum} and {}", all[1 + i]);
        }
        assert_eq!(all[2], 190.0);
        assert!(with.smoothing > 0.0 || (all[0] - all[1]).abs() < 1e-11, "without smoothing the loss is the sum");
        for kind in 0..kinds as u32 {
            let only: Vec<u32> = (0..t).map(|i| if types[i] == kind { labels[i] } else { NONE }).collect();
            let alone = dev.cross_entropy_loss(&logits, &only, (&types, kinds), with.cap);
            let at = 1 + 3 * kind as usize;
            assert_eq!(alone[at..at + 3], stats[at..at + 3]);
            let argmax = |row: &[f64]| (0..v).max_by(|a, b| row[*a].total_cmp(&row[*b])).unwrap() as u32;
            let hits = (0..t).filter(|&i| only[i] == argmax(&logits[i * v..][..v])).count();
            assert_eq!(stats[at + 2], hits as f64, "hits of type {kind}");
        }
    }
}

/// The running sums go on where the last call left them: rows in pieces give the bits of rows at once.
#[test]
fn in_pieces_the_stats_have_the_same_bits() {
    let (t, v, kinds) = (150, 37, 3);
    let dev = &mut Device::new(DType::F32, 2);
    let mut labels = indices(2, t, v);
    labels[20..30].fill(NONE);
    let mut run = |pieces: &[usize], with: LogitLoss| {
        let [labels, types] = [&labels, &indices(3, t, kinds)].map(|x| dev.int(x));
        let (logits, count, scale) =
            (dev.float(&scaled(draw(1, t * v), 3.0)), dev.double(&[140.0]), dev.double(&[8.0]));
        let [stats, loss] = [(); 2].map(|_| dev.double(&vec![f64::NAN; 1 + 3 * kinds]));
        let mut at = 0;
        for &n in pieces {
            let acc = at > 0;
            let ([labels, types], logits) = ([labels, types].map(|x| x.sub(at, n)), logits.sub(at * v, n * v));
            dev.run(Op::CrossEntropyLoss { labels, types, logits, stats: loss, v, cap: with.cap, acc }, []);
            dev.run(Op::CrossEntropy { labels, types, count, scale, logits, stats, v, with, acc }, []);
            at += n;
        }
        assert_eq!(at, t);
        [stats, loss, logits].map(|view| dev.get(view))
    };
    for with in WAYS {
        let whole = run(&[t], with);
        for pieces in [&[1, 149][..], &[75, 75], &[64, 64, 22], &[7, 13, 5, 1, 100, 24]] {
            assert!(run(pieces, with) == whole, "{with:?} in {pieces:?}");
        }
    }
}

#[test]
fn large_logits_do_not_overflow() {
    let dev = &mut Device::new(DType::F32, 1);
    let [stats, dlogits] = dev.cross_entropy(&[3e38, -3e38, 0.0], &[0], (&[0], 1), [1.0, 1.0], PLAIN);
    assert_eq!((stats, dlogits), (vec![0.0, 0.0, 1.0, 1.0], vec![0.0; 3]));
    let capped = LogitLoss { cap: Some(2.0), smoothing: 0.0 };
    let [stats, dlogits] = dev.cross_entropy(&[3e38, -3e38, 0.0], &[1], (&[0], 1), [1.0, 1.0], capped);
    let loss = (2.0_f64.exp() + (-2.0_f64).exp() + 1.0).ln() + 2.0;
    assert!((stats[0] - loss).abs() < 1e-6 && stats[3] == 0.0 && dlogits[..2] == [0.0; 2]);
}

#[test]
fn labels_are_counted() {
    let dev = &mut Device::new(DType::F32, 1);
    let (labels, count) = (dev.int(&[3, NONE, 0]), dev.double(&[f64::NAN]));
    assert_eq!(dev.run(Op::CountLabels { labels, count, acc: false }, [count]), [[2.0]]);
    let (labels, count) = (dev.int(&[3, NONE, 0]), dev.double(&[5.0]));
    assert_eq!(dev.run(Op::CountLabels { labels, count, acc: true }, [count]), [[7.0]]);
}

#[test]
fn the_norm_decides() {
    let dev = &mut Device::new(DType::F32, 2);
    assert_eq!(dev.sum_squares(&[1.0, 2.0, 3.0, 4.0, 5.0], 2), [5.0, 25.0, 25.0]);
    // f32 would overflow.
    assert!(dev.sum_squares(&[1e30; 20], 20)[0].is_finite());

    let infinity = f64::INFINITY;
    let cases = [
        // sums, labels, loss scale, max norm -> norm, factor, step
        (vec![9.0, 16.0], 1.0, 1.0, 0.0, [5.0, 1.0, 1.0]),
        (vec![9.0, 16.0], 1.0, 1.0, 10.0, [5.0, 1.0, 1.0]),
        (vec![9.0, 16.0], 1.0, 1.0, 2.5, [5.0, 0.5, 1.0]),
        (vec![0.0], 1.0, 1.0, 1.0, [0.0, 1.0, 1.0]),
        (vec![9.0, 16.0], 0.0, 1.0, 2.5, [5.0, 0.0, 0.0]),
        (vec![9.0, infinity], 1.0, 1.0, 2.5, [infinity, 0.0, 0.0]),
        // The gradient is `scale` times too large: so is its length, and the factor undoes it.
        (vec![9.0, 16.0], 1.0, 2.0, 0.0, [2.5, 0.5, 1.0]),
        (vec![9.0, 16.0], 1.0, 2.0, 2.5, [2.5, 0.5, 1.0]),
        (vec![9.0, 16.0], 1.0, 2.0, 1.25, [2.5, 0.25, 1.0]),
        (vec![infinity], 1.0, 2.0, 1.25, [infinity, 0.0, 0.0]),
    ];
    for (sums, count, scale, max_norm, norm) in cases {
        assert_eq!(dev.grad_norm(&sums, count, scale, max_norm), norm);
    }
    let norm = dev.grad_norm(&[1.0, f64::NAN], 1.0, 4.0, 2.5);
    assert!(norm[0].is_nan());
    assert_eq!(norm[1..], [0.0, 0.0]);
}

#[test]
fn a_step_not_taken_writes_nothing() {
    let dev = &mut Device::new(DType::F32, 2);
    let (p, m, v) = (draw(1, 33), draw(2, 33), draw(3, 33));
    for norm in [[f64::NAN, 0.0, 0.0], [0.0, 0.0, 0.0]] {
        assert_eq!(dev.adamw(&[f64::NAN; 33], norm, [&p, &m, &v]), [p.clone(), m.clone(), v.clone()]);
    }
}

/// The scale halves at the second overflow and at every one after it, and doubles after three good steps, which is also
/// what makes overflows forgotten.
#[test]
fn the_loss_scale_follows_overflows() {
    let dev = &mut Device::new(DType::F32, 1);
    let rule = LossScale { min: 1.0, max: 16.0, growth: 2.0, backoff: 0.5, interval: 3, hysteresis: 2 };
    let (good, infinite, nan) = ([5.0, 1.0, 1.0], [f64::INFINITY, 0.0, 0.0], [f64::NAN, 0.0, 0.0]);
    let no_labels = [0.0, 0.0, 0.0];
    let story = [
        (infinite, [8.0, 0.0, 1.0]),
        (infinite, [4.0, 0.0, 2.0]),
        (good, [4.0, 1.0, 2.0]),
        (nan, [2.0, 0.0, 3.0]),
        (good, [2.0, 1.0, 3.0]),
        (no_labels, [2.0, 1.0, 3.0]),
        (good, [2.0, 2.0, 3.0]),
        (good, [4.0, 0.0, 0.0]),
        (nan, [4.0, 0.0, 1.0]),
        (no_labels, [4.0, 0.0, 1.0]),
        (infinite, [2.0, 0.0, 2.0]),
        (infinite, [1.0, 0.0, 3.0]),
        (infinite, [1.0, 0.0, 4.0]),
    ];
    let mut scale = [8.0, 0.0, 0.0];
    for (step, (norm, expected)) in story.into_iter().enumerate() {
        scale = dev.loss_scale(norm, scale, rule);
        assert_eq!(scale, expected, "after step {step}");
    }
    for expected in [2.0, 4.0, 8.0, 16.0, 16.0] {
        for _ in 0..3 {
            scale = dev.loss_scale(good, scale, rule);
        }
        assert_eq!(scale, [expected, 0.0, 0.0]);
    }
}

/// An overflow in the gradients of one step: the norm sees it, nothing is written, the scale reacts.
#[test]
fn an_overflow_passes_through_the_whole_step() {
    let dev = &mut Device::new(DType::F32, 2);
    let rule = LossScale { min: 1.0, max: 16.0, growth: 2.0, backoff: 0.5, interval: 3, hysteresis: 1 };
    let mut g = draw(1, 100);
    for (value, scale) in [(1.0, [8.0, 1.0, 0.0]), (f64::INFINITY, [4.0, 0.0, 1.0]), (f64::NAN, [4.0, 0.0, 1.0])] {
        g[70] = value;
        let sums = dev.sum_squares(&g, 32);
        let norm = dev.grad_norm(&sums, 3.0, 8.0, 1.0);
        assert_eq!(dev.loss_scale(norm, [8.0, 0.0, 0.0], rule), scale);
        let (p, m, v) = (draw(2, 100), draw(3, 100), vec![1.0; 100]);
        let after = dev.adamw(&g, norm, [&p, &m, &v]);
        assert_eq!(after == [p, m, v], !value.is_finite());
    }
}
