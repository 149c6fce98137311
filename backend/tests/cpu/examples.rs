//! Every operation on random tensors, as data: what the tests of threads, of rounding and of storage have in common.
use crate::device::{Device, draw, heads, indices, plain, rope_table, scaled, scores};
use backend::{Columns, DType, Heads, LogitLoss, LossScale, Nonlinearity, Op, Pairs, Rotation, Scores, View};

pub enum Tensor {
    /// In a float type that the test chooses. Every number is exact in f32.
    Float(Vec<f64>),
    /// f64 whatever the operation computes in
    Double(Vec<f64>),
    /// Indices, labels, positions
    Int(Vec<u32>),
}
use Tensor::{Double, Float, Int};

type Build = dyn Fn(&[View]) -> Op;

pub struct Example {
    pub name: String,
    pub tensors: Vec<Tensor>,
    /// The operation on views of the tensors, in their order.
    pub op: Box<Build>,
}

impl Example {
    /// All tensors after the operation, on those of the example with every `Float` in the float type of the device.
    pub fn run(&self, dev: &mut Device) -> Vec<Vec<f64>> {
        self.run_on(dev, &self.tensors, &vec![dev.float; self.tensors.len()])
    }

    /// The same on other tensors, where tensor i, if it is a `Float`, is of type `floats[i]`.
    pub fn run_on(&self, dev: &mut Device, tensors: &[Tensor], floats: &[DType]) -> Vec<Vec<f64>> {
        let put = |(tensor, float): (&Tensor, &DType)| match tensor {
            Float(x) => dev.stored(*float, x),
            Double(x) => dev.double(x),
            Int(x) => dev.int(x),
        };
        let views: Vec<View> = tensors.iter().zip(floats).map(put).collect();
        dev.run((self.op)(&views), []);
        views.into_iter().map(|view| dev.get(view)).collect()
    }
}

/// Memory that the operation writes and does not read.
fn out(len: usize) -> Tensor {
    Float(vec![f64::NAN; len])
}
fn double_out(len: usize) -> Tensor {
    Double(vec![f64::NAN; len])
}

#[derive(Default)]
struct Examples(Vec<Example>);

impl Examples {
    fn add<const N: usize>(&mut self, name: String, tensors: [Tensor; N], op: impl Fn([View; N]) -> Op + 'static) {
        let op = Box::new(move |views: &[View]| op(views.try_into().unwrap()));
        self.0.push(Example { name, tensors: tensors.into(), op });
    }
}

/// Every operation on t rows of d numbers; with heads, about as many.
pub fn examples(t: usize, d: usize) -> Vec<Example> {
    let mut all = Examples::default();
    elementwise(&mut all, t * d);
    layers(&mut all, t, d);
    norms(&mut all, t, d);
    of_heads(&mut all, t, heads(6, 2, 2 * d.div_ceil(12)));
    losses(&mut all, t, d);
    vocab_parallel(&mut all, t, d);
    head_parts(&mut all, t, heads(6, 2, 2 * d.div_ceil(12)));
    head_parts(&mut all, t, heads(6, 0, 4));
    step(&mut all, t * d);
    all.0
}

fn elementwise(all: &mut Examples, n: usize) {
    all.add(format!("fill {n}"), [out(n)], |[y]| Op::Fill { y, value: 0.3 });
    all.add(format!("copy {n}"), [Float(draw(1, n)), out(n)], |[x, y]| Op::Copy { x, y });
    all.add(format!("add {n}"), [Float(draw(1, n)), Float(draw(2, n))], |[x, y]| Op::Add { x, y });
    all.add(format!("soft cap {n}"), [Float(scaled(draw(1, n), 2.0))], |[z]| Op::SoftCap { z, cap: 1.5 });
    for by in [Nonlinearity::Silu, Nonlinearity::Gelu, Nonlinearity::GeluTanh] {
        let (h, ds) = (|| Float(draw(1, n)), || Float(draw(2, n)));
        all.add(format!("{by:?} {n}"), [h(), out(n)], move |[h, s]| Op::Activation { h, s, by });
        all.add(format!("{by:?} backward {n}"), [h(), ds()], move |[h, ds]| Op::ActivationBackward { h, ds, by });
    }
}

