//! Linear layers, embeddings, biases and nonlinearities.
use super::{ALL, check};
use crate::device::{draw, indices, scaled};

#[test]
fn linear() {
    for dims in [[1, 1, 1], [1, 7, 5], [5, 1, 3], [6, 3, 1], [4, 18, 33]] {
        check(
            format!("linear {dims:?}"),
            vec![draw(1, dims[0] * dims[1]), draw(2, dims[2] * dims[1])],
            |dev, x| dev.linear(&x[0], &x[1], dims, None),
            |dev, x, dy| {
                let dx = dev.linear_backward_input(dy, &x[1], dims);
                vec![dx, dev.linear_backward_weight(dy, &x[0], dims, 1.0, None)]
            },
        );
    }
}

/// The factor is on the gradient of the weight alone: a weight that is used times `scale`.
#[test]
fn scaled_weights() {
    let (dims, scale) = ([4, 18, 33], 0.37);
    check(
        "linear of a scaled weight",
        vec![draw(2, dims[2] * dims[1])],
        |dev, w| dev.linear(&draw(1, dims[0] * dims[1]), &scaled(w[0].clone(), scale), dims, None),
        |dev, _, dy| vec![dev.linear_backward_weight(dy, &draw(1, dims[0] * dims[1]), dims, scale, None)],
    );
}

#[test]
fn embedding() {
    for (t, v, d, scale) in [(1, 1, 1, 1.0), (9, 6, 5, 1.0), (40, 150, 3, 1.0), (40, 150, 3, 2.5), (9, 6, 5, -0.3)] {
        let ids = indices(3, t, v);
        check(
            format!("embedding T {t} V {v} D {d} scale {scale}"),
            vec![draw(1, v * d)],
            |dev, x| dev.embedding(&ids, &x[0], d, scale),
            |dev, _, dy| vec![dev.embedding_backward(&ids, dy, [v, d], scale, None)],
        );
    }
}

#[test]
fn bias() {
    for (t, f) in [(1, 1), (1, 9), (5, 4), (70, 3)] {
        check(
            format!("bias T {t} F {f}"),
            vec![draw(1, f), draw(2, t * f)],
            |dev, x| dev.add_bias(&x[0], &x[1]),
            |dev, _, dy| vec![dev.bias_backward(dy, f, None), dy.to_vec()],
        );
    }
}

#[test]
fn nonlinearities() {
    for by in ALL {
        for (t, f) in [(1, 1), (5, 9), (30, 4)] {
            check(
                format!("gated {by:?} T {t} F {f}"),
                vec![scaled(draw(1, t * 2 * f), 3.0)],
                |dev, x| dev.gated(&x[0], f, by),
                |dev, x, dy| vec![dev.gated_backward(&x[0], dy, f, by)],
            );
            check(
                format!("{by:?} of {}", t * f),
                vec![scaled(draw(1, t * f), 3.0)],
                |dev, x| dev.activation(&x[0], by),
                |dev, x, dy| vec![dev.activation_backward(&x[0], dy, by)],
            );
        }
    }
}
