//! What the examples are too small for: rows that fill a block, more rows than blocks that sum over them, and tokens that fill
//! several tiles of the sort and cross windows in every way.
use crate::against_cpu::compare;
use crate::device::{draw, heads};
use crate::examples::{Example, Tensor};
use Tensor::{Float, Int};
use backend::{DType, Op, View};

const TYPES: [(&[DType], f64); 3] = [(&[DType::F32], 1e-5), (&[DType::BF16], 2e-2), (&[DType::BF16, DType::F32], 2e-2)];

fn example<const N: usize>(name: &str, tensors: [Tensor; N], op: impl Fn([View; N]) -> Op + 'static) -> Example {
    let op = Box::new(move |views: &[View]| op(views.try_into().unwrap()));
    Example { name: name.into(), tensors: tensors.into(), op }
}

/// Written over NaN, or added to.
fn into(acc: bool, len: usize) -> Tensor {
    Float(if acc { draw(9, len) } else { vec![f64::NAN; len] })
}

/// The larger the power, the more of the tokens are the first of the vocabulary.
fn skewed(t: usize, v: usize, power: i32) -> Vec<u32> {
    draw(7, t).iter().map(|x| (((x.abs() * 0.77).fract().powi(power) * v as f64) as u32).min(v as u32 - 1)).collect()
}

#[test]
fn gradients_of_embeddings_do_not_depend_on_where_windows_lie() {
    let shapes: [(usize, usize, usize, i32); 6] = [
        (5000, 3000, 32, 3),
        (4096, 64, 64, 1),
        (2050, 500, 40, 9),
        (2048, 2, 16, 1),
        (17, 1, 12, 1),
        (33, 100, 2052, 1),
    ];
    for (types, limit) in TYPES {
        let all = shapes.iter().flat_map(|&(t, v, d, power)| {
            // All of the vocabulary, or its middle.
            [(None, v, false), (None, v, true), (Some(v / 3), v.div_ceil(2), false), (Some(v / 3), v.div_ceil(2), true)]
                .map(|(first, rows, acc)| {
                    let tensors = [Int(skewed(t, v, power)), Float(draw(2, t * d)), into(acc, rows * d)];
                    example(&format!("{t} tokens of {v} x {d}, {first:?}, acc {acc}"), tensors, move |[ids, dy, dw]| {
                        Op::EmbeddingBackward { ids, dy, dw, d, scale: 1.3, first, acc }
                    })
                })
        });
        compare(all, types, limit);
    }
}

#[test]
fn rows_may_be_wide_or_many() {
    for (types, limit) in TYPES {
        let all =
            [(3, 4096), (5, 5121), (2, 16384), (700, 40), (2100, 8)].into_iter().flat_map(|(t, d)| {
                let (n, offset, acc) = (t * d, 1.0, false);
                let [x, w, dy, dx] = [(1, n), (2, d), (3, n), (4, n)].map(|(seed, len)| move || Float(draw(seed, len)));
                let stats = move |len| Float(draw(5, len).iter().map(|x| x.abs() + 0.5).collect());
                [
                    example(
                        &format!("rmsnorm {t} x {d}"),
                        [x(), w(), into(false, n), into(false, t)],
                        move |[x, w, y, rstd]| Op::RmsNorm { x, w, y, rstd, eps: 1e-5, offset },
                    ),
                    example(
                        &format!("rmsnorm backward {t} x {d}"),
                        [x(), w(), stats(t), dy(), dx(), into(acc, d)],
                        move |[x, w, rstd, dy, dx, dw]| Op::RmsNormBackward { x, w, rstd, dy, dx, dw, offset, acc },
                    ),
                    example(
                        &format!("layernorm backward {t} x {d}"),
                        [x(), w(), stats(2 * t), dy(), dx(), into(acc, d), into(acc, d)],
                        move |[x, w, stats, dy, dx, dw, db]| Op::LayerNormBackward { x, w, stats, dy, dx, dw, db, acc },
                    ),
                    example(&format!("bias backward {t} x {d}"), [dy(), into(acc, d)], move |[dy, db]| {
                        Op::BiasBackward { dy, db, acc }
                    }),
                ]
            });
        compare(all, types, limit);
    }
}

#[test]
fn heads_may_be_of_any_width() {
    for (types, limit) in TYPES {
        let all = [(300, 4, 2, 64), (40, 8, 2, 128), (5, 4, 4, 256), (9, 2, 1, 80), (7, 2, 2, 600), (65, 4, 2, 7)];
        let all = all.into_iter().flat_map(|(t, n, kv, dim)| {
            let (heads, acc) = (heads(n, kv, dim), true);
            let (len, normed) = (t * heads.qkv(), t * (n + kv));
            let [x, w, dy] = [(1, len), (2, 2 * dim), (3, len)].map(|(seed, len)| move || Float(draw(seed, len)));
            let rstd = Float(draw(4, normed).iter().map(|x| x.abs() + 0.5).collect());
            [
                example(&format!("{t} x {heads:?}"), [x(), w(), into(false, len), into(false, normed)], {
                    move |[x, w, y, rstd]| Op::HeadNorm { x, w, y, rstd, heads, eps: 1e-5 }
                }),
                example(&format!("{t} x {heads:?} backward"), [x(), w(), rstd, dy(), into(acc, 2 * dim)], {
                    move |[x, w, rstd, dqkv, dw]| Op::HeadNormBackward { x, w, rstd, dqkv, dw, heads, acc }
                }),
            ]
        });
        compare(all, types, limit);
    }
}