fn layers(all: &mut Examples, t: usize, d: usize) {
    let v = 300;
    all.add(format!("take rows {t} x {d}"), [Int(indices(1, t, v)), Float(draw(2, v * d)), out(t * d)], {
        move |[rows, x, y]| Op::TakeRows { rows, x, y, d }
    });
    all.add(format!("embedding {t} x {d}"), [Int(indices(1, t, v)), Float(draw(2, v * d)), out(t * d)], {
        move |[ids, w, y]| Op::Embedding { ids, w, y, d, scale: 1.7, first: None }
    });
    for by in [Nonlinearity::Silu, Nonlinearity::Gelu, Nonlinearity::GeluTanh] {
        let h = || Float(draw(1, 2 * t * d));
        all.add(format!("gated {by:?} {t} x {d}"), [h(), out(t * d)], move |[h, s]| Op::Gated { h, s, f: d, by });
        all.add(format!("gated {by:?} backward {t} x {d}"), [h(), Float(draw(2, t * d))], {
            move |[h, ds]| Op::GatedBackward { h, ds, f: d, by }
        });
    }
    let (f, dims) = (2 * d + 1, [t, d, 2 * d + 1]);
    let (x, w, dy) = (|| Float(draw(1, t * d)), || Float(draw(2, f * d)), || Float(draw(3, t * f)));
    all.add(format!("linear backward input {dims:?}"), [dy(), w(), out(t * d)], move |[dy, w, dx]| {
        Op::LinearBackwardInput { dy, w, dx, dims }
    });
    all.add(format!("linear {dims:?}"), [x(), w(), out(t * f)], move |[x, w, y]| Op::Linear {
        x,
        w,
        add: None,
        y,
        dims,
    });
    all.add(format!("linear {dims:?} added"), [x(), w(), dy(), out(t * f)], move |[x, w, add, y]| Op::Linear {
        x,
        w,
        add: Some(add),
        y,
        dims,
    });
    all.add(format!("add bias {t} x {f}"), [Float(draw(4, f)), dy()], |[b, y]| Op::AddBias { b, y });
    for acc in [false, true] {
        // Written over NaN, or added to.
        let into = |len| if acc { Float(draw(9, len)) } else { out(len) };
        all.add(format!("linear backward weight {dims:?} acc {acc}"), [dy(), x(), into(f * d)], {
            move |[dy, x, dw]| Op::LinearBackwardWeight { dy, x, dw, dims, scale: 0.3, acc }
        });
        all.add(format!("bias backward {t} x {f} acc {acc}"), [dy(), into(f)], move |[dy, db]| Op::BiasBackward {
            dy,
            db,
            acc,
        });
        all.add(format!("embedding backward {t} x {d} acc {acc}"), [Int(indices(1, t, v)), x(), into(v * d)], {
            move |[ids, dy, dw]| Op::EmbeddingBackward { ids, dy, dw, d, scale: 1.7, first: None, acc }
        });
    }
}

