//! Attention on a card against the CPU's in f64: segments, windows and heads around the tiles of its kernels.
#[path = "../../../backend/tests/cpu/device.rs"]
#[allow(dead_code)]
mod device;
#[path = "../ops/under_test.rs"]
mod under_test;

use backend::{Backend, Cpu, DType, Heads, Isa, Op, Pairs, REGIONS, Region, Rotation, Scores, Slopes, View};
use device::{Device, draw, heads, indices, plain, rope_table};

/// What is attended to.
#[derive(Clone, Debug)]
struct Case {
    cu_seqlens: Vec<u32>,
    heads: Heads,
    scores: Scores,
    pairs: Option<Pairs>,
}

/// A card and a CPU in f64, with the same numbers.
struct Both {
    card: Device,
    cpu: Device,
    float: DType,
    limit: f64,
}

impl Both {
    fn new(float: DType) -> Both {
        let mut sizes = [0; REGIONS.len()];
        sizes[Region::Act as usize] = 96 << 20;
        let cpu: Box<dyn Backend> = Box::new(Cpu::new(sizes, 2));
        let limit = match float {
            DType::F64 => 1e-12,
            DType::F32 => 1e-5,
            DType::F16 => 2e-3,
            _ => 1e-2,
        };
        let card = Device::on(under_test::device(sizes, 1, Isa::best()), float);
        Both { card, cpu: Device::on(cpu, DType::F64), float, limit }
    }

    /// Forward and backward; the backward of what the CPU found, as the type stores it.
    fn check(&mut self, case: &Case) {
        let Case { heads, scores, .. } = *case;
        let t = *case.cu_seqlens.last().unwrap() as usize;
        let [x, d_o] = [draw(1, t * heads.qkv()), draw(2, t * heads.out())].map(|x| self.rounded(&x));
        let table = self.rounded(&rope_table(50, heads.dim));
        let forward = |dev: &mut Device, precise: DType| {
            let [qkv, o] = [dev.float(&x), dev.poison(t * heads.out())];
            let (cu_seqlens, rotation) = inputs(dev, case, t, &table);
            let lse = dev.stored(precise, &vec![f64::NAN; t * heads.n]);
            dev.run(Op::Attention { qkv, cu_seqlens, rotation, o, lse, heads, scores }, [qkv, o, lse])
        };
        let want = forward(&mut self.cpu, DType::F64);
        let got = forward(&mut self.card, self.float.precise());
        self.compare(case, ["qkv", "o", "lse"], &got, &want);

        let [qkv, o, lse] = want;
        let [qkv, o] = [qkv, o].map(|x| self.rounded(&x));
        let backward = |dev: &mut Device, precise: DType| {
            let [qkv, o, d_o, dqkv] = [&qkv, &o, &d_o, &vec![f64::NAN; qkv.len()]].map(|x| dev.float(x));
            let (cu_seqlens, rotation) = inputs(dev, case, t, &table);
            let lse = dev.stored(precise, &lse);
            let op = Op::AttentionBackward { qkv, cu_seqlens, rotation, o, lse, d_o, dqkv, heads, scores };
            let [dqkv] = dev.run(op, [dqkv]);
            // Queries, keys and values: gradients of different size.
            let ends = [0, heads.out(), heads.out() + heads.kv * heads.dim, heads.qkv()];
            [0, 1, 2].map(|i| dqkv.chunks(heads.qkv()).flat_map(|row| row[ends[i]..ends[i + 1]].to_vec()).collect())
        };
        let want: [Vec<f64>; 3] = backward(&mut self.cpu, DType::F64);
        let got = backward(&mut self.card, self.float.precise());
        self.compare(case, ["dq", "dk", "dv"], &got, &want);
    }

    fn compare<const N: usize>(&self, case: &Case, names: [&str; N], got: &[Vec<f64>; N], want: &[Vec<f64>; N]) {
        for ((name, got), want) in names.iter().zip(got).zip(want) {
            // A token that sees only itself has no gradients of scores: they are zeros, to what rounding leaves of them.
            let largest = want.iter().fold(1.0, |max: f64, x| max.max(x.abs()));
            let off = got.iter().zip(want).map(|(got, want)| (got - want).abs());
            let error = off.fold(0.0, |max: f64, x| if x.is_nan() { f64::INFINITY } else { max.max(x) }) / largest;
            assert!(error < self.limit, "{name} of {case:?} in {:?}: {error:e}", self.float);
        }
    }

    /// What the type makes of numbers.
    fn rounded(&self, x: &[f64]) -> Vec<f64> {
        let of = |x: &f64| match self.float {
            DType::BF16 => half::bf16::from_f64(*x).to_f64(),
            DType::F16 => half::f16::from_f64(*x).to_f64(),
            _ => *x,
        };
        x.iter().map(of).collect()
    }
}

fn inputs(dev: &mut Device, case: &Case, t: usize, table: &[f64]) -> (View, Option<Rotation>) {
    let cu_seqlens = dev.int(&case.cu_seqlens);
    let rotation =
        case.pairs.map(|pairs| Rotation { positions: dev.int(&indices(3, t, 50)), table: dev.float(table), pairs });
    (cu_seqlens, rotation)
}

fn case(cu_seqlens: &[u32], heads: Heads) -> Case {
    Case { cu_seqlens: cu_seqlens.to_vec(), heads, scores: plain(heads), pairs: None }
}

