//! Softmax with a running maximum and sum of each row (Milakov & Gimelshein 2018, <https://arxiv.org/abs/1805.02867>): keys
//! come in blocks, and when one brings a larger score, what was summed before is scaled down.
use super::Shape;
use super::pack::{self, Carve, Rows, RowsMut, scaled};
use super::scores::Scoring;
use super::tile::{COLUMNS, ROWS, accumulate, product};
use crate::cpu::lanes::{LANES, Lanes, Vectors};
use std::f64::consts::{LN_2, LOG2_E};
use std::ops::Range;

/// Keys that are packed at a time.
pub const KEYS: usize = 512;

/// Packed keys and values of up to `KEYS` tokens.
pub struct Keys<'a, E> {
    /// The first, counted in the segment, and how many.
    first: usize,
    n: usize,
    /// Panels of 32 keys (H, 32)
    keys: &'a mut [E],
    /// (n, H)
    values: &'a mut [E],
}

/// The queries of a group from `first` on: packed, with what they have seen so far.
pub struct Queries<'a, E> {
    shape: Shape,
    /// The first token, counted in the segment, and how many rows.
    first: usize,
    rows: usize,
    /// Panels of 32 rows (H, 32), times scale log₂e
    queries: &'a mut [E],
    /// Σ 2^(s - max) v, (rows, H)
    sums: &'a mut [E],
    /// Of the scores so far, and Σ 2^(s - max); (rows)
    max: &'a mut [E],
    total: &'a mut [E],
    /// The scores of a row of tiles.
    scores: &'a mut [E],
}

impl<'a, E: Vectors> Keys<'a, E> {
    pub fn scratch(shape: Shape) -> usize {
        2 * KEYS * shape.padded
    }
    pub fn new(shape: Shape, scratch: &mut Carve<'a, E>) -> Self {
        let len = KEYS * shape.padded;
        Keys { first: 0, n: 0, keys: scratch.take(len), values: scratch.take(len) }
    }
    /// The keys and values of `n` tokens from `first` on.
    #[inline(always)]
    fn pack<L: Lanes<E>>(&mut self, shape: Shape, [k, v]: [Rows<E>; 2], first: usize, n: usize) {
        (self.first, self.n) = (first, n);
        let [k, v] = [k, v].map(|x| x.part(first, n));
        pack::panels::<E, L>(shape, k, E::ONE, self.keys);
        pack::rows(shape, v, E::ONE, self.values);
    }
}

impl<'a, E: Vectors> Queries<'a, E> {
    pub fn scratch(shape: Shape, tokens: usize) -> usize {
        let rows = (tokens * shape.group).next_multiple_of(COLUMNS);
        rows * (2 * shape.padded + 2) + ROWS * KEYS
    }
    /// `q` are the queries of a group, tokens from `first` on.
    #[inline(always)]
    pub fn pack<L: Lanes<E>>(shape: Shape, q: Rows<E>, first: usize, scale: f64, scratch: &mut Carve<'a, E>) -> Self {
        let rows = q.n() * shape.group;
        let whole = rows.next_multiple_of(COLUMNS);
        let queries = scratch.take(whole * shape.padded);
        pack::panels::<E, L>(shape, q, E::of(scale * LOG2_E), queries);
        let sums = scratch.take(whole * shape.padded);
        let [max, total] = [0; 2].map(|_| scratch.take(whole));
        sums.fill(E::ZERO);
        max.fill(E::NEG_INFINITY);
        total.fill(E::ZERO);
        Queries { shape, first, rows, queries, sums, max, total, scores: scratch.take(ROWS * KEYS) }
    }

    /// Looks at the keys of the tokens `seen`, in blocks. `head` is the first of the group.
    #[inline(always)]
    pub fn attend<L: Lanes<E>>(
        &mut self,
        kv: [Rows<E>; 2],
        seen: Range<usize>,
        head: usize,
        scoring: impl Scoring<E>,
        keys: &mut Keys<E>,
    ) {
        for first in seen.clone().step_by(KEYS) {
            keys.pack::<L>(self.shape, kv, first, KEYS.min(seen.end - first));
            for r in (0..self.rows).step_by(ROWS) {
                self.attend_rows::<L>(r, keys, head, scoring);
            }
        }
    }