fn norms(all: &mut Examples, t: usize, d: usize) {
    let (n, eps, offset) = (t * d, 1e-5, 1.0);
    let (x, w, dy, dx) = (|| Float(draw(1, n)), || Float(draw(2, d)), || Float(draw(3, n)), || Float(draw(4, n)));
    let rstd = || Float(draw(5, t).iter().map(|x| x.abs() + 0.5).collect());
    let stats = || Float(draw(6, 2 * t).iter().enumerate().map(|(i, x)| if i < t { *x } else { x.abs() }).collect());
    all.add(format!("rmsnorm {t} x {d}"), [x(), w(), out(n), out(t)], move |[x, w, y, rstd]| Op::RmsNorm {
        x,
        w,
        y,
        rstd,
        eps,
        offset,
    });
    all.add(format!("layernorm {t} x {d}"), [x(), w(), Float(draw(7, d)), out(n), out(2 * t)], {
        move |[x, w, b, y, stats]| Op::LayerNorm { x, w, b, y, stats, eps }
    });
    all.add(format!("unit rows {t} x {d}"), [x(), out(n), out(t)], move |[w, y, norms]| Op::UnitRows {
        w,
        y,
        norms,
        d,
    });
    for acc in [false, true] {
        let into = |seed, len| if acc { Float(draw(seed, len)) } else { out(len) };
        all.add(format!("rmsnorm backward {t} x {d} acc {acc}"), [x(), w(), rstd(), dy(), dx(), into(8, d)], {
            move |[x, w, rstd, dy, dx, dw]| Op::RmsNormBackward { x, w, rstd, dy, dx, dw, offset, acc }
        });
        let tensors = [x(), w(), stats(), dy(), dx(), into(8, d), into(9, d)];
        all.add(format!("layernorm backward {t} x {d} acc {acc}"), tensors, {
            move |[x, w, stats, dy, dx, dw, db]| Op::LayerNormBackward { x, w, stats, dy, dx, dw, db, acc }
        });
        all.add(format!("unit rows backward {t} x {d} acc {acc}"), [x(), rstd(), dy(), into(8, n)], {
            move |[y, norms, dy, dw]| Op::UnitRowsBackward { y, norms, dy, dw, d, scale: 0.5, acc }
        });
    }
}

fn of_heads(all: &mut Examples, t: usize, heads: Heads) {
    let (n, eps) = (t * heads.qkv(), 1e-5);
    let qkv = || Float(draw(1, n));
    let w = || Float(draw(2, 2 * heads.dim));
    let rstd = || Float(draw(3, t * (heads.n + heads.kv)).iter().map(|x| x.abs() + 0.5).collect());
    all.add(format!("head norm {t} x {heads:?}"), [qkv(), w(), out(n), out(t * (heads.n + heads.kv))], {
        move |[x, w, y, rstd]| Op::HeadNorm { x, w, y, rstd, heads, eps }
    });
    for acc in [false, true] {
        let dw = if acc { w() } else { out(2 * heads.dim) };
        all.add(
            format!("head norm backward {t} x {heads:?} acc {acc}"),
            [qkv(), w(), rstd(), Float(draw(4, n)), dw],
            move |[x, w, rstd, dqkv, dw]| Op::HeadNormBackward { x, w, rstd, dqkv, dw, heads, acc },
        );
    }
    for scores in scores(heads) {
        attention(all, t, heads, scores);
    }
}

fn attention(all: &mut Examples, t: usize, heads: Heads, scores: Scores) {
    for pairs in [Pairs::Half, Pairs::Interleaved] {
        let name = |what: &str| format!("{what} {t} x {heads:?} {scores:?} {pairs:?}");
        let (qkv, positions, table) = (draw(1, t * heads.qkv()), indices(5, t, 40), exact(rope_table(40, heads.dim)));
        let cu_seqlens = [0, t as u32 / 3, t as u32 / 3, t as u32];
        let by = Some((&*positions, &*table, pairs));
        let [rotated, o, lse] =
            Device::on_cpu(DType::F64).attention_of(&qkv, &cu_seqlens, by, heads, scores).map(exact);
        let (width, cu_seqlens) = (heads.out(), || Int(cu_seqlens.into()));
        let (positions, table) = (|| Int(positions.clone()), || Float(table.clone()));
        let tensors = [Float(qkv.clone()), cu_seqlens(), positions(), table(), out(t * width), out(t * heads.n)];
        all.add(name("attention"), tensors, move |[qkv, cu_seqlens, positions, table, o, lse]| {
            let rotation = Some(Rotation { positions, table, pairs });
            Op::Attention { qkv, cu_seqlens, rotation, o, lse, heads, scores }
        });
        let d_o = Float(draw(2, t * width));
        let tensors = [Float(rotated), cu_seqlens(), positions(), table(), Float(o), Float(lse), d_o, out(qkv.len())];
        all.add(name("attention backward"), tensors, {
            move |[qkv, cu_seqlens, positions, table, o, lse, d_o, dqkv]| {
                let rotation = Some(Rotation { positions, table, pairs });
                Op::AttentionBackward { qkv, cu_seqlens, rotation, o, lse, d_o, dqkv, heads, scores }
            }
        });
        let cache = Float(draw(3, 2 * (t + 40) * heads.kv * heads.dim));
        let span = Int(vec![33, t as u32 - u32::from(t > 1)]);
        let tensors = [Float(qkv), span, positions(), table(), cache, out(t * width)];
        all.add(name("attention cached"), tensors, move |[qkv, span, positions, table, cache, o]| {
            let rotation = Some(Rotation { positions, table, pairs });
            Op::AttentionCached { qkv, span, rotation, cache, o, heads, scores }
        });
    }
}

