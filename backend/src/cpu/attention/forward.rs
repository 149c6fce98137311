//! The attention of a micro-batch. A work item is a block of queries of one group, with all heads of the group.
use super::online::{KEYS, Keys, Queries};
use super::pack::{Carve, Shared};
use super::scores::{Finished, Plain, Scoring};
use super::{Block, Shape, blocks};
use crate::cpu::lanes::{Kernel, Lanes, Vectors};
use crate::cpu::pool::Pool;
use crate::cpu::rope::Turn;
use crate::{Heads, Pairs, Scores};

/// Tokens in a work item, at most: as many as have this many queries in a group, but at least one.
pub fn tokens(shape: Shape) -> usize {
    (1024 / shape.group).max(1)
}

/// cu_seqlens (S + 1), positions (T), table (P, H) -> qkv (T, (N+2K) H) rotated, o (T, N H), lse (N, T)
pub fn forward<E: Vectors>(
    pool: &Pool,
    cu_seqlens: &[u32],
    positions: &[u32],
    table: &[E],
    qkv: &mut [E],
    o: &mut [E],
    lse: &mut [E],
    pairs: Option<Pairs>,
    heads: Heads,
    scores: Scores,
) {
    let t = qkv.len() / heads.qkv();
    assert_eq!([qkv.len(), o.len(), lse.len()], [t * heads.qkv(), t * heads.out(), t * heads.n]);
    let shape = Shape::new(heads, scores);
    let blocks = &*blocks(pool, cu_seqlens, t, tokens(shape));
    let call = Call {
        pool,
        shape,
        scale: scores.scale,
        turn: Turn::new(pairs, positions, table, t, heads.dim),
        qkv: Shared::new(qkv, heads.qkv()),
        o: Shared::new(o, heads.out()),
        lse: Shared::new(lse, t),
    };
    // Keys that several items read are rotated before any does.
    if pairs.is_some() && blocks.iter().any(|&block| Block::from(block).of_many()) {
        pool.each(blocks.len() * heads.kv, |item| {
            let block = Block::from(blocks[item / heads.kv]);
            if block.of_many() {
                call.turn_keys(block, item % heads.kv);
            }
        });
    }
    match Finished::new(scores) {
        None => call.run(blocks, Plain),
        Some(finished) => call.run(blocks, finished),
    }
}

/// What a worker holds, in elements, for a block of `n` tokens.
pub fn scratch<E: Vectors>(shape: Shape, n: usize) -> usize {
    Keys::<E>::scratch(shape) + Queries::<E>::scratch(shape, n)
}

struct Call<'a, E> {
    pool: &'a Pool,
    shape: Shape,
    scale: f64,
    turn: Turn<'a, E>,
    qkv: Shared<'a, E>,
    o: Shared<'a, E>,
    lse: Shared<'a, E>,
}

impl<E: Vectors> Call<'_, E> {
    fn run(&self, blocks: &[[u32; 4]], scoring: impl Scoring<E>) {
        let kv = self.shape.heads.kv;
        self.pool.each(blocks.len() * kv, |item| {
            self.pool.isa().lanes(Item { call: self, block: blocks[item / kv].into(), kv: item % kv, scoring });
        });
    }

    /// The keys of the tokens of a block.
    #[inline(always)]
    fn turn_keys(&self, block: Block, kv: usize) {
        let ([_, k, _], first) = (self.shape.columns(kv), block.segment + block.first);
        // SAFETY: these keys belong to this item, of those that rotate; items that read them come after or are this one.
        let mut k = unsafe { self.qkv.rows_mut(first, block.n, k, self.shape.dim) };
        for i in 0..block.n {
            self.turn.forward(first + i, k.row(i));
        }
    }
}

struct Item<'a, E, S> {
    call: &'a Call<'a, E>,
    block: Block,
    kv: usize,
    scoring: S,
}

impl<E: Vectors, S: Scoring<E>> Kernel<E> for Item<'_, E, S> {
    #[inline(always)]
    fn run<L: Lanes<E>>(self) {
        let Item { call, block, kv, scoring } = self;
        let Call { pool, shape, .. } = *call;
        let Block { segment, first, n, .. } = block;
        let ([q, k, v], token) = (shape.columns(kv), segment + first);
        if !block.of_many() {
            call.turn_keys(block, kv);
        }
        let mut memory = pool.scratch(scratch::<E>(shape, n));
        let scratch = &mut Carve(&mut memory);

        // SAFETY: the queries and outputs of these tokens and heads belong to this item.
        let [mut q, mut o] = unsafe {
            let width = shape.group * shape.dim;
            [call.qkv.rows_mut(token, n, q, width), call.o.rows_mut(token, n, q, width)]
        };
        for i in 0..n {
            call.turn.forward(token + i, q.row(i));
        }
        let mut queries = Queries::pack::<L>(shape, q.rows(), first, call.scale, scratch);
        // SAFETY: keys are no longer written, values never were.
        let [k, v] = [k, v].map(|column| unsafe { call.qkv.rows(segment, first + n, column, shape.dim) });
        let seen = shape.first_seen(first) / KEYS * KEYS..first + n;
        queries.attend::<L>([k, v], seen, kv * shape.group, scoring, &mut Keys::new(shape, scratch));

        // SAFETY: as of the outputs.
        let mut lse = unsafe { call.lse.rows_mut(kv * shape.group, shape.group, token, n) };
        queries.finish(&mut o, Some(&mut lse));
    }
}
