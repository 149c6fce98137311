//! What every engine does, bit for bit.
use crate::numbers::{Number, bits, input, summed};
use crate::ranks::{Engine, Rank, view, world};
use backend::{DType, View, download, upload};
use comm::Coll::*;
use std::time::Duration;

const LIMIT: Duration = Duration::from_secs(60);

crate::properties! {
    collectives_f32
    collectives_f64
    collectives_bf16
    collectives_f16
    odd_lengths_and_integers
    a_tree_of_groups_is_the_flat_tree
    many_in_flight
    a_batch_crosses
    uneven_all_to_all
    long_messages
}

fn all<T: Send>(engine: Engine, n: usize, bytes: usize, body: impl Fn(&mut Rank) -> T + Sync) -> Vec<T> {
    let results = world(engine, n, bytes, &[("world", (0..n).collect())], LIMIT, body);
    results.into_iter().map(|result| result.expect("no rank panics")).collect()
}

/// Parts of `part` elements, `n` ranks, every collective, in place and out of place.
fn collectives<E: Number>(engine: Engine, n: usize, part: usize) {
    let whole = n * part;
    let sum = bits(&summed::<E>(n, whole));
    let gathered: Vec<u64> = (0..n).flat_map(|rank| bits(&input::<E>(rank, part))).collect();
    let width = E::DTYPE.bytes();
    all(engine, n, (2 * whole + part) * width, |rank| {
        let me = rank.id;
        let mine = me * part..(me + 1) * part;
        let case = format!("{engine:?}, rank {me} of {n}, {part} x {:?}", E::DTYPE);
        let [a, b, p] = view(E::DTYPE, 0, 2 * whole + part).split([whole, whole, part]);
        let x = input::<E>(me, whole);
        let before = bits(&x);
        let got = |rank: &mut Rank, view: View| bits(&download::<E>(&mut *rank.dev, view));

        upload(&mut *rank.dev, &x, a);
        rank.go(0, AllReduce, None, Some(a)).unwrap();
        assert!(got(rank, a) == sum, "all-reduce, {case}");

        upload(&mut *rank.dev, &x, a);
        rank.go(0, ReduceScatter, Some(a), Some(p)).unwrap();
        assert!(got(rank, p) == sum[mine.clone()], "reduce-scatter, {case}");
        assert!(got(rank, a) == before, "reduce-scatter changes its source, {case}");
        rank.go(0, AllGather, Some(p), Some(b)).unwrap();
        assert!(got(rank, b) == sum, "all-gather, {case}");

        rank.go(0, ReduceScatter, None, Some(a)).unwrap();
        let after = got(rank, a);
        assert!(after[mine.clone()] == sum[mine.clone()], "reduce-scatter in place, {case}");
        assert!(after[..mine.start] == before[..mine.start], "reduce-scatter in place, left, {case}");
        assert!(after[mine.end..] == before[mine.end..], "reduce-scatter in place, right, {case}");
        rank.go(0, AllGather, None, Some(a)).unwrap();
        assert!(got(rank, a) == sum, "all-gather in place, {case}");

        upload(&mut *rank.dev, &x, a);
        rank.go(0, AllToAll, Some(a), Some(b)).unwrap();
        let own = |from: usize| bits(&input::<E>(from, whole)[mine.clone()]);
        assert!(got(rank, b) == (0..n).flat_map(own).collect::<Vec<_>>(), "all-to-all, {case}");
        assert!(got(rank, a) == before, "all-to-all changes its source, {case}");

        for root in 0..n {
            let want = bits(&input::<E>(root, whole));
            upload(&mut *rank.dev, &x, a);
            rank.go(0, Broadcast { root }, None, Some(a)).unwrap();
            assert!(got(rank, a) == want, "broadcast from {root} in place, {case}");
            upload(&mut *rank.dev, &x, a);
            let [src, dst] = if me == root { [Some(a), None] } else { [None, Some(b)] };
            rank.go(0, Broadcast { root }, src, dst).unwrap();
            assert!(got(rank, dst.unwrap_or(a)) == want, "broadcast from {root}, {case}");
        }
        rank.go(0, Barrier, None, None).unwrap();

        upload(&mut *rank.dev, &x[..part], p);
        for (from, to) in (0..n).flat_map(|from| (0..n).map(move |to| (from, to))) {
            let op = SendRecv { from, to };
            match (me == from, me == to) {
                (true, false) => rank.go(0, op, Some(p), None).unwrap(),
                (false, true) => {
                    let at = b.sub(from * part, part);
                    rank.go(0, op, None, Some(at)).unwrap();
                    let want = &gathered[from * part..(from + 1) * part];
                    assert!(got(rank, at) == *want, "{op:?}, {case}");
                }
                (true, true) => {
                    let at = b.sub(from * part, part);
                    rank.go(0, op, Some(p), Some(at)).unwrap();
                    assert!(got(rank, at) == got(rank, p), "{op:?}, {case}");
                }
                (false, false) => {}
            }
        }
        rank.comms[0].finish().unwrap();
    });
}

