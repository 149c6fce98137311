//! Attention against its formula, written down in f64 without a tile: shapes that fit none, rotations, every kind of
//! scores, every kind of vectors, and a segment much longer than what a worker may hold scores of.
use crate::device::{Device, draw, error, heads, indices, plain, rope_table, scores};
use crate::ops::Rotate;
use backend::{DType, Heads, Isa, Op, Pairs, Scores};

/// One segment of one query head.
struct Formula {
    scores: Scores,
    /// ALiBi's slope.
    slope: f64,
    q: Vec<Vec<f64>>,
    k: Vec<Vec<f64>>,
    v: Vec<Vec<f64>>,
}

fn dot(a: &[f64], b: &[f64]) -> f64 {
    a.iter().zip(b).map(|(a, b)| a * b).sum()
}

impl Formula {
    /// Scores of the keys that token i sees, with the first of these keys, and their slopes over the products.
    fn scores(&self, i: usize) -> (usize, Vec<f64>, Vec<f64>) {
        let first = (i + 1).saturating_sub(self.scores.window.unwrap_or(usize::MAX));
        let of = |j: usize| {
            let s = self.scores.scale * dot(&self.q[i], &self.k[j]);
            let (s, slope) = self.scores.cap.map_or((s, 1.0), |cap| {
                let tanh = (s / cap).tanh();
                (cap * tanh, 1.0 - tanh * tanh)
            });
            (s - self.slope * (i - j) as f64, slope)
        };
        let (s, slopes) = (first..=i).map(of).unzip();
        (first, s, slopes)
    }
    /// (o, lse) of token i
    fn forward(&self, i: usize) -> (Vec<f64>, f64) {
        let (first, s, _) = self.scores(i);
        let max = s.iter().fold(f64::NEG_INFINITY, |a, &b| a.max(b));
        let lse = max + s.iter().map(|s| (s - max).exp()).sum::<f64>().ln();
        let mut o = vec![0.0; self.v[i].len()];
        for (j, s) in s.iter().enumerate() {
            o.iter_mut().zip(&self.v[first + j]).for_each(|(o, v)| *o += (s - lse).exp() * v);
        }
        (o, lse)
    }
}

/// All segments and heads of qkv (T, (N+2K) H), already rotated: calls `f(first row, query head, kv head, formula)`.
fn each(
    qkv: &[f64],
    cu_seqlens: &[u32],
    heads: Heads,
    scores: Scores,
    mut f: impl FnMut(usize, usize, usize, Formula),
) {
    let Heads { n, kv, dim } = heads;
    for ends in cu_seqlens.windows(2) {
        let part = |column: usize| {
            let row = |t: u32| qkv[t as usize * heads.qkv() + column * dim..][..dim].to_vec();
            (ends[0]..ends[1]).map(row).collect::<Vec<_>>()
        };
        for head in 0..n {
            let group = head / (n / kv);
            // Powers of two suffice here; others are tested in `semantics`.
            let slope = if scores.alibi.is_some() { (-8.0 * (head + 1) as f64 / n as f64).exp2() } else { 0.0 };
            let [q, k, v] = [head, n + group, n + kv + group].map(part);
            f(ends[0] as usize, head, group, Formula { scores, slope, q, k, v });
        }
    }
}

/// [o, lse]
fn forward(qkv: &[f64], cu_seqlens: &[u32], heads: Heads, scores: Scores) -> [Vec<f64>; 2] {
    let t = qkv.len() / heads.qkv();
    let (mut o, mut lse) = (vec![0.0; t * heads.out()], vec![0.0; t * heads.n]);
    each(qkv, cu_seqlens, heads, scores, |first, head, _, formula| {
        for i in 0..formula.q.len() {
            let (row, of_row) = formula.forward(i);
            o[(first + i) * heads.out() + head * heads.dim..][..heads.dim].copy_from_slice(&row);
            lse[head * t + first + i] = of_row;
        }
    });
    [o, lse]
}

/// Of what is rotated.
fn backward(qkv: &[f64], cu_seqlens: &[u32], d_o: &[f64], heads: Heads, scores: Scores) -> Vec<f64> {
    let mut dqkv = vec![0.0; qkv.len()];
    each(qkv, cu_seqlens, heads, scores, |first, head, group, formula| {
        let mut add = |i: usize, column: usize, by: f64, x: &[f64]| {
            let to = &mut dqkv[(first + i) * heads.qkv() + column * heads.dim..][..heads.dim];
            to.iter_mut().zip(x).for_each(|(to, x)| *to += by * x);
        };
        for i in 0..formula.q.len() {
            let d_o = &d_o[(first + i) * heads.out() + head * heads.dim..][..heads.dim];
            let ((o, lse), (from, s, slopes)) = (formula.forward(i), formula.scores(i));
            for (j, (s, slope)) in s.iter().zip(slopes).enumerate() {
                let (j, p) = (from + j, (s - lse).exp());
                let ds = scores.scale * slope * p * (dot(d_o, &formula.v[j]) - dot(d_o, &o));
                add(j, heads.n + heads.kv + group, p, d_o);
                add(i, head, ds, &formula.k[j]);
                add(j, heads.n + group, ds, &formula.q[i]);
            }
        }
    });
    dqkv
}

