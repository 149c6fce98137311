//! The CPU device: views become slices here and nowhere else, and every operation finds its loops.
//!
//! Every file holds one operation, its formula, its forward and its backward; start with `rmsnorm`. The loops are
//! written once over `real::Real`, so that the f64 instance can be checked against finite differences and the f32 one
//! against it. Where a cut of the work has a say in the bits it follows from shapes, and what crosses tiles is added in tile
//! order: the bits of a result do not depend on who computed it. `pool` and `parts` are the workers and what they
//! share, `isa` and `lanes` the instructions of the machine.
mod activation;
mod adamw;
mod attention;
mod bias;
mod cross_entropy;
mod elementwise;
mod embedding;
mod exp;
mod grad_norm;
mod head_norm;
mod head_parts;
mod isa;
mod lanes;
mod layernorm;
mod linear;
mod matmul;
mod nonlinearity;
mod one_row;
mod outer;
mod parts;
mod peak;
mod pool;
mod real;
mod reduce;
mod rmsnorm;
mod rope;
mod storage;
mod unit_rows;
mod vocab_parallel;

pub use isa::Isa;
use pool::Pool;
use storage::Store;

use crate::{Access, Arena, Backend, DType, Loan, Mark, Op, Pairs, Region, Rotation, Sizes, View};

pub struct Cpu {
    arena: Arena,
    pool: Pool,
}

impl Cpu {
    /// Results do not depend on `threads`: work is cut by shape.
    pub fn new(sizes: Sizes, threads: usize) -> Cpu {
        Cpu::with_isa(sizes, threads, Isa::best())
    }

    /// Nor do they depend on `isa`, except those of products and attention.
    pub fn with_isa(sizes: Sizes, threads: usize, isa: Isa) -> Cpu {
        Cpu { arena: Arena::new(sizes), pool: Pool::new(threads, isa) }
    }

    /// Multiplies and adds in registers on all threads and does nothing else; how many floating-point operations that
    /// were. What a step is measured against.
    pub fn spin(&self, rounds: usize) -> f64 {
        peak::spin(&self.pool, rounds)
    }

    pub(crate) fn arena(&self) -> &Arena {
        &self.arena
    }
}

/// The tensors of a rotation, empty without one.
fn rotate_by(rotation: Option<Rotation>, qkv: View) -> (View, View, Option<Pairs>) {
    let empty = |dtype| View { dtype, offset: 0, len: 0, ..qkv };
    match rotation {
        Some(Rotation { positions, table, pairs }) => (positions, table, Some(pairs)),
        None => (empty(DType::U32), empty(qkv.dtype), None),
    }
}