/// Parts of no element, of one, of a tile and beside it.
const PARTS: &[usize] = if cfg!(miri) { &[0, 5] } else { &[0, 1, 5, 4096, 9001] };
const SIZES: &[usize] = if cfg!(miri) { &[1, 3] } else { &[1, 2, 3, 4, 5, 8] };

pub fn collectives_f32(engine: Engine) {
    each(engine, collectives::<f32>);
}
pub fn collectives_f64(engine: Engine) {
    each(engine, collectives::<f64>);
}
pub fn collectives_bf16(engine: Engine) {
    each(engine, collectives::<half::bf16>);
}
pub fn collectives_f16(engine: Engine) {
    each(engine, collectives::<half::f16>);
}
fn each(engine: Engine, check: fn(Engine, usize, usize)) {
    SIZES.iter().for_each(|&n| PARTS.iter().for_each(|&part| check(engine, n, part)));
}

/// Lengths of an all-reduce need not be multiples of the group's size, and token ids can be gathered.
pub fn odd_lengths_and_integers(engine: Engine) {
    {
        {
            all(engine, 3, 4 * 5000, |rank| {
                let (x, ids) = (view(DType::F32, 0, 4099), view(DType::U32, 4 * 4100, 6));
                upload(&mut *rank.dev, &input::<f32>(rank.id, x.len), x);
                rank.go(0, AllReduce, None, Some(x)).unwrap();
                assert_eq!(bits(&download::<f32>(&mut *rank.dev, x)), bits(&summed::<f32>(3, x.len)));
                let mine = rank.id as u32;
                upload(&mut *rank.dev, &[mine, 10 + mine], ids.sub(2 * rank.id, 2));
                rank.go(0, AllGather, None, Some(ids)).unwrap();
                assert_eq!(download::<u32>(&mut *rank.dev, ids), [0, 10, 1, 11, 2, 12]);
            });
        }
    }
}

/// Inside contiguous groups of a power of two, then across them: the bits of the flat group.
pub fn a_tree_of_groups_is_the_flat_tree(engine: Engine) {
    const LEN: usize = 100;
    {
        for (n, inside) in [(4, 2), (8, 2), (8, 4), (6, 2)] {
            let rows = (0..n / inside).map(|row| ("inside", (row * inside..(row + 1) * inside).collect()));
            let columns = (0..inside).map(|column| ("across", (column..n).step_by(inside).collect()));
            let groups: Vec<_> = rows.chain(columns).collect();
            let sums = world(engine, n, 4 * LEN, &groups, LIMIT, |rank| {
                let x = view(DType::F32, 0, LEN);
                upload(&mut *rank.dev, &input::<f32>(rank.id, LEN), x);
                rank.go(0, AllReduce, None, Some(x)).unwrap();
                rank.go(1, AllReduce, None, Some(x)).unwrap();
                bits(&download::<f32>(&mut *rank.dev, x))
            });
            let flat = bits(&summed::<f32>(n, LEN));
            sums.into_iter().for_each(|sum| assert_eq!(sum.unwrap(), flat, "{engine:?}, {n} by {inside}"));
        }
    }
}

/// Several communicators, several operations in each; every rank waits in an order of its own.
pub fn many_in_flight(engine: Engine) {
    const LEN: usize = 5000;
    const N: usize = 3;
    {
        {
            let groups: Vec<_> = ["gather", "reduce", "world"].map(|lane| (lane, (0..N).collect())).into();
            let results = world(engine, N, 9 * 4 * LEN, &groups, LIMIT, |rank| {
                let views: [View; 9] = view(DType::F32, 0, 9 * LEN).split([LEN; 9]);
                let mut tickets = vec![];
                for (i, x) in views.into_iter().enumerate() {
                    upload(&mut *rank.dev, &input::<f32>(rank.id, LEN), x);
                    tickets.push((i % 3, rank.start(i % 3, AllReduce, None, Some(x)).unwrap()));
                }
                tickets.rotate_left(4 * rank.id);
                if rank.id == 1 {
                    rank.comms.iter_mut().for_each(|comm| comm.finish().unwrap());
                    tickets.reverse();
                }
                tickets.into_iter().for_each(|(comm, ticket)| rank.wait(comm, ticket).unwrap());
                views.map(|x| bits(&download::<f32>(&mut *rank.dev, x)))
            });
            let sum = bits(&summed::<f32>(N, LEN));
            results.into_iter().flat_map(|r| r.unwrap()).for_each(|got| assert!(got == sum, "{engine:?}"));
        }
    }
}

