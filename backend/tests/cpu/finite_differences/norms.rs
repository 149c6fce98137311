//! Norms of rows and of heads.
use super::check;
use crate::device::{draw, heads};

const ROWS: [(usize, usize); 4] = [(1, 1), (1, 16), (3, 17), (70, 5)];

#[test]
fn rmsnorm() {
    for (t, d) in ROWS {
        for offset in [0.0, 1.0] {
            check(
                format!("rmsnorm T {t} D {d} offset {offset}"),
                vec![draw(1, t * d), draw(2, d)],
                |dev, x| dev.rmsnorm(&x[0], &x[1], offset)[0].clone(),
                |dev, x, dy| {
                    let [_, rstd] = dev.rmsnorm(&x[0], &x[1], offset);
                    dev.rmsnorm_backward([&x[0], &x[1], &rstd, dy], offset, &vec![0.0; t * d], None).into()
                },
            );
        }
    }
}

#[test]
fn layernorm() {
    // Of one number there is nothing left but b.
    for (t, d) in [(1, 2), (1, 16), (3, 17), (70, 5)] {
        check(
            format!("layernorm T {t} D {d}"),
            vec![draw(1, t * d).iter().map(|x| 3.0 * x + 2.0).collect(), draw(2, d), draw(3, d)],
            |dev, x| dev.layernorm(&x[0], &x[1], &x[2])[0].clone(),
            |dev, x, dy| {
                let [_, stats] = dev.layernorm(&x[0], &x[1], &x[2]);
                dev.layernorm_backward([&x[0], &x[1], &stats, dy], &vec![0.0; t * d], None).into()
            },
        );
    }
}

#[test]
fn head_norm() {
    for (t, heads) in [(1, heads(1, 1, 3)), (5, heads(4, 2, 6)), (40, heads(3, 1, 2)), (3, heads(2, 2, 17))] {
        check(
            format!("head norm T {t} {heads:?}"),
            vec![draw(1, t * heads.qkv()), draw(2, 2 * heads.dim)],
            |dev, x| dev.head_norm(&x[0], &x[1], heads)[0].clone(),
            |dev, x, dy| {
                let [_, rstd] = dev.head_norm(&x[0], &x[1], heads);
                dev.head_norm_backward([&x[0], &x[1], &rstd, dy], heads, None).into()
            },
        );
    }
}

#[test]
fn unit_rows() {
    for ((v, d), scale) in ROWS.into_iter().zip([1.0, 1.0, 0.25, -2.0]) {
        let d = d + 1;
        check(
            format!("unit rows V {v} D {d} scale {scale}"),
            vec![draw(1, v * d)],
            |dev, x| dev.unit_rows(&x[0], d)[0].iter().map(|y| scale * y).collect(),
            |dev, x, dy| {
                let [y, norms] = dev.unit_rows(&x[0], d);
                vec![dev.unit_rows_backward([&y, &norms, dy], d, scale, None)]
            },
        );
    }
}
