//! What ranks that share a vocabulary or the heads compute together is what one rank computes alone.
use crate::device::{Device, alibi, draw, error, heads, indices, plain, scaled};
use backend::{Columns, DType, LogitLoss, Op, Scores, Slopes};

/// Columns of each of n ranks: equal widths, the last with padding.
fn cut(vocab: usize, n: usize) -> Vec<Columns> {
    let width = vocab.div_ceil(n);
    let of =
        |rank: usize| Columns { first: rank * width, filled: vocab.saturating_sub(rank * width).min(width), width };
    (0..n).map(of).collect()
}

#[test]
fn a_cut_vocabulary_has_the_same_loss_and_gradient() {
    let dev = &mut Device::new(DType::F64, 2);
    let (t, kinds) = (9, 3);
    let ways = [(None, 0.0), (None, 0.1), (Some(3.0), 0.0), (Some(2.0), 0.2)];
    // Uneven ones too; with 7 columns on 5 ranks the last has nothing but padding.
    for (vocab, n) in [(12, 1), (12, 3), (13, 2), (7, 4), (7, 5)] {
        let logits = scaled(draw(1, t * vocab), 3.0);
        let (mut labels, types) = (indices(2, t, vocab), indices(3, t, kinds));
        labels[4] = u32::MAX;
        for (cap, smoothing) in ways {
            let with = LogitLoss { cap, smoothing };
            let [want_stats, want] = dev.cross_entropy(&logits, &labels, (&types, kinds), [8.0, 16.0], with);
            // Everything has its place before the first operation runs.
            let [labels, types] = [&labels, &types].map(|x| dev.int(x));
            let all = dev.double(&vec![f64::NAN; n * t * 4]);
            let (stats, count, scale) = (dev.double(&[f64::NAN; 10]), dev.double(&[8.0]), dev.double(&[16.0]));
            let shard = |columns: Columns| {
                let Columns { first, filled, width } = columns;
                let at = |i: usize| match i % width {
                    column if column < filled => logits[i / width * vocab + first + column],
                    _ => f64::NAN,
                };
                (columns, dev.float(&(0..t * width).map(at).collect::<Vec<_>>()))
            };
            let shards: Vec<_> = cut(vocab, n).into_iter().map(shard).collect();
            for (rank, &(columns, logits)) in shards.iter().enumerate() {
                let parts = all.sub(rank * t * 4, t * 4);
                dev.run(Op::LogitParts { labels, logits, parts, columns, cap }, []);
            }
            let loss = Op::LossOfParts { labels, types, parts: all, stats, vocab, smoothing, acc: false };
            let [stats] = dev.run(loss, [stats]);
            assert!(error(&stats, &want_stats) < 1e-13, "{stats:?} {want_stats:?}");
            for (columns, logits) in shards {
                let Columns { first, filled, width } = columns;
                let op = Op::LogitGradient { labels, count, scale, parts: all, logits, columns, vocab, with };
                let [got] = dev.run(op, [logits]);
                for (row, want) in got.chunks(width).zip(want.chunks(vocab)) {
                    assert!(error(&row[..filled], &want[first.min(vocab)..][..filled]) < 1e-12);
                    assert!(row[filled..].iter().all(|x| *x == 0.0), "padding gets no gradient");
                }
            }
        }
    }
}

#[test]
fn a_cut_embedding_adds_up() {
    let dev = &mut Device::new(DType::F64, 2);
    let (t, v, d, n) = (70, 300, 5, 3);
    let (ids, w, dy) = (indices(1, t, v), draw(2, v * d), draw(3, t * d));
    let (want, want_dw) = (dev.embedding(&ids, &w, d, 1.5), dev.embedding_backward(&ids, &dy, [v, d], 1.5, None));
    let (mut sum, mut dw_all) = (vec![0.0; t * d], vec![]);
    for rank in 0..n {
        let (rows, first) = (v / n, Some(rank * v / n));
        let (tokens, w, y) = (dev.int(&ids), dev.float(&w[rank * rows * d..][..rows * d]), dev.poison(t * d));
        let [y] = dev.run(Op::Embedding { ids: tokens, w, y, d, scale: 1.5, first }, [y]);
        sum.iter_mut().zip(y).for_each(|(sum, y)| *sum += y);
        let (ids, dy, dw) = (dev.int(&ids), dev.float(&dy), dev.poison(rows * d));
        let [dw] = dev.run(Op::EmbeddingBackward { ids, dy, dw, d, scale: 1.5, first, acc: false }, [dw]);
        dw_all.extend(dw);
    }
    assert_eq!((sum, dw_all), (want, want_dw));
}

/// <split x, y> = <x, join y>, and what is sent and comes back is the same where nobody shares a head.
#[test]
fn heads_are_split_and_joined() {
    let dev = &mut Device::new(DType::F64, 2);
    let dot = |a: &[f64], b: &[f64]| a.iter().zip(b).map(|(a, b)| a * b).sum::<f64>();
    for (heads, parts) in [(heads(6, 3, 4), 3), (heads(8, 2, 3), 4), (heads(8, 2, 3), 2), (heads(6, 0, 5), 3)] {
        let (t, wide, narrow) = (37, heads.qkv(), parts * heads.part(parts).qkv());
        let (x, z) = (draw(1, t * wide), draw(2, t * narrow));
        let mut both = |x: &[f64], z: &[f64]| {
            let (x, y) = (dev.float(x), dev.poison(t * narrow));
            let [y] = dev.run(Op::SplitHeads { x, y, heads, parts }, [y]);
            let (x, w) = (dev.float(z), dev.poison(t * wide));
            let [w] = dev.run(Op::JoinHeads { x, y: w, heads, parts }, [w]);
            (y, w)
        };
        let (y, w) = both(&x, &z);
        assert!((dot(&y, &z) - dot(&x, &w)).abs() < 1e-10);
        let (_, back) = both(&x, &y);
        let shared = if heads.kv > 0 { parts.div_ceil(heads.kv) as f64 } else { 1.0 };
        for (row, back) in x.chunks(wide).zip(back.chunks(wide)) {
            let (q, kv) = row.split_at(heads.out());
            assert_eq!(back, [q.to_vec(), scaled(kv.to_vec(), shared)].concat());
        }
    }
}

/// A rank that has the upper half of the heads has their slopes.
#[test]
fn slopes_of_alibi_follow_the_head() {
    let dev = &mut Device::new(DType::F64, 1);
    let whole = heads(12, 1, 2);
    let qkv = vec![0.0; 3 * whole.qkv()];
    let [_, want] = dev.attention(&qkv, &[0, 3], whole, Scores { alibi: alibi(whole), ..plain(whole) });
    let half = heads(6, 1, 2);
    let upper = Scores { alibi: Some(Slopes { first: 6, of: 12 }), ..plain(half) };
    let [_, got] = dev.attention(&qkv[..3 * half.qkv()], &[0, 3], half, upper);
    assert_eq!(got, want[18..]);
}
