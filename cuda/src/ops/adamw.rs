//! AdamW (Loshchilov & Hutter 2019, algorithm 2). A thread for each pack.
use super::ADAMW;
use crate::work::{Lowering, vector};
use backend::View;

pub fn step(
    l: &mut Lowering,
    [g, norm, hyper]: [View; 3],
    [p, m, v]: [View; 3],
    beta1: f64,
    eps: f64,
    weight_decay: f64,
) {
    assert_eq!([p.len, m.len, v.len], [g.len; 3]);
    // Most of what is moved is in the widest type, and of that a thread takes what one instruction moves.
    let widest = [g, p, m, v].map(|view| view.dtype.bytes()).into_iter().max().expect("four tensors");
    let vec = vector(g.len, &[g, p, m, v]).min(16 / widest);
    let packs = g.len / vec;
    let ([g_, p_, m_, v_], of) = ([g, p, m, v].map(Into::into), [beta1, eps, weight_decay].map(Into::into));
    l.launch(&ADAMW, "adamw")
        .real(p)
        .types([("G_T", g.dtype), ("P_T", p.dtype), ("M_T", m.dtype), ("V_T", v.dtype)])
        .define("VEC", vec)
        .grid(packs.div_ceil(256))
        .with([g_, norm.into(), hyper.into(), p_, m_, v_, packs.into(), of[0], of[1], of[2]]);
}
