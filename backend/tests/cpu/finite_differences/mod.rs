//! Every backward, in f64, against central differences of its forward.
mod attention;
mod layers;
mod loss;
mod norms;

use crate::device::{Device, draw, error, scaled};
use backend::{DType, Nonlinearity};

type Tensors = Vec<Vec<f64>>;

const ALL: [Nonlinearity; 3] = [Nonlinearity::Silu, Nonlinearity::Gelu, Nonlinearity::GeluTanh];

/// A differentiable operation: inputs -> output, and (inputs, gradient of the output) -> gradients of the inputs.
/// Returns the largest relative error of all input gradients.
fn measure(
    inputs: Tensors,
    forward: impl Fn(&mut Device, &Tensors) -> Vec<f64>,
    backward: impl Fn(&mut Device, &Tensors, &[f64]) -> Tensors,
) -> f64 {
    let dev = &mut Device::new(DType::F64, 2);
    let dy = draw(99, forward(dev, &inputs).len());
    let got = backward(dev, &inputs, &dy);
    let mut loss = |inputs: &Tensors| -> f64 { forward(dev, inputs).iter().zip(&dy).map(|(y, dy)| y * dy).sum() };
    let h = 1e-5;
    let mut expected = inputs.clone();
    let mut inputs = inputs;
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
    assert_eq!(got.len(), expected.len());
    got.iter().zip(&expected).map(|(a, b)| error(a, b)).fold(0.0, f64::max)
}

fn check(
    name: impl std::fmt::Display,
    inputs: Tensors,
    forward: impl Fn(&mut Device, &Tensors) -> Vec<f64>,
    backward: impl Fn(&mut Device, &Tensors, &[f64]) -> Tensors,
) {
    let error = measure(inputs, forward, backward);
    assert!(error < 1e-6, "{name}: {error:e}");
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
        let error = measure(
            vec![draw(1, 5 * 18)],
            |dev, x| dev.gated(&x[0], 9, Nonlinearity::Silu),
            |dev, x, dy| vec![mutant(dev.gated_backward(&x[0], dy, 9, Nonlinearity::Silu))],
        );
        assert!(error > 1e-6, "mutant {i} was not caught");
    }
}