/// Every operation, on the thread pool.
fn run(pool: &Pool, arena: &mut Arena, op: Op) {
    /// `kernel!(x => rmsnorm::forward([x, w], [y, rstd], eps))` calls `rmsnorm::forward(x, w, y, rstd, eps)` on slices,
    /// over the float type of the view `x`, or f32 where that is only stored in less: see `storage`.
    macro_rules! kernel {
        ($like:ident => $file:ident::$f:ident([$($r:ident),*], [$($w:ident),*] $(, $arg:expr)*)) => {{
            let dtype = $like.dtype;
            let ([$($r),*], [$($w),*]) = arena.resolve([$($r),*], [$($w),*]);
            match dtype {
                DType::F32 | DType::BF16 | DType::F16 => {
                    $file::$f::<f32>(pool, $(&Store::read(pool, $r),)* $(&mut Store::write(pool, $w),)* $($arg),*)
                }
                DType::F64 => $file::$f::<f64>(pool, $(&Store::read(pool, $r),)* $(&mut Store::write(pool, $w),)* $($arg),*),
                DType::U32 => panic!("{op:?} has no integer kernel"),
            }
        }};
    }
    match op {
        Op::Fill { y, value } => kernel!(y => elementwise::fill([], [y], value)),
        Op::Copy { x, y } if x.dtype == y.dtype => {
            assert_eq!(x.len, y.len, "{op:?}");
            let ([x], [y]) = arena.resolve([x], [y]);
            elementwise::copy(pool, x.bytes(), y.bytes())
        }
        Op::Copy { x, y } => kernel!(x => elementwise::convert([x], [y])),
        Op::Add { x, y } => kernel!(x => elementwise::add([x], [y])),
        Op::TakeRows { rows, x, y, d } => kernel!(x => embedding::forward([rows, x], [y], d, 1.0, None)),

        Op::Embedding { ids, w, y, d, scale, first } => {
            kernel!(w => embedding::forward([ids, w], [y], d, scale, first))
        }
        Op::EmbeddingBackward { ids, dy, dw, d, scale, first, acc } => {
            kernel!(dy => embedding::backward([ids, dy], [dw], d, scale, first, acc))
        }

        Op::Linear { x, w, add: None, y, dims } => kernel!(x => linear::forward([x, w], [y], dims)),
        Op::Linear { x, w, add: Some(add), y, dims } => kernel!(x => linear::forward_onto([x, w, add], [y], dims)),
        Op::LinearBackwardInput { dy, w, dx, dims } => {
            kernel!(dy => linear::backward_input([dy, w], [dx], dims))
        }
        Op::LinearBackwardWeight { dy, x, dw, dims, scale, acc } => {
            kernel!(dy => linear::backward_weight([dy, x], [dw], dims, scale, acc))
        }
        Op::AddBias { b, y } => kernel!(y => bias::add([b], [y])),
        Op::BiasBackward { dy, db, acc } => kernel!(dy => bias::backward([dy], [db], acc)),

        Op::RmsNorm { x, w, y, rstd, eps, offset } => kernel!(x => rmsnorm::forward([x, w], [y, rstd], eps, offset)),
        Op::RmsNormBackward { x, w, rstd, dy, dx, dw, offset, acc } => {
            kernel!(x => rmsnorm::backward([x, w, rstd, dy], [dx, dw], offset, acc))
        }
        Op::LayerNorm { x, w, b, y, stats, eps } => kernel!(x => layernorm::forward([x, w, b], [y, stats], eps)),
        Op::LayerNormBackward { x, w, stats, dy, dx, dw, db, acc } => {
            kernel!(x => layernorm::backward([x, w, stats, dy], [dx, dw, db], acc))
        }
        Op::HeadNorm { x, w, y, rstd, heads, eps } => {
            kernel!(x => head_norm::forward([x, w], [y, rstd], heads, eps))
        }
        Op::HeadNormBackward { x, w, rstd, dqkv, dw, heads, acc } => {
            kernel!(x => head_norm::backward([x, w, rstd], [dqkv, dw], heads, acc))
        }
        Op::UnitRows { w, y, norms, d } => kernel!(w => unit_rows::forward([w], [y, norms], d)),
        Op::UnitRowsBackward { y, norms, dy, dw, d, scale, acc } => {
            kernel!(y => unit_rows::backward([y, norms, dy], [dw], d, scale, acc))
        }

        Op::Attention { qkv, cu_seqlens, rotation, o, lse, heads, scores } => {
            let (positions, table, pairs) = rotate_by(rotation, qkv);
            kernel!(qkv => attention::forward([cu_seqlens, positions, table], [qkv, o, lse], pairs, heads, scores))
        }
        Op::AttentionBackward { qkv, cu_seqlens, rotation, o, lse, d_o, dqkv, heads, scores } => {
            let (positions, table, pairs) = rotate_by(rotation, qkv);
            kernel!(qkv => attention::backward(
                [qkv, cu_seqlens, positions, table, o, lse, d_o], [dqkv], pairs, heads, scores
            ))
        }
        Op::AttentionCached { qkv, span, rotation, cache, o, heads, scores } => {
            let (positions, table, pairs) = rotate_by(rotation, qkv);
            kernel!(qkv => attention::cached([span, positions, table], [qkv, cache, o], pairs, heads, scores))
        }

        Op::SplitHeads { x, y, heads, parts } => kernel!(x => head_parts::split([x], [y], heads, parts)),
        Op::JoinHeads { x, y, heads, parts } => kernel!(x => head_parts::join([x], [y], heads, parts)),

        Op::Gated { h, s, f, by } => kernel!(h => activation::gated([h], [s], f, by)),
        Op::GatedBackward { h, ds, f, by } => kernel!(h => activation::gated_backward([ds], [h], f, by)),
        Op::Activation { h, s, by } => kernel!(h => activation::plain([h], [s], by)),
        Op::ActivationBackward { h, ds, by } => kernel!(h => activation::plain_backward([ds], [h], by)),

        Op::CountLabels { labels, count, acc } => {
            let ([labels], [count]) = arena.resolve([labels], [count]);
            cross_entropy::count_labels(labels.of(), count.of(), acc)
        }
        Op::CrossEntropy { labels, types, count, scale, logits, stats, v, with, acc } => {
            kernel!(logits => cross_entropy::forward_backward(
                [labels, types, count, scale], [logits, stats], v, with, acc
            ))
        }
        Op::CrossEntropyLoss { labels, types, logits, stats, v, cap, acc } => {
            kernel!(logits => cross_entropy::forward([labels, types, logits], [stats], v, cap, acc))
        }
        Op::LogitParts { labels, logits, parts, columns, cap } => {
            kernel!(logits => vocab_parallel::parts([labels], [logits, parts], columns, cap))
        }
        Op::LossOfParts { labels, types, parts, stats, vocab, smoothing, acc } => {
            let ([labels, types, parts], [stats]) = arena.resolve([labels, types, parts], [stats]);
            vocab_parallel::loss(labels.of(), types.of(), parts.of(), stats.of(), vocab, smoothing, acc)
        }
        Op::LogitGradient { labels, count, scale, parts, logits, columns, vocab, with } => {
            kernel!(logits => vocab_parallel::gradient([labels, count, scale, parts], [logits], columns, vocab, with))
        }
        Op::SoftCap { z, cap } => kernel!(z => elementwise::cap([], [z], cap)),

        Op::SumSquares { x, sums, chunk } => kernel!(x => grad_norm::sum_squares([x], [sums], chunk)),
        Op::GradNorm { sums, count, scale, norm, max_norm } => {
            let ([sums, count, scale], [norm]) = arena.resolve([sums, count, scale], [norm]);
            grad_norm::grad_norm(sums.of(), count.of(), scale.of(), norm.of(), max_norm)
        }
        Op::LossScale { norm, scale, rule } => {
            let ([norm], [scale]) = arena.resolve([norm], [scale]);
            grad_norm::loss_scale(norm.of(), scale.of(), rule)
        }
        Op::AdamW { g, norm, hyper, p, m, v, copy, beta1, eps, weight_decay } => {
            let config = adamw::Config { beta1, eps, weight_decay };
            match copy {
                None => kernel!(g => adamw::step([g, norm, hyper], [p, m, v], config)),
                Some(copy) => kernel!(g => adamw::step_and_copy([g, norm, hyper], [p, m, v, copy], config)),
            }
        }
    }
}

impl Backend for Cpu {
    fn run(&mut self, op: Op) {
        run(&self.pool, &mut self.arena, op);
    }
    fn upload(&mut self, src: &[u8], dst: View) {
        let ([], [y]) = self.arena.resolve([], [dst]);
        y.bytes().copy_from_slice(src);
    }
    fn download(&mut self, src: View, dst: &mut [u8]) {
        let ([x], []) = self.arena.resolve([src], []);
        dst.copy_from_slice(x.bytes());
    }
    /// Compute is done when `run` returns.
    fn synchronize(&mut self) {}
    /// As above.
    fn mark(&mut self) -> Mark {
        Mark::default()
    }
    fn lend(&mut self, view: View, access: Access) -> Loan {
        self.arena.lend(view, access)
    }
    fn settle(&mut self, loan: Loan) {
        self.arena.settle(loan);
    }
    fn high_water(&self, region: Region) -> usize {
        self.arena.high_water(region)
    }
}