/// Both members send before they receive, on one communicator. Behind a lane that is in order only a batch ends.
pub fn a_batch_crosses(engine: Engine) {
    const LEN: usize = 5000;
    {
        {
            all(engine, 2, 2 * 4 * LEN, |rank| {
                let (me, other) = (rank.id, 1 - rank.id);
                let [a, b] = view(DType::F32, 0, 2 * LEN).split([LEN; 2]);
                upload(&mut *rank.dev, &input::<f32>(me, LEN), a);
                let (send, receive) = (SendRecv { from: me, to: other }, SendRecv { from: other, to: me });
                let ops = [(send, Some(a), None), (receive, None, Some(b))];
                // An engine whose operations are under way when `start` returns needs no batch.
                let alone: Vec<_> = match engine.seed() {
                    None => ops.map(|(op, src, dst)| rank.start(0, op, src, dst).unwrap()).into(),
                    Some(_) => vec![],
                };
                alone.into_iter().for_each(|ticket| rank.wait(0, ticket).unwrap());
                let tickets = rank.batch(0, &ops).unwrap();
                tickets.into_iter().for_each(|ticket| rank.wait(0, ticket).unwrap());
                assert!(bits(&download::<f32>(&mut *rank.dev, b)) == bits(&input::<f32>(other, LEN)));
            });
        }
    }
}

/// Rank `i` sends `(7 i + 3 j) % 5 * 100` elements to rank `j`: some send nothing, and nobody sends what it gets.
pub fn uneven_all_to_all(engine: Engine) {
    const N: usize = 4;
    const ROOM: usize = 4 * 400;
    let count = |from: usize, to: usize| (7 * from + 3 * to) % 5 * 100;
    {
        {
            all(engine, N, 2 * 4 * ROOM, |rank| {
                let me = rank.id;
                let [a, b] = view(DType::F32, 0, 2 * ROOM).split([ROOM; 2]);
                let cut = |whole: View, count: &dyn Fn(usize) -> usize| {
                    let starts = (0..N).map(|i| (0..i).map(count).sum());
                    starts.enumerate().map(|(i, at)| whole.sub(at, count(i))).collect::<Vec<_>>()
                };
                upload(&mut *rank.dev, &input::<f32>(me, ROOM), a);
                let receives = cut(b, &|from| count(from, me));
                rank.all_to_all_uneven(0, &cut(a, &|to| count(me, to)), &receives).unwrap();
                for (from, receive) in receives.into_iter().enumerate() {
                    let before: usize = (0..me).map(|to| count(from, to)).sum();
                    let want = &input::<f32>(from, ROOM)[before..][..count(from, me)];
                    assert!(bits(&download::<f32>(&mut *rank.dev, receive)) == bits(want), "{from} to {me}");
                }
            });
        }
    }
}

/// Longer than any engine moves at once.
pub fn long_messages(engine: Engine) {
    const LEN: usize = if cfg!(miri) { 5000 } else { 3_000_001 };
    all(engine, 2, 4 * (LEN + 1), |rank| {
        let x = view(DType::F32, 0, LEN + 1);
        upload(&mut *rank.dev, &input::<f32>(rank.id, LEN), x.sub(0, LEN));
        rank.go(0, AllReduce, None, Some(x.sub(0, LEN))).unwrap();
        rank.go(0, AllGather, None, Some(x)).unwrap();
        let op = SendRecv { from: 1, to: 0 };
        let [src, dst] = if rank.id == 1 { [Some(x.sub(1, LEN - 1)), None] } else { [None, Some(x.sub(0, LEN - 1))] };
        rank.go(0, op, src, dst).unwrap();
        let (got, sum) = (bits(&download::<f32>(&mut *rank.dev, x.sub(0, LEN - 1))), bits(&summed::<f32>(2, LEN)));
        assert!(got == if rank.id == 1 { &sum[..LEN - 1] } else { &sum[1..] });
    });
}
