//! Attention over a cache, for generation: a prompt in pieces, then token after token.
use super::online::{KEYS, Keys, Queries};
use super::pack::{Carve, Rows, Shared};
use super::scores::{Finished, Plain, Scoring};
use super::{Shape, even, forward};
use crate::cpu::lanes::{Kernel, Lanes, Vectors};
use crate::cpu::pool::{Pool, pieces, pieces_mut};
use crate::cpu::rope::Turn;
use crate::{Heads, Pairs, Scores};

/// Tokens whose rotation is worth a worker's while.
const TILE: usize = 16;
/// Rows of queries that are few: work is cut by keys, so that every worker reads a part of the cache.
const FEW: usize = 64;

/// span (2) = [start, n], positions (T), table (P, H) -> the first n rows of qkv (T, (N+2K) H) rotated, cache (2, C, K H),
/// o (T, N H)
pub fn cached<E: Vectors>(
    pool: &Pool,
    span: &[u32],
    positions: &[u32],
    table: &[E],
    qkv: &mut [E],
    cache: &mut [E],
    o: &mut [E],
    pairs: Option<Pairs>,
    heads: Heads,
    scores: Scores,
) {
    let (start, n) = (span[0] as usize, span[1] as usize);
    assert_eq!(qkv.len() / heads.qkv(), o.len() / heads.out());
    let (o, rest) = o.split_at_mut(n * heads.out());
    rest.fill(E::ZERO);
    if n == 0 {
        return;
    }
    let width = heads.kv * heads.dim;
    let (keys, values) = cache.split_at_mut(cache.len() / 2);
    let qkv = &mut qkv[..n * heads.qkv()];
    enter(pool, Turn::new(pairs, positions, table, n, heads.dim), qkv, [&mut *keys, &mut *values], start, heads);

    let call = Call {
        pool,
        shape: Shape::new(heads, scores),
        scale: scores.scale,
        start,
        n,
        qkv,
        cache: [keys, values].map(|x| Rows::of(x, width, 0, start + n, 0, width)),
        o: Shared::new(o, heads.out()),
    };
    match Finished::new(scores) {
        None => call.run(Plain),
        Some(finished) => call.run(finished),
    }
}

/// Rotates qkv (n, (N+2K) H), and copies its keys and values into the cache (C, K H) from `start` on.
fn enter<E: Vectors>(pool: &Pool, turn: Turn<E>, qkv: &mut [E], cache: [&mut [E]; 2], start: usize, heads: Heads) {
    let (n, width) = (qkv.len() / heads.qkv(), heads.kv * heads.dim);
    let [keys, values] = cache.map(|x| pieces_mut(&mut x[start * width..][..n * width], TILE * width));
    pool.over(
        (pieces_mut(qkv, TILE * heads.qkv()), keys, values),
        #[inline(always)]
        |tile, (qkv, keys, values)| {
            let rows = qkv.chunks_exact_mut(heads.qkv()).zip(keys.chunks_exact_mut(width));
            for (i, ((qkv, key), value)) in rows.zip(values.chunks_exact_mut(width)).enumerate() {
                let (turned, v) = qkv.split_at_mut(heads.out() + width);
                turn.forward(tile * TILE + i, turned);
                key.copy_from_slice(&turned[heads.out()..]);
                value.copy_from_slice(v);
            }
        },
    );
}

struct Call<'a, E> {
    pool: &'a Pool,
    shape: Shape,
    scale: f64,
    start: usize,
    n: usize,
    /// (n, (N+2K) H)
    qkv: &'a [E],
    /// k, v (start + n, K H)
    cache: [Rows<'a, E>; 2],
    o: Shared<'a, E>,
}

