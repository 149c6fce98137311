//! How a model is cut over a tensor-parallel group, and what its members say to each other inside a half-block.
//!
//! Four modes, as InternEvo has them. Between half-blocks a rank holds all tokens (`mtp`) or a run of them (the others). Around
//! the two products of a half-block stand Megatron's f and g (Shoeybi et al. 2019, section 3; Korthikanti et al. 2022, section
//! 4.2), here [`enter`] and [`leave`]; around attention in `isp` the two all-to-alls of DeepSpeed-Ulysses (Jacobs et al. 2023).
//!
//! | | weights of blocks | enter | leave |
//! |---|---|---|---|
//! | `mtp` | cut by heads and by F | nothing; backward all-reduce | all-reduce; backward nothing |
//! | `msp` | the same | all-gather, kept; backward reduce-scatter | reduce-scatter; backward all-gather |
//! | `fsp` | the same | all-gather, made again in the backward | the same |
//! | `isp` | whole | nothing | nothing |
//!
//! Embedding and head are cut by the vocabulary in all four.
use crate::block::MicroBatch;
use crate::{Decoder, ParamSpec, Phase};
use backend::{Access, Backend, Columns, DType, Heads, Op, Scores, Slopes, View};
use comm::{Coll, CommError, Communicator, Ticket};
use serde::{Deserialize, Serialize};
use std::ops::Range;

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum TensorMode {
    /// Megatron.
    Mtp,
    /// Megatron with sequence parallelism.
    Msp,
    /// Sequence parallelism, gathered again in backward.
    Fsp,
    /// Ulysses and weight shards.
    Isp,
}

impl TensorMode {
    /// As run files spell it.
    pub fn name(self) -> &'static str {
        match self {
            TensorMode::Mtp => "mtp",
            TensorMode::Msp => "msp",
            TensorMode::Fsp => "fsp",
            TensorMode::Isp => "isp",
        }
    }
}

/// A tensor-parallel group.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Tensor {
    pub mode: TensorMode,
    pub size: usize,
}

impl Tensor {
    pub const ALONE: Tensor = Tensor { mode: TensorMode::Mtp, size: 1 };

    /// Do its members share the tokens of the residual stream?
    pub fn cuts_tokens(self) -> bool {
        self.size > 1 && self.mode != TensorMode::Mtp
    }
    /// Do its members share the weights of the blocks?
    pub fn cuts_blocks(self) -> bool {
        self.size > 1 && self.mode != TensorMode::Isp
    }
    /// Does it cut a bucket, of a block or of an end of the model?
    pub fn cuts(self, is_end: bool) -> bool {
        if is_end { self.size > 1 } else { self.cuts_blocks() }
    }
    /// Of the members that have the same elements of a parameter in a bucket that is cut, is `index` the first? `kv`: key/value
    /// heads of the model.
    pub fn is_first_with(self, split: Split, kv: usize, index: usize) -> bool {
        match split {
            Split::Whole | Split::PerHead => index == 0,
            Split::KvRows => index.is_multiple_of(self.kv_sharers(kv)),
            Split::Rows | Split::Columns => true,
        }
    }
    /// Are heads exchanged for tokens around attention?
    pub fn exchanges_heads(self) -> bool {
        self.size > 1 && self.mode == TensorMode::Isp
    }
    /// Tokens of a member's residual stream, of `t`.
    pub fn rows(self, t: usize) -> usize {
        if self.cuts_tokens() { t / self.size } else { t }
    }
    /// So many members have the same key/value head, of `kv`.
    pub fn kv_sharers(self, kv: usize) -> usize {
        if self.cuts_blocks() { self.size.div_ceil(kv) } else { 1 }
    }
}

/// How a parameter is cut over a tensor-parallel group.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Split {
    /// Every member has it all.
    Whole,
    /// Every member has it all and uses it on its own heads: its gradient is a part of the sum.
    PerHead,
    Rows,
    /// Rows of key/value heads: with fewer heads than members neighbours have the same.
    KvRows,
    Columns,
}

impl Decoder {
    /// What one member of a tensor-parallel group holds and computes, itself a decoder. The vocabulary is filled up.
    pub fn part(&self, tensor: Tensor) -> Decoder {
        let vocab = self.vocab.div_ceil(tensor.size);
        match tensor.cuts_blocks() {
            true => Decoder { vocab, heads: self.heads.part(tensor.size), ffn: self.ffn / tensor.size, ..self.clone() },
            false => Decoder { vocab, ..self.clone() },
        }
    }

