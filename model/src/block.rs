//! The two half-blocks of a layer: x + attention(norm(x)) in `block/attention.rs`, x + mlp(norm(x)) in `block/mlp.rs`. Forward and
//! backward stand together; here is what they share.
//!
//! Every tensor is a view that the caller has placed: `w` is the unit's bucket, `saved` what forward keeps for backward,
//! `tmp` what is needed meanwhile. A piece that is not needed is empty. The gradient of the residual stream, `dx` (R, D), enters
//! a backward as the gradient of the output and leaves it as the gradient of the input, in place.
//!
//! A rank has R tokens of the residual stream; T of them go through the products and through attention. Alone R = T; how a
//! tensor-parallel group cuts tokens, heads and weights is told in [`crate::tensor`].
//!
//! A forward has two parts. The inner one fills `saved` and is all that a recomputation needs; the outer one makes the
//! output of it. A backward has two as well, [`Half`].
mod attention;
mod mlp;

pub use attention::{
    attention_backward, attention_forward, attention_inner, attention_late, attention_saved, attention_tmp,
};
pub use mlp::{mlp_backward, mlp_forward, mlp_inner, mlp_late, mlp_saved, mlp_tmp};

use crate::tensor::{Dev, Underway, Work};
use crate::{Decoder, Inputs, Position, Rope};
use backend::{DType, Op, Rotation, View};
use comm::{Coll, CommError};

/// A micro-batch of T tokens on its way through the model.
#[derive(Clone, Copy)]
pub struct MicroBatch<'a> {
    pub work: Work<'a>,
    /// The model of which `work.model` is a part.
    pub whole: &'a Decoder,
    /// Index in the tensor-parallel group.
    pub rank: usize,
    pub inputs: Inputs,
    /// (P, H) cosines and sines; empty without RoPE.
    pub rope_table: View,
}

impl MicroBatch<'_> {
    fn rotation(&self) -> Option<Rotation> {
        match self.work.model.position {
            Position::Rope(Rope { pairs, .. }) => {
                Some(Rotation { positions: self.inputs.positions, table: self.rope_table, pairs })
            }
            Position::Alibi => None,
        }
    }
}

/// Where a weight gradient goes: `acc` adds to what is there.
#[derive(Clone, Copy)]
pub struct GradTo {
    pub view: View,
    pub acc: bool,
}

/// A backward has two parts (Qi et al. 2023, section 2): the gradient of the input, for which the stage before waits, and those of
/// the weights, which can come later. Gradients of vectors are made with the first, and added to the others' with the second.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Hash, PartialOrd, Ord)]
pub enum Half {
    Both,
    Input,
    Weight,
}

impl Half {
    fn input(self) -> bool {
        self != Half::Weight
    }
    fn weight(self) -> bool {
        self != Half::Input
    }
}

/// Elements of a piece that is not always there.
fn only(needed: bool, len: usize) -> usize {
    if needed { len } else { 0 }
}

/// What a half-block keeps for its `Out`: a (R, D), n (R, D), stats.
fn out_saved(c: &Work) -> [(DType, usize); 3] {
    let m = c.model;
    let rows = only(m.sandwich_norms, c.rows());
    [(c.dtype, rows * m.hidden), (c.dtype, rows * m.hidden), (c.dtype.precise(), m.norm_stats(rows))]
}

/// da (R, D) of sandwich norms, or dy (T, D) gathered, or dy (R, D), which the residual stream will not have any more.
fn late_dy(c: &Work) -> [(DType, usize); 3] {
    let (m, rows) = (c.model, c.rows() * c.model.hidden);
    let kept = only(!m.sandwich_norms && !c.gathers(), rows);
    [(c.dtype, only(m.sandwich_norms, rows)), (c.dtype, kept), c.full(c.gathers())]
}

/// Where nothing is needed meanwhile none is given.
fn carve_tmp<const N: usize>(tmp: View, pieces: [(DType, usize); N]) -> [View; N] {
    if tmp.len == 0 { pieces.map(|(dtype, _)| View { dtype, len: 0, ..tmp }) } else { tmp.carve(pieces) }
}

/// The gradients of vectors, made with the first half of a backward, join those of the matrices.
fn add_vectors(dev: &mut Dev, x: View, dw: GradTo) {
    let y = dw.view.sub(0, x.len);
    dev.run(if dw.acc { Op::Add { x, y } } else { Op::Copy { x, y } });
}

/// What `enter` gave in the forward is gathered again, where it was not kept; the next product hides it.
fn enter_again(dev: &mut Dev, c: &Work, n: View, kept: View, again: View) -> Result<Option<Underway>, CommError> {
    if kept.len > 0 || !c.gathers() {
        return Ok(None);
    }
    dev.start(Coll::AllGather, Some(n), again).map(Some)
}

/// What `enter` gave in the forward: kept, or gathered again by now.
fn entered(dev: &mut Dev, n: View, kept: View, again: View, underway: Option<Underway>) -> Result<View, CommError> {
    match underway {
        Some(underway) => dev.finish(underway).map(|()| again),
        None if kept.len > 0 => Ok(kept),
        None => Ok(n),
    }
}
