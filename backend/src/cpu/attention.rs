//! Causal attention of packed segments with grouped heads, by tiles of queries, so that a worker holds the scores of a
//! tile and never those of a segment (Dao et al. 2022, <https://arxiv.org/abs/2205.14135>).
//!
//! For each query head, with its group's keys and values; the softmax of token i is over tokens 0 ..= i of its segment:
//! ```text
//! s  = scale q kᵀ            p  = softmax(s) = exp(s - lse)        o  = p v
//! dv = pᵀ do                 dp = do vᵀ
//! ds = scale p (dp - Σ do o)        dq = ds k        dk = dsᵀ q
//! ```
//! [`Scores`] may cap s, which multiplies ds by 1 - (s / cap)², take a slope times the distance from it (ALiBi), and hide
//! keys outside a window: a tile begins at the first key that one of its queries sees.
//! dk and dv are sums over the query heads of the group: a worker takes the whole group.
use super::matmul::{Mat, matmul};
use super::real::Real;
use super::reduce::{exponentials, sum};
use crate::{Heads, Scores};
use rayon::prelude::*;
use std::ops::Range;
use std::slice;

/// Queries per tile.
const TILE: usize = 64;

/// qkv (T, (N+2K) H), cu_seqlens (S + 1) -> o (T, N H), lse (N, T)
pub fn forward<E: Real>(qkv: &[E], cu_seqlens: &[u32], o: &mut [E], lse: &mut [E], heads: Heads, scores: Scores) {
    let t = qkv.len() / heads.qkv();
    assert_eq!([qkv.len(), o.len(), lse.len()], [t * heads.qkv(), t * heads.out(), t * heads.n]);
    let segments = segments(cu_seqlens, t);

    let o = deal(o, heads.dim, &segments, heads.n, heads.n, |head| head);
    let lse = lse.chunks_mut(t).flat_map(|mut row| {
        segments.iter().map(move |tokens| row.split_off_mut(..tokens.len()).expect("segments tile the tokens"))
    });
    let items: Vec<_> = o.into_iter().zip(lse).enumerate().collect();
    items.into_par_iter().for_each(|(item, (mut o, lse))| {
        let (head, tokens) = (item / segments.len(), &segments[item % segments.len()]);
        let [q, k, v] = columns(heads, head).map(|column| part(qkv, heads, tokens, column));
        attend(q, k, v, &mut o, lse, &Head::new(scores, heads, head));
    });
}

/// span (2) = [start, n], the first n rows of qkv (T, (N+2K) H) -> cache (2, C, K H), o (T, N H)
pub fn cached<E: Real>(qkv: &[E], span: &[u32], cache: &mut [E], o: &mut [E], heads: Heads, scores: Scores) {
    let (start, n) = (span[0] as usize, span[1] as usize);
    let (dim, width) = (heads.dim, heads.kv * heads.dim);
    assert_eq!(qkv.len() / heads.qkv(), o.len() / heads.out());
    let (keys, values) = cache.split_at_mut(cache.len() / 2);
    for (i, row) in qkv.chunks(heads.qkv()).take(n).enumerate() {
        let (k, v) = row[heads.out()..].split_at(width);
        keys[(start + i) * width..][..width].copy_from_slice(k);
        values[(start + i) * width..][..width].copy_from_slice(v);
    }

    let (o, rest) = o.split_at_mut(n * heads.out());
    rest.fill(E::ZERO);
    if n == 0 {
        return;
    }
    let tokens = 0..n;
    let o = deal(o, dim, slice::from_ref(&tokens), heads.n, heads.n, |head| head);
    o.into_par_iter().enumerate().for_each(|(head, mut o)| {
        let [column, ..] = columns(heads, head);
        let q = part(qkv, heads, &tokens, column);
        let first = head / (heads.n / heads.kv) * dim;
        let [k, v] = [&*keys, &*values].map(|x| Mat::new(&x[first..], [start + n, dim], width));
        attend(q, k, v, &mut o, &mut vec![E::ZERO; n], &Head::new(scores, heads, head));
    });
}

/// How one query head makes its scores.
struct Head<E> {
    scale: E,
    /// cap, 1 / cap
    cap: Option<[E; 2]>,
    slope: Option<E>,
    window: usize,
}

impl<E: Real> Head<E> {
    fn new(scores: Scores, heads: Heads, head: usize) -> Head<E> {
        assert!(scores.window != Some(0), "a token sees itself");
        Head {
            scale: E::of(scores.scale),
            cap: scores.cap.map(|cap| [cap, 1.0 / cap].map(E::of)),
            slope: scores.alibi.then(|| E::of(slope(head, heads.n))),
            window: scores.window.unwrap_or(usize::MAX),
        }
    }

