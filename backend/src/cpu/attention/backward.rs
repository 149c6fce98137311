//! The gradients of attention. A work item is a segment and a group, so that dk and dv are sums of one worker.
use super::pack::{self, Carve, Rows, Shared, scaled};
use super::scores::{Finished, Plain, Scoring};
use super::tile::{COLUMNS, ROWS, accumulate, product};
use super::{Block, Shape, blocks};
use crate::cpu::lanes::{Kernel, LANES, Lanes, Vectors};
use crate::cpu::pool::Pool;
use crate::cpu::rope::Turn;
use crate::{Heads, Pairs, Scores};
use std::f64::consts::{LN_2, LOG2_E};

/// Rows of queries that are packed at a time: as many tokens as have so many, but at least one.
const QUERIES: usize = 256;
/// Rows of queries and keys of a block of scores.
const HEIGHT: usize = 128;
const WIDTH: usize = 64;

/// qkv rotated (T, (N+2K) H), cu_seqlens (S + 1), positions (T), table (P, H), o, d_o (T, N H), lse (N, T) ->
/// dqkv (T, (N+2K) H)
pub fn backward<E: Vectors>(
    pool: &Pool,
    qkv: &[E],
    cu_seqlens: &[u32],
    positions: &[u32],
    table: &[E],
    o: &[E],
    lse: &[E],
    d_o: &[E],
    dqkv: &mut [E],
    pairs: Option<Pairs>,
    heads: Heads,
    scores: Scores,
) {
    let t = qkv.len() / heads.qkv();
    assert_eq!([qkv.len(), dqkv.len(), lse.len()], [t * heads.qkv(), t * heads.qkv(), t * heads.n]);
    assert_eq!([o.len(), d_o.len()], [t * heads.out(); 2]);
    let segments = &*blocks(pool, cu_seqlens, t, usize::MAX);
    let call = Call {
        pool,
        shape: Shape::new(heads, scores),
        scale: scores.scale,
        turn: Turn::new(pairs, positions, table, t, heads.dim),
        t,
        qkv,
        o,
        lse,
        d_o,
        dqkv: Shared::new(dqkv, heads.qkv()),
    };
    match Finished::new(scores) {
        None => call.run(segments, Plain),
        Some(finished) => call.run(segments, finished),
    }
}

fn tokens(shape: Shape, len: usize) -> usize {
    (QUERIES / shape.group).clamp(1, len)
}

/// What a worker holds, in elements, for a segment of `len` tokens.
pub fn scratch<E: Vectors>(shape: Shape, len: usize) -> usize {
    Keys::<E>::scratch(shape, len) + Queries::<E>::scratch(shape, tokens(shape, len))
}

struct Call<'a, E> {
    pool: &'a Pool,
    shape: Shape,
    scale: f64,
    turn: Turn<'a, E>,
    t: usize,
    qkv: &'a [E],
    o: &'a [E],
    lse: &'a [E],
    d_o: &'a [E],
    dqkv: Shared<'a, E>,
}

impl<E: Vectors> Call<'_, E> {
    fn run(&self, segments: &[[u32; 4]], scoring: impl Scoring<E>) {
        let kv = self.shape.heads.kv;
        self.pool.each(segments.len() * kv, |item| {
            self.pool.isa().lanes(Item { call: self, segment: segments[item / kv].into(), kv: item % kv, scoring });
        });
    }
}

struct Item<'a, E, S> {
    call: &'a Call<'a, E>,
    segment: Block,
    kv: usize,
    scoring: S,
}

impl<E: Vectors, S: Scoring<E>> Kernel<E> for Item<'_, E, S> {
    #[inline(always)]
    fn run<L: Lanes<E>>(self) {
        let Item { call, segment: Block { segment, len, .. }, kv, scoring } = self;
        let shape = call.shape;
        let tokens = tokens(shape, len);
        let mut memory = call.pool.scratch(scratch::<E>(shape, len));
        let scratch = &mut Carve(&mut memory);

        let [q, k, v] = shape.columns(kv);
        let of_qkv = |column, heads| Rows::of(call.qkv, shape.heads.qkv(), segment, len, column, heads * shape.dim);
        let of_out = |x| Rows::of(x, shape.heads.out(), segment, len, q, shape.group * shape.dim);
        let mut keys = Keys::pack::<L>(shape, [k, v].map(|column| of_qkv(column, 1)), scratch);
        let mut queries = Queries::new(shape, tokens, scratch);
        // SAFETY: the gradients of these tokens and heads belong to this item.
        let [mut dq, mut dk, mut dv] = [(q, shape.group), (k, 1), (v, 1)]
            .map(|(column, heads)| unsafe { call.dqkv.rows_mut(segment, len, column, heads * shape.dim) });

        for first in (0..len).step_by(tokens) {
            let n = tokens.min(len - first);
            let [q, o, d_o] = [of_qkv(q, shape.group), of_out(call.o), of_out(call.d_o)].map(|x| x.part(first, n));
            let head = kv * shape.group;
            let lse = |head_of_group: usize, i: usize| call.lse[(head + head_of_group) * call.t + segment + first + i];
            queries.pack::<L>([q, o, d_o], lse, first, call.scale);
            for key in (shape.first_seen(first) / WIDTH * WIDTH..first + n).step_by(WIDTH) {
                for row in (0..queries.rows).step_by(HEIGHT) {
                    queries.square::<L>(row, key, &mut keys, head, scoring);
                }
            }
            for i in 0..n {
                let (row, turned) = (i * shape.group, dq.row(first + i));
                for (head, dq) in turned.chunks_exact_mut(shape.dim).enumerate() {
                    scaled(&queries.dq[(row + head) * shape.padded..], E::of(call.scale), dq);
                }
                call.turn.backward(segment + first + i, turned);
            }
        }
        for i in 0..len {
            // q was packed with log₂e.
            scaled(&keys.dk[i * shape.padded..], E::of(LN_2), dk.row(i));
            call.turn.backward(segment + i, dk.row(i));
            scaled(&keys.dv[i * shape.padded..], E::ONE, dv.row(i));
        }
    }
}

