//! The CPU device: views become slices here and nowhere else, and every operation finds its loops.
//!
//! Every file holds one operation, its formula, its forward and its backward; start with `rmsnorm`. The loops are
//! written once over `real::Real`, so that the f64 instance can be checked against finite differences and the f32 one
//! against it. Work is cut into tiles by shape, never by the number of threads, and what crosses tiles is added in tile
//! order: the bits of a result do not depend on who computed it. All that is unsafe stands in `matmul`.
mod adamw;
mod attention;
mod cross_entropy;
mod elementwise;
mod embedding;
mod grad_norm;
mod linear;
mod matmul;
mod real;
mod reduce;
mod rmsnorm;
mod rope;
mod swiglu;

use crate::{Access, Arena, Backend, DType, Loan, Mark, Op, Region, Sizes, View};

pub struct Cpu {
    arena: Arena,
    pool: rayon::ThreadPool,
}

impl Cpu {
    /// Results do not depend on `threads`: work is cut by shape.
    pub fn new(sizes: Sizes, threads: usize) -> Cpu {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().expect("threads can be started");
        Cpu { arena: Arena::new(sizes), pool }
    }

    pub(crate) fn arena(&self) -> &Arena {
        &self.arena
    }
}

/// Every operation, on the thread pool.
fn run(arena: &mut Arena, op: Op) {
    /// `kernel!(x => rmsnorm::forward([x, w], [y, rstd], eps))` calls `rmsnorm::forward(x, w, y, rstd, eps)` on slices,
    /// over the float type of the view `x`.
    macro_rules! kernel {
        ($like:ident => $file:ident::$f:ident([$($r:ident),*], [$($w:ident),*] $(, $arg:expr)*)) => {{
            let dtype = $like.dtype;
            let ([$($r),*], [$($w),*]) = arena.resolve([$($r),*], [$($w),*]);
            match dtype {
                DType::F32 => $file::$f::<f32>($($r.of(),)* $($w.of(),)* $($arg),*),
                DType::F64 => $file::$f::<f64>($($r.of(),)* $($w.of(),)* $($arg),*),
                DType::U32 => panic!("{op:?} has no integer kernel"),
            }
        }};
    }
    match op {
        Op::Fill { y, value } => kernel!(y => elementwise::fill([], [y], value)),
        Op::Copy { x, y } => {
            assert_eq!((x.dtype, x.len), (y.dtype, y.len), "{op:?}");
            let ([x], [y]) = arena.resolve([x], [y]);
            elementwise::copy(x.bytes(), y.bytes())
        }
        Op::Add { x, y } => kernel!(x => elementwise::add([x], [y])),
        Op::TakeRows { rows, x, y, d } => kernel!(x => embedding::forward([rows, x], [y], d)),

        Op::Embedding { ids, w, y, d } => kernel!(w => embedding::forward([ids, w], [y], d)),
        Op::EmbeddingBackward { ids, dy, dw, d, acc } => {
            kernel!(dy => embedding::backward([ids, dy], [dw], d, acc))
        }

        Op::Linear { x, w, y, dims, acc } => kernel!(x => linear::forward([x, w], [y], dims, acc)),
        Op::LinearBackwardInput { dy, w, dx, dims } => {
            kernel!(dy => linear::backward_input([dy, w], [dx], dims))
        }
        Op::LinearBackwardWeight { dy, x, dw, dims, acc } => {
            kernel!(dy => linear::backward_weight([dy, x], [dw], dims, acc))
        }

        Op::RmsNorm { x, w, y, rstd, eps } => kernel!(x => rmsnorm::forward([x, w], [y, rstd], eps)),
        Op::RmsNormBackward { x, w, rstd, dy, dx, dw, acc } => {
            kernel!(x => rmsnorm::backward([x, w, rstd, dy], [dx, dw], acc))
        }

        Op::Rope { qkv, positions, table, heads, inverse } => {
            kernel!(table => rope::rotate([positions, table], [qkv], heads, inverse))
        }

        Op::Attention { qkv, cu_seqlens, o, lse, heads } => {
            kernel!(qkv => attention::forward([qkv, cu_seqlens], [o, lse], heads))
        }
        Op::AttentionBackward { qkv, cu_seqlens, o, lse, d_o, dqkv, heads } => {
            kernel!(qkv => attention::backward([qkv, cu_seqlens, o, lse, d_o], [dqkv], heads))
        }
        Op::AttentionCached { qkv, span, cache, o, heads } => {
            kernel!(qkv => attention::cached([qkv, span], [cache, o], heads))
        }

        Op::SwiGlu { h, s, f } => kernel!(h => swiglu::forward([h], [s], f)),
        Op::SwiGluBackward { h, ds, dh, f } => kernel!(h => swiglu::backward([h, ds], [dh], f)),

        Op::CountLabels { labels, count, acc } => {
            let ([labels], [count]) = arena.resolve([labels], [count]);
            cross_entropy::count_labels(labels.of(), count.of(), acc)
        }
        Op::CrossEntropy { labels, count, logits, loss, v } => {
            kernel!(logits => cross_entropy::forward_backward([labels, count], [logits, loss], v))
        }
        Op::CrossEntropyLoss { labels, logits, loss, v } => {
            kernel!(logits => cross_entropy::forward([labels, logits], [loss], v))
        }

        Op::SumSquares { x, sums, chunk } => kernel!(x => grad_norm::sum_squares([x], [sums], chunk)),
        Op::GradNorm { sums, count, norm, max_norm } => {
            let ([sums, count], [norm]) = arena.resolve([sums, count], [norm]);
            grad_norm::grad_norm(sums.of(), count.of(), norm.of(), max_norm)
        }
        Op::AdamW { g, norm, hyper, p, m, v, beta1, beta2, eps, weight_decay } => {
            let config = adamw::Config { beta1, beta2, eps, weight_decay };
            kernel!(g => adamw::step([g, norm, hyper], [p, m, v], config))
        }
    }
}

impl Backend for Cpu {
    fn run(&mut self, op: Op) {
        let Cpu { arena, pool } = self;
        pool.install(|| run(arena, op));
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
