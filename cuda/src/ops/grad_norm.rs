//! The norm of the whole gradient, and what follows from it.
use super::{GRAD_NORM, SUM_SQUARES};
use crate::work::{Arg, Lowering, vector};
use backend::{DType, LossScale, View};

/// As in `grad_norm.cu`: of a block, and terms that it adds.
const THREADS: usize = 512;
const STRETCH: usize = 16 * THREADS;

/// A block for each chunk. Its size, and so the order of the sum, follows from that of the chunk and the type alone.
pub fn sum_squares(l: &mut Lowering, [x]: [View; 1], [sums]: [View; 1], chunk: usize) {
    assert_eq!(sums.len, x.len.div_ceil(chunk));
    // Of runs of 16 bytes, four a thread.
    let threads = (chunk * x.dtype.bytes()).div_ceil(64).next_multiple_of(32).clamp(32, 256);
    l.launch(&SUM_SQUARES, "sum_squares")
        .real(x)
        .types([("X_T", x.dtype)])
        .define("VEC", vector(chunk, &[x]))
        .grid(sums.len)
        .block(threads)
        .with([x.into(), sums.into(), x.len.into(), Arg::small(chunk)]);
}

/// By stretches of the sums, again and again, until one is left.
pub fn grad_norm(l: &mut Lowering, [sums, count, scale]: [View; 3], [norm]: [View; 1], max_norm: f64) {
    let (mut sums, mut n) = (sums.into(), sums.len);
    while n > STRETCH {
        let blocks = n.div_ceil(STRETCH);
        let stretches = l.scratch(DType::F64, blocks);
        l.launch(&GRAD_NORM, "sum_stretches").grid(blocks).block(THREADS).with([sums, stretches.into(), n.into()]);
        (sums, n) = (stretches.into(), blocks);
    }
    let args = [sums, count.into(), scale.into(), norm.into(), n.into(), max_norm.into()];
    l.launch(&GRAD_NORM, "grad_norm").block(THREADS).with(args);
}

pub fn loss_scale(l: &mut Lowering, [norm]: [View; 1], [scale]: [View; 1], rule: LossScale) {
    let LossScale { min, max, growth, backoff, interval, hysteresis } = rule;
    let [min, max, growth, backoff] = [min, max, growth, backoff].map(Arg::F64);
    let [interval, hysteresis] = [interval, hysteresis].map(|n| Arg::F64(n as f64));
    let args = [norm.into(), scale.into(), min, max, growth, backoff, interval, hysteresis];
    l.launch(&GRAD_NORM, "loss_scale").block(32).with(args);
}