    /// Why the group does not fit the model.
    pub fn cannot_be_cut(&self, tensor: Tensor) -> Vec<String> {
        let Tensor { mode, size } = tensor;
        let Heads { n, kv, .. } = self.heads;
        let fits = |n: usize, kv: usize, ffn: usize, size: usize| {
            n.is_multiple_of(size)
                && (kv.is_multiple_of(size) || size.is_multiple_of(kv))
                && (mode == TensorMode::Isp || ffn.is_multiple_of(size))
        };
        if fits(n, kv, self.ffn, size) {
            return vec![];
        }
        let nearest: Vec<String> =
            (1..=n).filter(|&size| fits(n, kv, self.ffn, size)).map(|size| size.to_string()).collect();
        let mut why = vec![];
        if !n.is_multiple_of(size) {
            why.push(format!("the {n} attention heads"));
        }
        if !kv.is_multiple_of(size) && !size.is_multiple_of(kv) {
            why.push(format!("the {kv} key/value heads (nor they it)"));
        }
        if mode != TensorMode::Isp && !self.ffn.is_multiple_of(size) {
            why.push(format!("model.intermediate_size = {}", self.ffn));
        }
        vec![format!(
            "parallel.tensor.size = {size} does not divide {}; sizes that do: {}",
            why.join(" and "),
            nearest.join(", ")
        )]
    }
}

/// A run of a member's part of a parameter, and where it stands in the whole: first element here, first there, elements.
pub type Stretch = (usize, usize, usize);

/// Elements `range` of what member `rank` of `size` holds of a parameter, cut where the whole is interrupted. Rows that fill up
/// the vocabulary are in none.
pub fn stretches(part: &ParamSpec, whole: &ParamSpec, rank: usize, size: usize, range: Range<usize>) -> Vec<Stretch> {
    if part.shape == whole.shape {
        return vec![(range.start, range.start, range.len())];
    }
    let width = |shape: &[usize]| shape[1..].iter().product::<usize>();
    let (narrow, wide) = (width(&part.shape), width(&whole.shape));
    let first_row = match part.split {
        Split::Whole | Split::PerHead => unreachable!("{} is whole everywhere", part.name),
        Split::Rows => rank * part.shape[0],
        Split::KvRows => rank * (whole.shape[0] / part.shape[0]) / size * part.shape[0],
        Split::Columns => {
            let row = |row: usize| {
                let (from, to) = (range.start.max(row * narrow), range.end.min((row + 1) * narrow));
                (from, row * wide + rank * narrow + from - row * narrow, to - from)
            };
            return (range.start / narrow..range.end.div_ceil(narrow)).map(row).collect();
        }
    };
    let filled = whole.shape[0].saturating_sub(first_row).min(part.shape[0]) * narrow;
    let end = range.end.min(filled);
    if range.start >= end { vec![] } else { vec![(range.start, first_row * wide + range.start, end - range.start)] }
}

/// What a rank computes of a micro-batch, as far as sizes go.
#[derive(Clone, Copy)]
pub struct Work<'a> {
    /// This rank's part of the model.
    pub model: &'a Decoder,
    pub tensor: Tensor,
    pub phase: Phase,
    /// Tokens of the micro-batch.
    pub t: usize,
    /// Of the activations.
    pub dtype: DType,
}

impl Work<'_> {
    /// Tokens of the residual stream.
    pub fn rows(&self) -> usize {
        self.tensor.rows(self.t)
    }
    /// Tokens that go into the products of a half-block.
    pub(crate) fn product_rows(&self) -> usize {
        if self.gathers() { self.t } else { self.rows() }
    }
    /// Are the tokens of a half-block gathered from the group?
    pub(crate) fn gathers(&self) -> bool {
        self.tensor.cuts_tokens() && self.tensor.cuts_blocks()
    }
    /// Elements (T, D) of a piece that is there when `needed`.
    pub(crate) fn full(&self, needed: bool) -> (DType, usize) {
        (self.dtype, if needed { self.t * self.model.hidden } else { 0 })
    }
    /// What attention runs on.
    pub(crate) fn attention_heads(&self) -> Heads {
        if self.tensor.exchanges_heads() { self.model.heads.part(self.tensor.size) } else { self.model.heads }
    }
}

impl MicroBatch<'_> {
    pub(crate) fn scores(&self, layer: usize) -> Scores {
        let scores = self.whole.scores(layer);
        let first = |Slopes { of, .. }| Slopes { first: self.rank * of / self.work.tensor.size, of };
        Scores { alibi: scores.alibi.map(first), ..scores }
    }

    /// Of this rank's logits.
    pub(crate) fn columns(&self) -> Columns {
        let (width, vocab) = (self.work.model.vocab, self.whole.vocab);
        let first = self.rank * width;
        Columns { first, filled: vocab.saturating_sub(first).min(width), width }
    }
}