fn losses(all: &mut Examples, t: usize, v: usize) {
    let mut labels = indices(1, t, v);
    labels[t / 2] = if t > 1 { u32::MAX } else { labels[0] };
    let (labels, types) = (|| Int(labels.clone()), || Int(indices(2, t, 3)));
    let logits = || Float(scaled(draw(3, t * v), 3.0));
    for acc in [false, true] {
        let count = Double(vec![if acc { 5.0 } else { f64::NAN }]);
        all.add(format!("count labels {t} acc {acc}"), [labels(), count], move |[labels, count]| Op::CountLabels {
            labels,
            count,
            acc,
        });
    }
    let pick = |cap, smoothing| LogitLoss { cap, smoothing };
    for with in [pick(None, 0.0), pick(None, 0.1), pick(Some(4.0), 0.0), pick(Some(2.5), 0.2)] {
        let tensors = [labels(), types(), Double(vec![t as f64]), Double(vec![64.0]), logits(), double_out(10)];
        all.add(format!("cross-entropy {t} x {v} {with:?}"), tensors, {
            move |[labels, types, count, scale, logits, stats]| Op::CrossEntropy {
                labels,
                types,
                count,
                scale,
                logits,
                stats,
                v,
                with,
                acc: false,
            }
        });
        all.add(format!("cross-entropy loss {t} x {v} {with:?}"), [labels(), types(), logits(), double_out(10)], {
            move |[labels, types, logits, stats]| Op::CrossEntropyLoss {
                labels,
                types,
                logits,
                stats,
                v,
                cap: with.cap,
                acc: false,
            }
        });
    }
}

/// The middle one of three ranks, with two columns of padding.
fn vocab_parallel(all: &mut Examples, t: usize, v: usize) {
    let (first, filled) = (v, v.max(3) - 2);
    let (columns, vocab) = (Columns { first, filled, width: v }, first + filled);
    let mut labels = indices(1, t, vocab);
    labels[t / 2] = if t > 1 { u32::MAX } else { labels[0] };
    let (labels, types) = (|| Int(labels.clone()), || Int(indices(2, t, 3)));
    let logits = || Float(scaled(draw(3, t * v), 3.0));
    // Largest logits near those of the rank itself, and sums that are positive.
    let parts =
        || Double(draw(4, 3 * t * 4).iter().enumerate().map(|(i, x)| x.abs() + [6.0, 1.0, 2.0, 0.0][i % 4]).collect());
    for with in [LogitLoss { cap: None, smoothing: 0.0 }, LogitLoss { cap: Some(4.0), smoothing: 0.1 }] {
        let cap = with.cap;
        all.add(format!("logit parts {t} x {v} {cap:?}"), [labels(), logits(), double_out(4 * t)], {
            move |[labels, logits, parts]| Op::LogitParts { labels, logits, parts, columns, cap }
        });
        all.add(format!("loss of parts {t} {with:?}"), [labels(), types(), parts(), double_out(10)], {
            move |[labels, types, parts, stats]| Op::LossOfParts {
                labels,
                types,
                parts,
                stats,
                vocab,
                smoothing: with.smoothing,
                acc: false,
            }
        });
        let tensors = [labels(), Double(vec![t as f64]), Double(vec![64.0]), parts(), logits()];
        all.add(format!("logit gradient {t} x {v} {with:?}"), tensors, {
            move |[labels, count, scale, parts, logits]| Op::LogitGradient {
                labels,
                count,
                scale,
                parts,
                logits,
                columns,
                vocab,
                with,
            }
        });
    }
}