    /// The first key that token `i` sees.
    fn first(&self, i: usize) -> usize {
        (i + 1).saturating_sub(self.window)
    }

    /// The scaled products of a query with the keys up to itself become scores. Calls `slope_of_cap(j, 1 - (s / cap)²)`.
    fn finish(&self, s: &mut [E], mut slope_of_cap: impl FnMut(usize, E)) {
        if let Some([cap, per_cap]) = self.cap {
            for (j, s) in s.iter_mut().enumerate() {
                let tanh = (*s * per_cap).tanh();
                *s = cap * tanh;
                slope_of_cap(j, E::ONE - tanh * tanh);
            }
        }
        if let Some(slope) = self.slope {
            let mut distance = E::ZERO;
            for s in s.iter_mut().rev() {
                *s = *s - slope * distance;
                distance += E::ONE;
            }
        }
    }
}

/// ALiBi's slope of a head out of n: 2^(-8 (head + 1) / n) for a power of two; beyond the largest power of two in n, every
/// other slope of twice that many heads.
fn slope(head: usize, n: usize) -> f64 {
    let power = 1 << n.ilog2();
    let exponent = if head < power {
        8.0 * (head + 1) as f64 / power as f64
    } else {
        8.0 * (2 * (head - power) + 1) as f64 / (2 * power) as f64
    };
    (-exponent).exp2()
}

/// One query head: q (n, H), the last n tokens of k, v (start + n, H) -> o, n rows of H, and lse (n)
fn attend<E: Real>(q: Mat<E>, k: Mat<E>, v: Mat<E>, o: &mut [&mut [E]], lse: &mut [E], head: &Head<E>) {
    let ([n, dim], start) = (q.shape(), k.shape()[0] - q.shape()[0]);
    let widest = (start + n).min(head.window.saturating_add(TILE));
    let mut p = vec![E::ZERO; TILE.min(n) * widest];
    let mut out = vec![E::ZERO; TILE.min(n) * dim];
    for at in (0..n).step_by(TILE) {
        let rows = TILE.min(n - at);
        let first = head.first(start + at);
        let seen = start + at + rows - first;
        let (p, out) = (&mut p[..rows * seen], &mut out[..rows * dim]);
        matmul(p, q.rows(at, rows), k.rows(first, seen).t(), head.scale, false);
        for (i, p) in p.chunks_mut(seen).enumerate() {
            let token = start + at + i;
            let (past, future) = p.split_at_mut(token + 1 - first);
            let (hidden, past) = past.split_at_mut(head.first(token) - first);
            head.finish(past, |_, _| {});
            let (max, total) = exponentials(past);
            lse[at + i] = max + total.ln();
            for p in past {
                *p = *p / total;
            }
            hidden.fill(E::ZERO);
            future.fill(E::ZERO);
        }
        matmul(out, Mat::new(p, [rows, seen], seen), v.rows(first, seen), E::ONE, false);
        for (o, out) in o[at..].iter_mut().zip(out.chunks(dim)) {
            o.copy_from_slice(out);
        }
    }
}