/// Keys and values of a segment, and their gradients.
struct Keys<'a, E> {
    /// Panels of 32 keys (H, 32)
    k: &'a mut [E],
    v: &'a mut [E],
    /// (n, H)
    k_rows: &'a mut [E],
    dk: &'a mut [E],
    dv: &'a mut [E],
}

impl<'a, E: Vectors> Keys<'a, E> {
    fn scratch(shape: Shape, n: usize) -> usize {
        5 * n.next_multiple_of(COLUMNS) * shape.padded
    }
    #[inline(always)]
    fn pack<L: Lanes<E>>(shape: Shape, [k, v]: [Rows<E>; 2], scratch: &mut Carve<'a, E>) -> Self {
        let len = k.n().next_multiple_of(COLUMNS) * shape.padded;
        let mut take = || scratch.take(len);
        let keys = Keys { k: take(), v: take(), k_rows: take(), dk: take(), dv: take() };
        pack::panels::<E, L>(shape, k, E::ONE, keys.k);
        pack::panels::<E, L>(shape, v, E::ONE, keys.v);
        pack::rows(shape, k, E::ONE, keys.k_rows);
        keys.dk.fill(E::ZERO);
        keys.dv.fill(E::ZERO);
        keys
    }
}

/// The queries of some tokens of a group and what stands beside them, and a square of scores.
struct Queries<'a, E> {
    shape: Shape,
    /// The first token, counted in the segment, and how many rows.
    first: usize,
    rows: usize,
    /// Panels of 32 rows (H, 32); q times scale log₂e
    q: &'a mut [E],
    d_o: &'a mut [E],
    /// (rows, H)
    q_rows: &'a mut [E],
    d_o_rows: &'a mut [E],
    dq: &'a mut [E],
    /// To base 2, and Σ do o; (rows)
    lse: &'a mut [E],
    delta: &'a mut [E],
    /// Of a square: probabilities, and the gradients of scores, but for the scale.
    p: &'a mut [E],
    ds: &'a mut [E],
}

impl<'a, E: Vectors> Queries<'a, E> {
    fn scratch(shape: Shape, tokens: usize) -> usize {
        (tokens * shape.group).next_multiple_of(COLUMNS) * (5 * shape.padded + 2) + 2 * HEIGHT * WIDTH
    }
    /// Room for as many tokens.
    fn new(shape: Shape, tokens: usize, scratch: &mut Carve<'a, E>) -> Self {
        let rows = (tokens * shape.group).next_multiple_of(COLUMNS);
        let mut take = |width| scratch.take(rows * width);
        let [q, d_o, q_rows, d_o_rows, dq] = [shape.padded; 5].map(&mut take);
        let [lse, delta] = [1; 2].map(take);
        let [p, ds] = [HEIGHT * WIDTH; 2].map(|len| scratch.take(len));
        Queries { shape, first: 0, rows: 0, q, d_o, q_rows, d_o_rows, dq, lse, delta, p, ds }
    }

    /// Tokens from `first` on; `lse` is of a head of the group and one of these tokens.
    #[inline(always)]
    fn pack<L: Lanes<E>>(
        &mut self,
        [q, o, d_o]: [Rows<E>; 3],
        lse: impl Fn(usize, usize) -> E,
        first: usize,
        scale: f64,
    ) {
        let Shape { group, dim, padded, .. } = self.shape;
        (self.first, self.rows) = (first, q.n() * group);
        let scale = E::of(scale * LOG2_E);
        pack::panels::<E, L>(self.shape, q, scale, self.q);
        pack::panels::<E, L>(self.shape, d_o, E::ONE, self.d_o);
        pack::rows(self.shape, q, scale, self.q_rows);
        pack::rows(self.shape, d_o, E::ONE, self.d_o_rows);
        for i in 0..q.n() {
            let heads = o.row(i).chunks_exact(dim).zip(d_o.row(i).chunks_exact(dim));
            for (head, (o, d_o)) in heads.enumerate() {
                self.lse[i * group + head] = lse(head, i) * E::of(LOG2_E);
                self.delta[i * group + head] = pack::dot::<E, L>(o, d_o);
            }
        }
        // Rows that fill the last tile have the probability 2^-infinity.
        let whole = self.rows.next_multiple_of(ROWS);
        self.lse[self.rows..whole].fill(-E::NEG_INFINITY);
        self.delta[self.rows..whole].fill(E::ZERO);
        for x in [&mut *self.q_rows, &mut *self.d_o_rows] {
            x[self.rows * padded..whole * padded].fill(E::ZERO);
        }
        self.dq.fill(E::ZERO);
    }