/// Every way of making scores.
fn all_scores(heads: Heads) -> [Scores; 5] {
    let plain = plain(heads);
    let alibi = Some(Slopes { first: 1, of: heads.n + 3 });
    [
        Scores { cap: Some(1.5), ..plain },
        Scores { alibi, ..plain },
        Scores { cap: Some(2.0), alibi, scale: 0.3, window: Some(40) },
        Scores { alibi, window: Some(7), ..plain },
        Scores { scale: 0.4, ..plain },
    ]
}

/// One token, several of one token, empty segments at the beginning, in the middle and at the end, none that fits a tile.
const SEGMENTS: [&[u32]; 5] =
    [&[0, 1], &[0, 1, 2, 3], &[0, 300, 300, 300], &[0, 0, 5, 133, 133, 134, 290], &[0, 128, 256]];

const HALVES: [DType; 2] = [DType::BF16, DType::F16];

#[test]
fn segments_of_any_length() {
    for float in HALVES {
        let mut both = Both::new(float);
        for segments in SEGMENTS {
            both.check(&case(segments, heads(4, 2, 64)));
            both.check(&case(segments, heads(2, 1, 128)));
        }
    }
}

#[test]
fn every_head_dimension() {
    for float in HALVES {
        let mut both = Both::new(float);
        for dim in [16, 32, 48, 80, 96, 112, 160, 192, 256] {
            both.check(&case(&[0, 70, 150], heads(3, 1, dim)));
        }
    }
}

#[test]
fn windows_around_a_tile() {
    let mut both = Both::new(DType::BF16);
    for window in [1, 2, 31, 32, 33, 63, 64, 65, 127, 128, 129, 1000] {
        let plain = case(&[0, 290, 310], heads(2, 1, 64));
        both.check(&Case { scores: Scores { window: Some(window), ..plain.scores }, ..plain });
    }
    for window in [1, 63, 64, 65, 150] {
        let plain = case(&[0, 290, 310], heads(1, 1, 128));
        both.check(&Case { scores: Scores { window: Some(window), ..plain.scores }, ..plain });
    }
}

#[test]
fn every_kind_of_scores() {
    for float in HALVES {
        let mut both = Both::new(float);
        for heads in [heads(6, 2, 64), heads(3, 1, 128), heads(2, 2, 256)] {
            for scores in all_scores(heads) {
                both.check(&Case { scores, ..case(&[0, 60, 190], heads) });
            }
        }
    }
}

#[test]
fn rotated_both_ways() {
    for float in [DType::BF16, DType::F16, DType::F32] {
        let mut both = Both::new(float);
        for pairs in [Pairs::Half, Pairs::Interleaved] {
            for dim in [64, 96, 10] {
                both.check(&Case { pairs: Some(pairs), ..case(&[0, 33, 130], heads(4, 2, dim)) });
            }
        }
    }
}

/// Types that tensor cores do not do, and head dimensions that are no multiple of anything.
#[test]
fn without_tensor_cores() {
    for float in [DType::F32, DType::F64] {
        let mut both = Both::new(float);
        for heads in [heads(2, 1, 1), heads(3, 1, 7), heads(4, 2, 64), heads(2, 1, 100), heads(1, 1, 256)] {
            for segments in SEGMENTS {
                both.check(&case(segments, heads));
            }
            for scores in all_scores(heads) {
                both.check(&Case { scores, ..case(&[0, 60, 150], heads) });
            }
        }
    }
}

impl Both {
    /// Rows of which `n` are tokens from `start` on, over a cache of 700.
    fn check_cached(&mut self, t: usize, [start, n]: [u32; 2], heads: Heads, scores: Scores) {
        let (x, cache) = (draw(1, t * heads.qkv()), draw(2, 2 * 700 * heads.kv * heads.dim));
        let [x, cache, table] = [x, cache, rope_table(50, heads.dim)].map(|x| self.rounded(&x));
        let case = Case { pairs: Some(Pairs::Half), ..case(&[start, n], heads) };
        let run = |dev: &mut Device| {
            let [qkv, cache, o] = [&x, &cache, &vec![f64::NAN; t * heads.out()]].map(|x| dev.float(x));
            let (span, rotation) = inputs(dev, &case, t, &table);
            dev.run(Op::AttentionCached { qkv, span, rotation, cache, o, heads, scores }, [qkv, cache, o])
        };
        let (want, got) = (run(&mut self.cpu), run(&mut self.card));
        self.compare(&Case { scores, ..case }, ["qkv", "cache", "o"], &got, &want);
    }
}

/// One token, some with padding, more than are decoded together, and none at all.
#[test]
fn over_a_cache() {
    for float in [DType::F64, DType::F32, DType::BF16] {
        let mut both = Both::new(float);
        for heads in [heads(8, 2, 64), heads(2, 1, 128), heads(4, 4, 16), heads(3, 1, 6)] {
            for span in [[0, 1], [0, 0], [1, 1], [255, 1], [256, 1], [600, 1]] {
                both.check_cached(1, span, heads, plain(heads));
            }
            both.check_cached(2, [500, 2], heads, plain(heads));
            both.check_cached(2, [511, 1], heads, plain(heads));
            both.check_cached(20, [400, 17], heads, plain(heads));
        }
        let heads = heads(8, 2, 64);
        for scores in all_scores(heads) {
            both.check_cached(2, [600, 2], heads, scores);
            both.check_cached(9, [300, 8], heads, scores);
        }
    }
}