fn head_parts(all: &mut Examples, t: usize, heads: Heads) {
    for parts in [2, 3, 6] {
        let part = heads.part(parts);
        let (whole, cut) = (t * heads.qkv(), parts * t * part.qkv());
        all.add(format!("split heads {t} x {heads:?} / {parts}"), [Float(draw(1, whole)), out(cut)], {
            move |[x, y]| Op::SplitHeads { x, y, heads, parts }
        });
        all.add(format!("join heads {t} x {heads:?} / {parts}"), [Float(draw(1, cut)), out(whole)], {
            move |[x, y]| Op::JoinHeads { x, y, heads, parts }
        });
    }
}

fn step(all: &mut Examples, n: usize) {
    let chunk = 1 << 10;
    all.add(format!("sum of squares {n}"), [Float(draw(1, n)), double_out(n.div_ceil(chunk))], move |[x, sums]| {
        Op::SumSquares { x, sums, chunk }
    });
    let (sums, scale) = (Double(draw(2, 999).iter().map(|x| x * x).collect()), || Double(vec![64.0, 2.0, 0.0]));
    all.add("norm of the gradient".into(), [sums, Double(vec![7.0]), scale(), double_out(3)], {
        |[sums, count, scale, norm]| Op::GradNorm { sums, count, scale, norm, max_norm: 0.3 }
    });
    let rule = LossScale { min: 1.0, max: 1e6, growth: 2.0, backoff: 0.5, interval: 3, hysteresis: 2 };
    all.add("loss scale".into(), [Double(vec![5.0, 1.0, 1.0]), scale()], move |[norm, scale]| Op::LossScale {
        norm,
        scale,
        rule,
    });
    let squares = || Float(exact(draw(6, n).iter().map(|x| x * x).collect()));
    let hyper = || Double(vec![1e-2, 1.0 - 0.9_f64.powi(3), 1.0 - 0.95_f64.powi(3), 0.95]);
    let norm = || Double(vec![5.0, 0.3, 1.0]);
    let step = |[g, norm, hyper, p, m, v]: [View; 6], copy: Option<View>| Op::AdamW {
        g,
        norm,
        hyper,
        p,
        m,
        v,
        copy,
        beta1: 0.9,
        eps: 1e-8,
        weight_decay: 0.1,
    };
    let state = || [Float(draw(4, n)), Float(draw(5, n)), squares()];
    let [p, m, v] = state();
    all.add(format!("adamw {n}"), [Float(draw(3, n)), norm(), hyper(), p, m, v], move |views| step(views, None));
    let [p, m, v] = state();
    all.add(format!("adamw {n} with a copy"), [Float(draw(3, n)), norm(), hyper(), p, m, v, out(n)], {
        move |[g, norm, hyper, p, m, v, copy]| step([g, norm, hyper, p, m, v], Some(copy))
    });
}

/// Rounded to f32.
fn exact(x: Vec<f64>) -> Vec<f64> {
    x.into_iter().map(|x| x as f32 as f64).collect()
}

/// The names of all operations are read where they are given.
#[test]
fn every_operation_has_an_example() {
    let source = include_str!("../../src/op.rs");
    let named: Vec<&str> =
        source.lines().filter_map(|line| line.trim().split_once(" => \"")?.1.split('"').next()).collect();
    let view = View { region: backend::Region::Act, dtype: DType::F32, offset: 0, len: 1 };
    let shown: Vec<&str> = examples(3, 12).iter().map(|e| (e.op)(&vec![view; e.tensors.len()]).name()).collect();
    assert!(named.len() > 30, "the names are found: {named:?}");
    let missing: Vec<&&str> = named.iter().filter(|name| !shown.contains(name)).collect();
    assert!(missing.is_empty(), "no example of {missing:?}");
}

/// Plain attention is among the examples: its scale is that of [`plain`].
#[test]
fn scores_begin_with_plain_ones() {
    let heads = heads(2, 1, 16);
    assert_eq!((scores(heads)[0], plain(heads).scale), (plain(heads), 0.25));
}