/// A device, and this rank's end of its tensor-parallel group.
pub struct Dev<'a> {
    pub backend: &'a mut dyn Backend,
    pub group: Option<&'a mut dyn Communicator>,
    /// Bytes that this rank has sent to the group.
    pub sent: &'a mut f64,
}

/// A collective of the group under way.
#[must_use = "what it was lent comes back through `finish`"]
pub(crate) struct Underway(Ticket);

impl Dev<'_> {
    pub fn run(&mut self, op: Op) {
        self.backend.run(op);
    }

    pub(crate) fn start(&mut self, coll: Coll, src: Option<View>, dst: View) -> Result<Underway, CommError> {
        let after = self.backend.mark();
        let whole = src.map_or(0, |src| src.len).max(dst.len);
        let src = src.map(|view| self.backend.lend(view, Access::Read));
        let bytes = dst.dtype.bytes();
        let dst = self.backend.lend(dst, Access::Write);
        let group = self.group.as_deref_mut().expect("a tensor-parallel rank has a group");
        *self.sent += coll.sent([group.rank(), group.size()], whole) * bytes as f64;
        Ok(Underway(group.start(after, coll, src, Some(dst))?))
    }

    pub(crate) fn finish(&mut self, Underway(ticket): Underway) -> Result<(), CommError> {
        let group = self.group.as_deref_mut().expect("it has started something");
        for loan in group.wait(ticket)?.into_iter().flatten() {
            self.backend.settle(loan);
        }
        Ok(())
    }

    pub(crate) fn collect(&mut self, coll: Coll, src: Option<View>, dst: View) -> Result<(), CommError> {
        let underway = self.start(coll, src, dst)?;
        self.finish(underway)
    }
}

// ---- before the products of a half-block ------------------------------------------------------------------------------

/// n (rows, D) -> what goes into the product. `full` (T, D) is used where tokens are gathered.
pub(crate) fn enter(dev: &mut Dev, work: &Work, n: View, full: View) -> Result<View, CommError> {
    if !work.gathers() {
        return Ok(n);
    }
    dev.collect(Coll::AllGather, Some(n), full)?;
    Ok(full)
}

/// Where the product's gradient dn goes before the group has added it up: itself, or `full` (T, D) of which each keeps a part.
pub(crate) fn before_enter(work: &Work, dn: View, full: View) -> View {
    if work.gathers() { full } else { dn }
}

/// The gradient of `enter`: parts of a sum -> dn (rows, D)
pub(crate) fn enter_backward(dev: &mut Dev, work: &Work, dn: View, full: View) -> Result<Option<Underway>, CommError> {
    Ok(match work.tensor.mode {
        _ if work.gathers() => Some(dev.start(Coll::ReduceScatter, Some(full), dn)?),
        TensorMode::Mtp if work.tensor.size > 1 => Some(dev.start(Coll::AllReduce, None, dn)?),
        _ => None,
    })
}

// ---- behind them ----------------------------------------------------------------------------------------------------

/// Is this the rank that adds, once for the group, what is no part of a sum: the residual stream, a bias?
pub(crate) fn adds(mb: &MicroBatch) -> bool {
    mb.rank == 0 || !mb.work.tensor.cuts_blocks()
}

/// y (rows, D) or `full` (T, D), a part of a sum -> y (rows, D), the sum
pub(crate) fn leave(dev: &mut Dev, work: &Work, y: View, full: View) -> Result<(), CommError> {
    match work.tensor.mode {
        _ if work.gathers() => dev.collect(Coll::ReduceScatter, Some(full), y),
        TensorMode::Mtp if work.tensor.size > 1 => dev.collect(Coll::AllReduce, None, y),
        _ => Ok(()),
    }
}

// ---- around attention -------------------------------------------------------------------------------------------------

/// Rows of all heads -> all tokens of this rank's heads. `rows` (T/n, ..), `sent` and `all` (T, ../n).
pub(crate) fn to_heads(
    dev: &mut Dev,
    heads: Heads,
    parts: usize,
    [rows, sent, all]: [View; 3],
) -> Result<(), CommError> {
    dev.run(Op::SplitHeads { x: rows, y: sent, heads, parts });
    dev.collect(Coll::AllToAll, Some(sent), all)
}

/// And back; heads that several ranks had are added up.
pub(crate) fn to_rows(
    dev: &mut Dev,
    heads: Heads,
    parts: usize,
    [all, sent, rows]: [View; 3],
) -> Result<(), CommError> {
    dev.collect(Coll::AllToAll, Some(all), sent)?;
    dev.run(Op::JoinHeads { x: sent, y: rows, heads, parts });
    Ok(())
}