impl<E: Vectors> Call<'_, E> {
    fn run(&self, scoring: impl Scoring<E>) {
        if self.n * self.shape.group <= FEW { self.by_keys(scoring) } else { self.by_queries(scoring) }
    }

    /// A work item is a block of queries of a group, the last and most expensive first.
    fn by_queries(&self, scoring: impl Scoring<E>) {
        let (kv, tokens) = (self.shape.heads.kv, even(self.n, forward::tokens(self.shape)));
        let blocks = self.n.div_ceil(tokens);
        self.pool.each(blocks * kv, |item| {
            let first = (blocks - 1 - item / kv) * tokens;
            let n = tokens.min(self.n - first);
            self.pool.isa().lanes(Block { call: self, first, n, kv: item % kv, scoring });
        });
    }

    /// A work item is a block of keys of a group; what the items saw is joined in their order.
    fn by_keys(&self, scoring: impl Scoring<E>) {
        let Shape { heads, group, dim, padded: width, .. } = self.shape;
        let (kv, rows, end) = (heads.kv, self.n * group, self.start + self.n);
        let from = self.shape.first_seen(self.start) / KEYS;
        let blocks = end.div_ceil(KEYS) - from;
        let partial = rows * (width + 2);
        let mut partials = self.pool.scratch(kv * blocks * partial);
        self.pool.over(pieces_mut(&mut partials, partial), |item, partial| {
            let (block, kv) = (from + item % blocks, item / blocks);
            let keys = [block * KEYS, end.min((block + 1) * KEYS)];
            self.pool.isa().lanes(Part { call: self, keys, kv, partial, scoring });
        });
        self.pool.over(
            pieces(&partials, blocks * partial),
            #[inline(always)]
            |kv, partials| {
                // SAFETY: the outputs of this group belong to this item.
                let mut o = unsafe { self.o.rows_mut(0, self.n, kv * group * dim, group * dim) };
                for row in 0..rows {
                    let o = &mut o.row(row / group)[row % group * dim..][..dim];
                    join(partials.chunks_exact(partial), rows, row, width, o);
                }
            },
        );
    }

    /// The queries of `n` tokens from `first` on, and the keys and values of all tokens.
    #[inline(always)]
    fn of_group(&self, kv: usize, first: usize, n: usize) -> (Rows<'_, E>, [Rows<'_, E>; 2]) {
        let Shape { heads, group, dim, .. } = self.shape;
        let q = Rows::of(self.qkv, heads.qkv(), first, n, kv * group * dim, group * dim);
        (q, self.cache.map(|x| x.columns(kv * dim, dim)))
    }
}

/// o = Σ 2^(max - largest max) sums / Σ 2^(max - largest max) total, of a row of (sums (rows, H), max (rows), total (rows))
#[inline(always)]
fn join<'a, E: Vectors>(
    partials: impl Iterator<Item = &'a [E]> + Clone,
    rows: usize,
    row: usize,
    width: usize,
    o: &mut [E],
) {
    let max = |partial: &[E]| partial[rows * width + row];
    let largest = partials.clone().map(max).fold(E::NEG_INFINITY, |a, b| if b > a { b } else { a });
    let mut total = E::ZERO;
    o.fill(E::ZERO);
    for partial in partials {
        let share = (max(partial) - largest).exp2();
        total += share * partial[rows * (width + 1) + row];
        let sums = &partial[row * width..][..o.len()];
        for i in 0..o.len() {
            o[i] += share * sums[i];
        }
    }
    for x in o {
        *x = *x / total;
    }
}

struct Block<'a, E, S> {
    call: &'a Call<'a, E>,
    first: usize,
    n: usize,
    kv: usize,
    scoring: S,
}

impl<E: Vectors, S: Scoring<E>> Kernel<E> for Block<'_, E, S> {
    #[inline(always)]
    fn run<L: Lanes<E>>(self) {
        let Block { call, first, n, kv, scoring } = self;
        let Call { pool, shape, start, .. } = *call;
        let (q, cache) = call.of_group(kv, first, n);
        let mut memory = pool.scratch(forward::scratch::<E>(shape, n));
        let scratch = &mut Carve(&mut memory);
        let mut queries = Queries::pack::<L>(shape, q, start + first, call.scale, scratch);
        let seen = shape.first_seen(start + first) / KEYS * KEYS..start + first + n;
        queries.attend::<L>(cache, seen, kv * shape.group, scoring, &mut Keys::new(shape, scratch));
        // SAFETY: the outputs of these tokens and heads belong to this item.
        let mut o = unsafe { call.o.rows_mut(first, n, kv * shape.group * shape.dim, shape.group * shape.dim) };
        queries.finish(&mut o, None);
    }
}

struct Part<'a, E, S> {
    call: &'a Call<'a, E>,
    /// From, to.
    keys: [usize; 2],
    kv: usize,
    partial: &'a mut [E],
    scoring: S,
}

impl<E: Vectors, S: Scoring<E>> Kernel<E> for Part<'_, E, S> {
    #[inline(always)]
    fn run<L: Lanes<E>>(self) {
        let Part { call, keys: [from, to], kv, partial, scoring } = self;
        let Call { pool, shape, start, n, .. } = *call;
        let (q, cache) = call.of_group(kv, 0, n);
        let mut memory = pool.scratch(forward::scratch::<E>(shape, n));
        let scratch = &mut Carve(&mut memory);
        let mut queries = Queries::pack::<L>(shape, q, start, call.scale, scratch);
        queries.attend::<L>(cache, from..to, kv * shape.group, scoring, &mut Keys::new(shape, scratch));
        queries.save(partial);
    }
}
