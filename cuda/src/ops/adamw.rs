//! AdamW (Loshchilov & Hutter 2019, algorithm 2). A thread for each pack.
use super::ADAMW;
use crate::work::{Lowering, vector};
use backend::View;

pub fn step(
    l: &mut Lowering,
    [g, norm, hyper]: [View; 3],
    [p, m, v]: [View; 3],
    copy: Option<View>,
    beta1: f64,
    eps: f64,
    weight_decay: f64,
) {
    // Without a copy nothing is written to its place.
    let to = copy.unwrap_or(p);
    assert_eq!([p.len, m.len, v.len, to.len], [g.len; 4]);
    // Most of what is moved is in the widest type, and of that a thread takes what one instruction moves.
    let widest = [g, p, m, v].map(|view| view.dtype.bytes()).into_iter().max().expect("four tensors");
    let vec = vector(g.len, &[g, p, m, v, to]).min(16 / widest);
    let packs = g.len / vec;
    let ([g_, p_, m_, v_], of) = ([g, p, m, v].map(Into::into), [beta1, eps, weight_decay].map(Into::into));
    l.launch(&ADAMW, "adamw")
        .real(p)
        .types([("G_T", g.dtype), ("P_T", p.dtype), ("M_T", m.dtype), ("V_T", v.dtype)])
        .types([("C_T", to.dtype)])
        .define("WITH_COPY", u32::from(copy.is_some()))
        .define("VEC", vec)
        .grid(packs.div_ceil(256))
        .with([g_, norm.into(), hyper.into(), p_, m_, v_, to.into(), packs.into(), of[0], of[1], of[2]]);
}