/// Queries and keys by their positions; with `sign` -1 back.
fn rotated(qkv: &[f64], (positions, table, pairs): Rotate, heads: Heads, sign: f64) -> Vec<f64> {
    let (dim, half) = (heads.dim, heads.dim / 2);
    let mut out = qkv.to_vec();
    for (row, &position) in out.chunks_mut(heads.qkv()).zip(positions) {
        let (cos, sin) = table[position as usize * dim..][..dim].split_at(half);
        for head in row.chunks_mut(dim).take(heads.n + heads.kv) {
            for i in 0..half {
                let (a, b) = match pairs {
                    Pairs::Half => (i, i + half),
                    Pairs::Interleaved => (2 * i, 2 * i + 1),
                };
                let (x, y, c, s) = (head[a], head[b], cos[i], sign * sin[i]);
                (head[a], head[b]) = (x * c - y * s, y * c + x * s);
            }
        }
    }
    out
}

/// Forward and backward of the device against the formula.
fn check(dev: &mut Device, cu_seqlens: &[u32], pairs: Option<Pairs>, heads: Heads, scores: Scores, limit: f64) {
    let t = cu_seqlens[cu_seqlens.len() - 1] as usize;
    let (positions, table) = (indices(3, t, 50), rope_table(50, heads.dim));
    let by = pairs.map(|pairs| (&*positions, &*table, pairs));
    let (x, d_o) = (draw(1, t * heads.qkv()), draw(2, t * heads.out()));
    let [qkv, o, lse] = dev.attention_of(&x, cu_seqlens, by, heads, scores);
    let dqkv = dev.attention_backward_of([&qkv, &o, &lse], cu_seqlens, by, &d_o, heads, scores);

    let want_qkv = by.map_or(x.clone(), |by| rotated(&x, by, heads, 1.0));
    let [want_o, want_lse] = forward(&want_qkv, cu_seqlens, heads, scores);
    let want_dqkv = backward(&want_qkv, cu_seqlens, &d_o, heads, scores);
    let want_dqkv = by.map_or(want_dqkv.clone(), |by| rotated(&want_dqkv, by, heads, -1.0));
    let all = [("qkv", qkv, want_qkv), ("o", o, want_o), ("lse", lse, want_lse), ("dqkv", dqkv, want_dqkv)];
    for (name, got, want) in all {
        let error = error(&got, &want);
        assert!(error < limit, "{name}, {heads:?} {cu_seqlens:?} {pairs:?} {scores:?} {:?}: {error:e}", dev.float);
    }
}

const FLOATS: [(DType, f64); 2] = [(DType::F64, 1e-12), (DType::F32, 1e-5)];

/// One head, all heads alike, groups of heads that do and do not divide a tile; head dimensions around multiples of 16.
#[test]
fn equals_its_formula() {
    let cases: [(Heads, &[u32]); 11] = [
        (heads(1, 1, 1), &[0, 1, 2, 70]),
        (heads(3, 1, 7), &[0, 1, 68, 101]),
        (heads(4, 2, 17), &[0, 67, 67, 70]),
        (heads(6, 2, 33), &[0, 16, 33, 65]),
        (heads(5, 5, 40), &[0, 90]),
        (heads(8, 4, 32), &[0, 128, 129]),
        (heads(12, 4, 64), &[0, 100]),
        (heads(8, 2, 80), &[0, 66]),
        (heads(2, 1, 96), &[0, 31, 95]),
        (heads(2, 2, 128), &[0, 65]),
        (heads(1, 1, 200), &[0, 35]),
    ];
    for (heads, cu_seqlens) in cases {
        for (float, limit) in FLOATS {
            let dev = &mut Device::new(float, 2);
            check(dev, cu_seqlens, None, heads, plain(heads), limit);
            if heads.dim % 2 == 0 {
                check(dev, cu_seqlens, Some(Pairs::Half), heads, plain(heads), limit);
                check(dev, cu_seqlens, Some(Pairs::Interleaved), heads, plain(heads), limit);
            }
        }
    }
}

/// More keys than are packed at a time, more queries than a work item has.
#[test]
fn long_segments_equal_the_formula() {
    let (one, many) = (heads(1, 1, 4), heads(32, 1, 2));
    for (float, limit) in FLOATS {
        let dev = &mut Device::new(float, 2);
        check(dev, &[0, 513, 514], Some(Pairs::Half), one, plain(one), limit);
        check(dev, &[0, 1100], Some(Pairs::Half), one, plain(one), limit);
        check(dev, &[0, 1100], None, one, Scores { window: Some(515), ..plain(one) }, limit);
        check(dev, &[0, 70], Some(Pairs::Interleaved), many, plain(many), limit);
    }
}

