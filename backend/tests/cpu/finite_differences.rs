//! Every backward, in f64, against central differences of its forward.
use crate::device::{Device, draw, error, indices, rope_table};
use backend::{DType, Heads};

type Tensors = Vec<Vec<f64>>;

/// A differentiable operation: inputs -> output, and (inputs, gradient of the output) -> gradients of the inputs.
struct Case<F, B> {
    name: String,
    inputs: Tensors,
    forward: F,
    backward: B,
}

impl<F, B> Case<F, B>
where
    F: Fn(&mut Device, &Tensors) -> Vec<f64>,
    B: Fn(&mut Device, &Tensors, &[f64]) -> Tensors,
{
    /// The largest relative error of all input gradients.
    fn error(&self, dev: &mut Device) -> f64 {
        let dy = draw(99, (self.forward)(dev, &self.inputs).len());
        let mut loss =
            |inputs: &Tensors| -> f64 { (self.forward)(dev, inputs).iter().zip(&dy).map(|(y, dy)| y * dy).sum() };
        let h = 1e-5;
        let mut inputs = self.inputs.clone();
        let mut expected = self.inputs.clone();
        for k in 0..inputs.len() {
            for i in 0..inputs[k].len() {
                let x = inputs[k][i];
                inputs[k][i] = x + h;
                let above = loss(&inputs);
                inputs[k][i] = x - h;
                let below = loss(&inputs);
                inputs[k][i] = x;
                expected[k][i] = (above - below) / (2.0 * h);
            }
        }
        let got = (self.backward)(dev, &self.inputs, &dy);
        assert_eq!(got.len(), expected.len());
        got.iter().zip(&expected).map(|(a, b)| error(a, b)).fold(0.0, f64::max)
    }

    fn check(&self) {
        let error = self.error(&mut Device::new(DType::F64, 2));
        assert!(error < 1e-6, "{}: {error:e}", self.name);
    }
}

fn heads(n: usize, kv: usize, dim: usize) -> Heads {
    Heads { n, kv, dim }
}

fn scaled(x: Vec<f64>, by: f64) -> Vec<f64> {
    x.into_iter().map(|x| x * by).collect()
}

#[test]
fn rmsnorm() {
    for (t, d) in [(1, 1), (1, 16), (3, 17), (70, 5)] {
        Case {
            name: format!("rmsnorm T {t} D {d}"),
            inputs: vec![draw(1, t * d), draw(2, d)],
            forward: |dev: &mut Device, x: &Tensors| dev.rmsnorm(&x[0], &x[1])[0].clone(),
            backward: |dev: &mut Device, x: &Tensors, dy: &[f64]| {
                let [_, rstd] = dev.rmsnorm(&x[0], &x[1]);
                dev.rmsnorm_backward(&x[0], &x[1], &rstd, dy, &vec![0.0; x[0].len()], None).into()
            },
        }
        .check();
    }
}

#[test]
fn linear() {
    for dims in [[1, 1, 1], [1, 7, 5], [5, 1, 3], [6, 3, 1], [4, 18, 33]] {
        Case {
            name: format!("linear {dims:?}"),
            inputs: vec![draw(1, dims[0] * dims[1]), draw(2, dims[2] * dims[1])],
            forward: |dev: &mut Device, x: &Tensors| dev.linear(&x[0], &x[1], dims, None),
            backward: |dev: &mut Device, x: &Tensors, dy: &[f64]| {
                vec![dev.linear_backward_input(dy, &x[1], dims), dev.linear_backward_weight(dy, &x[0], dims, None)]
            },
        }
        .check();
    }
}

#[test]
fn embedding() {
    for (t, v, d) in [(1, 1, 1), (9, 6, 5), (40, 150, 3)] {
        let ids = indices(3, t, v);
        Case {
            name: format!("embedding T {t} V {v} D {d}"),
            inputs: vec![draw(1, v * d)],
            forward: |dev: &mut Device, x: &Tensors| dev.embedding(&ids, &x[0], d),
            backward: |dev: &mut Device, _: &Tensors, dy: &[f64]| vec![dev.embedding_backward(&ids, dy, [v, d], None)],
        }
        .check();
    }
}