    #[inline(always)]
    fn attend_rows<L: Lanes<E>>(&mut self, r: usize, keys: &Keys<E>, head: usize, scoring: impl Scoring<E>) {
        let (shape, width) = (self.shape, self.shape.padded);
        let rows = shape.rows(self.first, r);
        let (first, last) = (rows[0].0, rows[ROWS.min(self.rows - r) - 1].0);
        // The keys that one of the rows sees; they begin in the panel of the first.
        let seen = keys.n.min((last + 1).saturating_sub(keys.first));
        let from = shape.first_seen(first).saturating_sub(keys.first) / COLUMNS * COLUMNS;
        if from >= seen {
            return;
        }
        let slopes = rows.map(|(_, of_group)| scoring.slope(head + of_group));
        let queries = &self.queries[r / COLUMNS * COLUMNS * width + r % COLUMNS..];
        let scores: &mut [[E; KEYS]; ROWS] = self.scores.as_chunks_mut().0.first_chunk_mut().expect("rows of a tile");
        let mut at = from;
        while at < seen {
            let (columns, key) = (if seen - at > LANES { COLUMNS } else { LANES }, keys.first + at);
            product::<E, L, 1, COLUMNS>(
                shape.dim,
                queries,
                (&keys.keys[at / COLUMNS * COLUMNS * width..], COLUMNS),
                columns,
                #[inline(always)]
                |i, j, s| {
                    let distance = rows[i].0 as isize - (key + j) as isize;
                    scoring.finish(s, slopes[i], distance, |_| {}).store(&mut scores[i][at + j..]);
                },
            );
            shape.hide::<E, L, KEYS>(&rows, scores, at..at + columns, key, E::NEG_INFINITY);
            at += columns;
        }
        let mut vectors = [L::zero(); ROWS];
        for (max, scores) in vectors.iter_mut().zip(&*scores) {
            *max = largest(&scores[from..at]);
        }
        let max = L::largests(vectors);
        for (i, scores) in scores.iter_mut().enumerate() {
            let row = r + i;
            raise(max[i], &mut self.max[row], &mut self.total[row], &mut self.sums[row * width..][..width]);
            // A row that has seen no key yet keeps its sums of zero.
            let max = self.max[row];
            let shift = L::splat(if max == E::NEG_INFINITY { E::ZERO } else { max });
            vectors[i] = exponentials(&mut scores[from..at], shift);
        }
        for (total, more) in self.total[r..].iter_mut().zip(L::sums(vectors)) {
            *total += more;
        }
        let sums = &mut self.sums[r * width..];
        accumulate::<E, L, KEYS, 1>(
            seen - from,
            &scores.as_flattened()[from..],
            &keys.values[from * width..],
            sums,
            width,
        );
    }

    /// sums (rows, H), max (rows), total (rows)
    #[inline(always)]
    pub fn save(&self, to: &mut [E]) {
        let (sums, rest) = to.split_at_mut(self.rows * self.shape.padded);
        let (max, total) = rest.split_at_mut(self.rows);
        for (to, x) in [(sums, &*self.sums), (max, &*self.max), (total, &*self.total)] {
            to.copy_from_slice(&x[..to.len()]);
        }
    }

    /// o (n, group H), lse (group, n) if asked for
    #[inline(always)]
    pub fn finish(self, o: &mut RowsMut<E>, lse: Option<&mut RowsMut<E>>) {
        let Shape { group, dim, padded, .. } = self.shape;
        for (token, sums) in self.sums[..self.rows * padded].chunks_exact(group * padded).enumerate() {
            let heads = o.row(token).chunks_exact_mut(dim).zip(sums.chunks_exact(padded));
            for (head, (o, sums)) in heads.enumerate() {
                scaled(&sums[..dim], E::ONE / self.total[token * group + head], o);
            }
        }
        let Some(lse) = lse else { return };
        let (max, total) = (&self.max[..self.rows], &mut self.total[..self.rows]);
        for row in 0..max.len() {
            total[row] = (max[row] + total[row].log2()) * E::of(LN_2);
        }
        for head in 0..group {
            for (lse, &of_row) in lse.row(head).iter_mut().zip(total[head..].iter().step_by(group)) {
                *lse = of_row;
            }
        }
    }
}

/// Scales down what a row has summed, if `new` is larger than all its scores so far.
#[inline(always)]
fn raise<E: Vectors>(new: E, max: &mut E, total: &mut E, sums: &mut [E]) {
    if new > *max {
        if *total > E::ZERO {
            let down = (*max - new).exp2();
            *total *= down;
            sums.iter_mut().for_each(|x| *x *= down);
        }
        *max = new;
    }
}

#[inline(always)]
fn largest<E: Vectors, L: Lanes<E>>(scores: &[E]) -> L {
    let mut max = [L::splat(E::NEG_INFINITY); 2];
    let (pairs, rest) = scores.as_chunks::<COLUMNS>();
    for pair in pairs {
        max = [max[0].max(L::load(&pair[..LANES])), max[1].max(L::load(&pair[LANES..]))];
    }
    if !rest.is_empty() {
        max[0] = max[0].max(L::load(rest));
    }
    max[0].max(max[1])
}

/// Scores become 2^(s - shift). Returns their sums.
#[inline(always)]
fn exponentials<E: Vectors, L: Lanes<E>>(scores: &mut [E], shift: L) -> L {
    let mut total = [L::zero(); 2];
    let (pairs, rest) = scores.as_chunks_mut::<COLUMNS>();
    for pair in pairs {
        let (a, b) = pair.split_at_mut(LANES);
        total = [total[0].add(exponential(a, shift)), total[1].add(exponential(b, shift))];
    }
    if !rest.is_empty() {
        total[0] = total[0].add(exponential(rest, shift));
    }
    total[0].add(total[1])
}

#[inline(always)]
fn exponential<E: Vectors, L: Lanes<E>>(scores: &mut [E], shift: L) -> L {
    let e = L::load(scores).sub(shift).exp2();
    e.store(scores);
    e
}