    /// Adds to the gradients what the scores of 64 rows and 64 keys give. `head` is the first of the group.
    #[inline(always)]
    fn square<L: Lanes<E>>(
        &mut self,
        row: usize,
        key: usize,
        keys: &mut Keys<E>,
        head: usize,
        scoring: impl Scoring<E>,
    ) {
        let (shape, width) = (self.shape, self.shape.padded);
        let end = self.rows.min(row + HEIGHT);
        let [first, last] = [row, end - 1].map(|row| self.first + row / shape.group);
        if last < key || shape.first_seen(first) >= key + WIDTH {
            return;
        }
        for r in (row..end).step_by(ROWS) {
            self.tile_row::<L, _>(r, row, key, keys, head, scoring);
        }
        for (j, key) in (key..=last.min(key + WIDTH - 1)).enumerate().step_by(ROWS) {
            // From the first tile on that sees the key.
            let r = row.max(key.saturating_sub(self.first) * shape.group / ROWS * ROWS);
            let (n, at) = (end.next_multiple_of(ROWS) - r, (r - row) * WIDTH + j);
            let [dk, dv] = [&mut *keys.dk, &mut *keys.dv].map(|x| &mut x[key * width..]);
            accumulate::<E, L, 1, WIDTH>(n, &self.p[at..], &self.d_o_rows[r * width..], dv, width);
            accumulate::<E, L, 1, WIDTH>(n, &self.ds[at..], &self.q_rows[r * width..], dk, width);
        }
    }

    /// p and ds of 8 rows from r on of the square that begins at (row, key), and what they give to dq.
    #[inline(always)]
    fn tile_row<L: Lanes<E>, S: Scoring<E>>(
        &mut self,
        r: usize,
        row: usize,
        key: usize,
        keys: &Keys<E>,
        head: usize,
        scoring: S,
    ) {
        let (shape, width) = (self.shape, self.shape.padded);
        let rows = shape.rows(self.first, r);
        let last = rows[ROWS.min(self.rows - r) - 1].0;
        let seen = WIDTH.min((last + 1).saturating_sub(key));
        if seen == 0 {
            return;
        }
        let slopes = rows.map(|(_, of_group)| scoring.slope(head + of_group));
        let at = r / COLUMNS * COLUMNS * width + r % COLUMNS;
        let (q, d_o) = (&self.q[at..], &self.d_o[at..]);
        let (lse, delta) = (&self.lse[r..r + ROWS], &self.delta[r..r + ROWS]);
        let [p, ds] = [&mut *self.p, &mut *self.ds].map(|x| -> &mut [[E; WIDTH]; ROWS] {
            x.as_chunks_mut().0[r - row..].first_chunk_mut().expect("rows of a tile")
        });
        for at in (0..seen).step_by(COLUMNS) {
            let (columns, key) = (if seen - at > LANES { COLUMNS } else { LANES }, key + at);
            product::<E, L, 1, COLUMNS>(
                shape.dim,
                q,
                (&keys.k[key * width..], COLUMNS),
                columns,
                #[inline(always)]
                |i, j, s| {
                    let distance = rows[i].0 as isize - (key + j) as isize;
                    let s = scoring.finish(
                        s,
                        slopes[i],
                        distance,
                        #[inline(always)]
                        |slope| slope.store(&mut ds[i][at + j..]),
                    );
                    s.sub(L::splat(lse[i])).exp2().store(&mut p[i][at + j..]);
                },
            );
            shape.hide::<E, L, WIDTH>(&rows, p, at..at + columns, key, E::ZERO);
            product::<E, L, 1, COLUMNS>(
                shape.dim,
                d_o,
                (&keys.v[key * width..], COLUMNS),
                columns,
                #[inline(always)]
                |i, j, dp| {
                    let (p, ds) = (L::load(&p[i][at + j..]), &mut ds[i][at + j..]);
                    let p = if S::CAPPED { p.mul(L::load(ds)) } else { p };
                    p.mul(dp.sub(L::splat(delta[i]))).store(ds);
                },
            );
        }
        let ds = ds.as_flattened();
        accumulate::<E, L, WIDTH, 1>(seen, ds, &keys.k_rows[key * width..], &mut self.dq[r * width..], width);
    }
}