#[test]
fn rope() {
    for (t, heads) in [(1, heads(1, 1, 2)), (6, heads(3, 1, 10)), (20, heads(2, 2, 6))] {
        let (positions, table) = (indices(3, t, 11), rope_table(11, heads.dim));
        Case {
            name: format!("rope T {t} {heads:?}"),
            inputs: vec![draw(1, t * heads.qkv())],
            forward: |dev: &mut Device, x: &Tensors| dev.rope(&x[0], &positions, &table, heads, false),
            backward: |dev: &mut Device, _: &Tensors, dy: &[f64]| vec![dev.rope(dy, &positions, &table, heads, true)],
        }
        .check();
    }
}

#[test]
fn attention() {
    let cases: [(Heads, &[u32]); 6] = [
        (heads(1, 1, 1), &[0, 1]),
        (heads(4, 2, 6), &[0, 5, 6, 13]),
        (heads(3, 3, 5), &[0, 1, 2, 3]),
        (heads(6, 1, 3), &[0, 9, 9, 9]),
        (heads(2, 1, 17), &[0, 0, 3, 4, 11, 11]),
        (heads(2, 1, 2), &[0, 70, 71]),
    ];
    for (heads, cu_seqlens) in cases {
        let t = cu_seqlens[cu_seqlens.len() - 1] as usize;
        Case {
            name: format!("attention {heads:?} {cu_seqlens:?}"),
            inputs: vec![draw(1, t * heads.qkv())],
            forward: |dev: &mut Device, x: &Tensors| dev.attention(&x[0], cu_seqlens, heads)[0].clone(),
            backward: |dev: &mut Device, x: &Tensors, dy: &[f64]| {
                let out = dev.attention(&x[0], cu_seqlens, heads);
                vec![dev.attention_backward(&x[0], cu_seqlens, &out, dy, heads)]
            },
        }
        .check();
    }
}

#[test]
fn swiglu() {
    for (t, f) in [(1, 1), (5, 9), (30, 4)] {
        Case {
            name: format!("swiglu T {t} F {f}"),
            inputs: vec![scaled(draw(1, t * 2 * f), 3.0)],
            forward: |dev: &mut Device, x: &Tensors| dev.swiglu(&x[0], f),
            backward: |dev: &mut Device, x: &Tensors, dy: &[f64]| vec![dev.swiglu_backward(&x[0], dy, f)],
        }
        .check();
    }
}

/// The gradient that `CrossEntropy` leaves is that of loss / count.
#[test]
fn cross_entropy() {
    for (t, v) in [(1, 1), (1, 5), (6, 17), (9, 40)] {
        let mut labels = indices(3, t, v);
        labels[t / 2] = if t > 1 { u32::MAX } else { labels[0] };
        let count = 3.0;
        Case {
            name: format!("cross-entropy T {t} V {v}"),
            inputs: vec![scaled(draw(1, t * v), 3.0)],
            forward: |dev: &mut Device, x: &Tensors| {
                let [loss, _] = dev.cross_entropy(&x[0], &labels, count);
                assert_eq!(loss, dev.cross_entropy_loss(&x[0], &labels));
                loss
            },
            backward: |dev: &mut Device, x: &Tensors, dy: &[f64]| {
                let [_, dlogits] = dev.cross_entropy(&x[0], &labels, count);
                vec![scaled(dlogits, count * dy[0])]
            },
        }
        .check();
    }
}

/// What the other tests stand on: a gradient that is off by a millionth part is seen, and so is one wrong element.
#[test]
fn a_wrong_gradient_is_caught() {
    let mutants: [fn(Vec<f64>) -> Vec<f64>; 4] = [
        |dh| scaled(dh, 1.0 + 3e-6),
        |dh| scaled(dh, -1.0),
        |mut dh| {
            dh[7] += 1e-3;
            dh
        },
        |mut dh| {
            dh[0] = f64::NAN;
            dh
        },
    ];
    for (i, mutant) in mutants.into_iter().enumerate() {
        let case = Case {
            name: format!("mutant {i}"),
            inputs: vec![draw(1, 5 * 18)],
            forward: |dev: &mut Device, x: &Tensors| dev.swiglu(&x[0], 9),
            backward: |dev: &mut Device, x: &Tensors, dy: &[f64]| vec![mutant(dev.swiglu_backward(&x[0], dy, 9))],
        };
        assert!(case.error(&mut Device::new(DType::F64, 1)) > 1e-6, "{} was not caught", case.name);
    }
}