/// qkv (T, (N+2K) H), cu_seqlens (S + 1), o, d_o (T, N H), lse (N, T) -> dqkv (T, (N+2K) H)
pub fn backward<E: Real>(
    qkv: &[E],
    cu_seqlens: &[u32],
    o: &[E],
    lse: &[E],
    d_o: &[E],
    dqkv: &mut [E],
    heads: Heads,
    scores: Scores,
) {
    let t = qkv.len() / heads.qkv();
    assert_eq!([qkv.len(), dqkv.len(), lse.len()], [t * heads.qkv(), t * heads.qkv(), t * heads.n]);
    assert_eq!([o.len(), d_o.len()], [t * heads.out(); 2]);
    let segments = segments(cu_seqlens, t);
    let (dim, group) = (heads.dim, heads.n / heads.kv);

    // A token's row of an item: its group's dq, then dk, then dv.
    let owner = |head| if head < heads.n { head / group } else { (head - heads.n) % heads.kv };
    let dqkv = deal(dqkv, dim, &segments, heads.n + 2 * heads.kv, heads.kv, owner);
    dqkv.into_par_iter().enumerate().for_each(|(item, mut dqkv)| {
        let (kv, tokens) = (item / segments.len(), &segments[item % segments.len()]);
        let n = tokens.len();
        let mut p = vec![E::ZERO; TILE.min(n) * n.min(scores.window.unwrap_or(n).saturating_add(TILE))];
        let mut ds = p.clone();
        let mut dq = vec![E::ZERO; TILE.min(n) * dim];
        let mut dk = vec![E::ZERO; n * dim];
        let mut dv = dk.clone();
        for g in 0..group {
            let head = kv * group + g;
            let own = Head::new(scores, heads, head);
            let [q, k, v] = columns(heads, head).map(|column| part(qkv, heads, tokens, column));
            let d_out = Mat::new(&d_o[tokens.start * heads.out() + head * dim..], [n, dim], heads.out());
            for at in (0..n).step_by(TILE) {
                let rows = TILE.min(n - at);
                let first = own.first(at);
                let seen = at + rows - first;
                let (k, v) = (k.rows(first, seen), v.rows(first, seen));
                let (q, d_out) = (q.rows(at, rows), d_out.rows(at, rows));
                let (p, ds, dq) = (&mut p[..rows * seen], &mut ds[..rows * seen], &mut dq[..rows * dim]);
                matmul(p, q, k.t(), own.scale, false);
                matmul(ds, d_out, v.t(), E::ONE, false);
                for (i, (p, ds)) in p.chunks_mut(seen).zip(ds.chunks_mut(seen)).enumerate() {
                    let token = tokens.start + at + i;
                    let [o, d_o] = [o, d_o].map(|x| &x[token * heads.out() + head * dim..][..dim]);
                    let delta = sum([o, d_o], |[o, d_o]| o * d_o);
                    let lse = lse[head * t + token];
                    let past = own.first(at + i) - first..at + i + 1 - first;
                    let (seen_p, seen_ds) = (&mut p[past.clone()], &mut ds[past.clone()]);
                    for ds in seen_ds.iter_mut() {
                        *ds = *ds - delta;
                    }
                    own.finish(seen_p, |j, slope| seen_ds[j] *= slope);
                    for (p, ds) in seen_p.iter_mut().zip(seen_ds) {
                        *p = (*p - lse).exp();
                        *ds = *p * *ds * own.scale;
                    }
                    for x in [p, ds] {
                        x[..past.start].fill(E::ZERO);
                        x[past.end..].fill(E::ZERO);
                    }
                }
                let [p, ds] = [&*p, &*ds].map(|x| Mat::new(x, [rows, seen], seen));
                let tile = first * dim..(first + seen) * dim;
                matmul(&mut dv[tile.clone()], p.t(), d_out, E::ONE, true);
                matmul(&mut dk[tile], ds.t(), q, E::ONE, true);
                matmul(dq, ds, k, E::ONE, false);
                for (token, dq) in dq.chunks(dim).enumerate() {
                    dqkv[(at + token) * (group + 2) + g].copy_from_slice(dq);
                }
            }
        }
        for token in 0..n {
            let at = token * (group + 2) + group;
            dqkv[at].copy_from_slice(&dk[token * dim..][..dim]);
            dqkv[at + 1].copy_from_slice(&dv[token * dim..][..dim]);
        }
    });
}

/// The segments that have tokens.
fn segments(cu_seqlens: &[u32], t: usize) -> Vec<Range<usize>> {
    let ends = (cu_seqlens.first(), cu_seqlens.last());
    assert_eq!(ends, (Some(&0), Some(&(t as u32))), "cu_seqlens goes from 0 to T");
    let segments = cu_seqlens.windows(2).map(|ends| ends[0] as usize..ends[1] as usize);
    segments.filter(|tokens| !tokens.is_empty()).collect()
}

/// Where in a row of qkv the query of a head begins, and the key and value of its group.
fn columns(heads: Heads, head: usize) -> [usize; 3] {
    let kv = head / (heads.n / heads.kv);
    [head, heads.n + kv, heads.n + heads.kv + kv].map(|at| at * heads.dim)
}

/// H columns of some rows of qkv (T, (N+2K) H).
fn part<'a, E>(qkv: &'a [E], heads: Heads, tokens: &Range<usize>, column: usize) -> Mat<'a, E> {
    Mat::new(&qkv[tokens.start * heads.qkv() + column..], [tokens.len(), heads.dim], heads.qkv())
}

/// Deals the heads of x (T, `width` H) to work items, (owner, segment) the latter fastest: each gets those of its own
/// heads in its own tokens, token after token. Disjoint by construction, so items write side by side.
fn deal<'a, E>(
    x: &'a mut [E],
    dim: usize,
    segments: &[Range<usize>],
    width: usize,
    owners: usize,
    owner: impl Fn(usize) -> usize,
) -> Vec<Vec<&'a mut [E]>> {
    let mut items: Vec<Vec<&mut [E]>> = Vec::new();
    items.resize_with(owners * segments.len(), Vec::new);
    let mut rows = x.chunks_mut(width * dim);
    for (s, tokens) in segments.iter().enumerate() {
        for row in rows.by_ref().take(tokens.len()) {
            for (head, x) in row.chunks_mut(dim).enumerate() {
                items[owner(head) * segments.len() + s].push(x);
            }
        }
    }
    items
}
