//! The inside of an MLP: a nonlinearity, alone or gating (Shazeer 2020). A thread for each pack.
use super::ACTIVATION;
use crate::work::{Arg, Lowering, vector};
use backend::{Nonlinearity, View};

/// h (T, 2F) = gate | up -> s (T, F)
pub fn gated(l: &mut Lowering, [h]: [View; 1], [s]: [View; 1], f: usize, by: Nonlinearity) {
    assert_eq!(h.len, 2 * s.len);
    let vec = vector(f, &[h, s]);
    launch(l, "gated", h, s, vec, by, [h.into(), s.into(), Arg::small(f / vec), Arg::small(s.len / vec)]);
}

/// ds (T, F) -> h (T, 2F) becomes its gradient
pub fn gated_backward(l: &mut Lowering, [ds]: [View; 1], [h]: [View; 1], f: usize, by: Nonlinearity) {
    assert_eq!(h.len, 2 * ds.len);
    let vec = vector(f, &[h, ds]);
    launch(l, "gated_backward", h, ds, vec, by, [ds.into(), h.into(), Arg::small(f / vec), Arg::small(ds.len / vec)]);
}

/// h -> s
pub fn plain(l: &mut Lowering, [h]: [View; 1], [s]: [View; 1], by: Nonlinearity) {
    assert_eq!(h.len, s.len);
    let vec = vector(s.len, &[h, s]);
    launch(l, "activation", h, s, vec, by, [h.into(), s.into(), Arg::small(s.len / vec)]);
}

/// ds -> h becomes its gradient
pub fn plain_backward(l: &mut Lowering, [ds]: [View; 1], [h]: [View; 1], by: Nonlinearity) {
    assert_eq!(h.len, ds.len);
    let vec = vector(ds.len, &[h, ds]);
    launch(l, "activation_backward", h, ds, vec, by, [ds.into(), h.into(), Arg::small(ds.len / vec)]);
}

fn launch<const N: usize>(
    l: &mut Lowering,
    entry: &'static str,
    h: View,
    s: View,
    vec: usize,
    by: Nonlinearity,
    args: [Arg; N],
) {
    let by = match by {
        Nonlinearity::Silu => "silu",
        Nonlinearity::Gelu => "gelu",
        Nonlinearity::GeluTanh => "gelu_tanh",
    };
    l.launch(&ACTIVATION, entry)
        .real(h)
        .types([("H_T", h.dtype), ("S_T", s.dtype)])
        .define("VEC", vec)
        .define("BY", by)
        .grid((s.len / vec).div_ceil(256))
        .with(args);
}