#[test]
fn every_kind_of_scores_equals_the_formula() {
    for (heads, cu_seqlens) in [(heads(4, 2, 16), &[0, 69, 75]), (heads(2, 1, 5), &[0, 1, 140])] {
        for (float, limit) in FLOATS {
            let dev = &mut Device::new(float, 2);
            for scores in scores(heads) {
                check(dev, cu_seqlens, None, heads, scores, limit);
            }
        }
    }
}

/// Instructions fuse products and sums or do not, and that is all the difference.
#[test]
fn every_isa_equals_the_formula() {
    for isa in Isa::all() {
        let dev = &mut Device::with_isa(DType::F32, 2, isa);
        for heads in [heads(4, 2, 32), heads(3, 1, 7)] {
            check(dev, &[0, 1, 131], None, heads, plain(heads), 1e-5);
        }
        let heads = heads(4, 2, 16);
        for scores in scores(heads) {
            check(dev, &[0, 9, 75], Some(Pairs::Half), heads, scores, 1e-5);
        }
    }
}

/// What a worker holds of this does not grow with the square of its length: see the tests inside of `cpu::attention`.
#[test]
fn a_segment_of_32768_tokens() {
    let (t, heads) = (1 << 15, heads(2, 1, 8));
    let (qkv, d_o) = (draw(1, t * heads.qkv()), draw(2, t * heads.out()));
    let dev = &mut Device::new(DType::F32, 2);
    let out = dev.attention(&qkv, &[0, t as u32], heads, plain(heads));
    let dqkv = dev.attention_backward(&qkv, &[0, t as u32], &out, &d_o, heads, plain(heads));
    let [o, lse] = out;

    each(&qkv, &[0, t as u32], heads, plain(heads), |_, head, _, formula| {
        for i in [0, 1, 511, 512, 1023, 20_000, t - 1] {
            let (want, want_lse) = formula.forward(i);
            assert!(error(&o[i * heads.out() + head * 8..][..8], &want) < 1e-5, "o, row {i}");
            assert!((lse[head * t + i] - want_lse).abs() < 1e-5, "lse, row {i}");
            let d_o = &d_o[i * heads.out() + head * 8..][..8];
            let (_, s, _) = formula.scores(i);
            let mut dq = [0.0; 8];
            for (j, s) in s.iter().enumerate() {
                let ds = formula.scores.scale * (s - want_lse).exp() * (dot(d_o, &formula.v[j]) - dot(d_o, &want));
                dq.iter_mut().zip(&formula.k[j]).for_each(|(dq, k)| *dq += ds * k);
            }
            // One part in 10⁵ of the largest gradient of the row, or of a typical one where they cancel.
            let off = dqkv[i * heads.qkv() + head * 8..][..8].iter().zip(dq).map(|(a, b)| (a - b).abs());
            let scale = dq.iter().fold(1e-2, |max: f64, x| max.max(x.abs()));
            assert!(off.fold(0.0, f64::max) < 1e-5 * scale, "dq, row {i}");
        }
    });
}

/// A prompt, then tokens one by one, all rotated on the way: as the attention of the whole.
#[test]
fn cached_equals_its_formula() {
    for (heads, t, prompt) in [(heads(6, 2, 32), 600, 590), (heads(2, 2, 64), 1100, 1090), (heads(3, 1, 10), 1030, 1)] {
        for pairs in [Pairs::Half, Pairs::Interleaved] {
            let dev = &mut Device::new(DType::F32, 2);
            let (positions, table, x) = (indices(3, t, 50), rope_table(50, heads.dim), draw(1, t * heads.qkv()));
            let turned = rotated(&x, (&positions, &table, pairs), heads, 1.0);
            for scores in [plain(heads), Scores { window: Some(70), cap: Some(3.0), ..plain(heads) }] {
                let [want, _] = forward(&turned, &[0, t as u32], heads, scores);
                let mut cache = vec![f64::NAN; 2 * t * heads.kv * heads.dim];
                let mut start = 0;
                while start < t {
                    let n = if start == 0 { prompt } else { (t - start).min(10) };
                    let part = |x: &[f64], width: usize| x[start * width..][..n * width].to_vec();
                    let [qkv, o, after] = {
                        let by = Some((&positions[start..][..n], &*table, pairs));
                        let o = dev.poison(n * heads.out());
                        let (qkv, span) = (dev.float(&part(&x, heads.qkv())), dev.int(&[start as u32, n as u32]));
                        let (cache, rotation) = (dev.float(&cache), dev.rotation(by));
                        let op = Op::AttentionCached { qkv, span, rotation, cache, o, heads, scores };
                        dev.run(op, [qkv, o, cache])
                    };
                    assert!(error(&qkv, &part(&turned, heads.qkv())) < 1e-6, "qkv from {start} on");
                    let error = error(&o, &part(&want, heads.out()));
                    assert!(error < 1e-5, "o of {n} from {start} on, {heads:?} {scores:?}: {error:e}");
                    (cache, start) = (after, start + n);
                }
            }
        }
    }
}
