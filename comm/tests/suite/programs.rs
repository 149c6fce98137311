//! Random programs over several groups and lanes, with many operations in flight, against a sequential model.
use crate::numbers::{Random, bits, input, sum};
use crate::ranks::{Engine, Rank, view, world};
use backend::{DType, View, download, upload};
use comm::Coll::{self, *};
use comm::Ticket;
use std::time::Duration;

const LIMIT: Duration = Duration::from_secs(120);
const RANKS: usize = 4;
const BLOCKS: usize = 12;
/// Elements of a block: a whole buffer of every group.
const BLOCK: usize = 24;
const GROUPS: [(&str, &[usize]); 5] =
    [("a", &[0, 1, 2, 3]), ("b", &[0, 1, 2, 3]), ("low", &[0, 1]), ("high", &[2, 3]), ("far", &[3, 0])];

/// One line of a program that all ranks read; blocks are the same on every member.
#[derive(Clone, Copy, Debug)]
enum Line {
    Upload { rank: usize, block: usize, seed: usize },
    Transfer { group: usize, op: Coll, src: Option<usize>, dst: usize },
}

fn program(lines: usize, random: &mut Random) -> Vec<Line> {
    let line = |_| {
        let group = random.below(GROUPS.len());
        let n = GROUPS[group].1.len();
        let [src, dst] = loop {
            let [src, dst] = [random.below(BLOCKS), random.below(BLOCKS)];
            if src != dst {
                break [src, dst];
            }
        };
        let in_place = random.below(2) == 0;
        let transfer = |op, src| Line::Transfer { group, op, src, dst };
        match random.below(10) {
            0 => transfer(AllReduce, None),
            1 => transfer(ReduceScatter, (!in_place).then_some(src)),
            2 => transfer(AllGather, (!in_place).then_some(src)),
            3 => {
                let from = random.below(n);
                transfer(SendRecv { from, to: (from + 1 + random.below(n - 1)) % n }, Some(src))
            }
            4 => transfer(AllToAll, Some(src)),
            5 => transfer(Broadcast { root: random.below(n) }, in_place.then_some(src)),
            6 => transfer(Barrier, None),
            7.. => Line::Upload { rank: random.below(RANKS), block: dst, seed: random.below(1000) },
        }
    };
    (0..lines).map(line).collect()
}

/// What a member gives: `src` and `dst` as ranges of its memory. The tables of the trait, once more.
fn sides(op: Coll, n: usize, member: usize, src: Option<usize>, dst: usize) -> [Option<(usize, usize)>; 2] {
    let whole = |block: usize| (block * BLOCK, BLOCK);
    let part = |block: usize| (block * BLOCK, BLOCK / n);
    match op {
        AllReduce => [None, Some(whole(dst))],
        ReduceScatter => [src.map(whole), Some(if src.is_some() { part(dst) } else { whole(dst) })],
        AllGather => [src.map(part), Some(whole(dst))],
        AllToAll => [src.map(whole), Some(whole(dst))],
        // The root gives `src` if there is one.
        Broadcast { root } if root == member && src.is_some() => [src.map(whole), None],
        Broadcast { .. } => [None, Some(whole(dst))],
        Barrier => [None, None],
        SendRecv { from, to } => [src.filter(|_| member == from).map(whole), (member == to).then(|| whole(dst))],
    }
}

/// One rank after another, one line after another.
fn model(program: &[Line]) -> Vec<Vec<f32>> {
    let mut memory = vec![vec![0f32; BLOCKS * BLOCK]; RANKS];
    for line in program {
        match *line {
            Line::Upload { rank, block, seed } => {
                memory[rank][block * BLOCK..][..BLOCK].copy_from_slice(&input::<f32>(seed, BLOCK));
            }
            Line::Transfer { group, op, src, dst } => {
                let members = GROUPS[group].1;
                let n = members.len();
                let part = BLOCK / n;
                let old = memory.clone();
                let at = |rank: usize, block: usize, i: usize| old[rank][block * BLOCK + i];
                let source = src.unwrap_or(dst);
                let sum = |i: usize| sum(&members.iter().map(|&r| at(r, source, i)).collect::<Vec<_>>());
                for (m, &rank) in members.iter().enumerate() {
                    let own = &mut memory[rank][dst * BLOCK..][..BLOCK];
                    match op {
                        AllReduce => (0..BLOCK).for_each(|i| own[i] = sum(i)),
                        ReduceScatter => {
                            let to = if src.is_some() { 0 } else { m * part };
                            (0..part).for_each(|i| own[to + i] = sum(m * part + i));
                        }
                        AllGather => {
                            let from = |m: usize| if src.is_some() { 0 } else { m * part };
                            let gathered = |i: usize| at(members[i / part], source, from(i / part) + i % part);
                            (0..BLOCK).for_each(|i| own[i] = gathered(i));
                        }
                        AllToAll => {
                            let from = |i: usize| (members[i / part], source, m * part + i % part);
                            (0..BLOCK).for_each(|i| own[i] = at(from(i).0, from(i).1, from(i).2));
                        }
                        Broadcast { root } => {
                            if m != root {
                                (0..BLOCK).for_each(|i| own[i] = at(members[root], source, i));
                            }
                        }
                        Barrier => {}
                        SendRecv { from, to } => {
                            if m == to {
                                (0..BLOCK).for_each(|i| own[i] = at(members[from], source, i));
                            }
                        }
                    }
                }
            }
        }
    }
    memory
}

struct Flight {
    comm: usize,
    ticket: Ticket,
    sides: [Option<View>; 2],
}

/// The same lines, issued ahead: a rank waits where its next line needs the memory, and now and then for no reason.
fn issue(program: &[Line], rank: &mut Rank) -> Vec<u64> {
    fn settle(rank: &mut Rank, flying: &mut Vec<Flight>, mut due: impl FnMut(&Flight) -> bool) {
        for flight in flying.extract_if(.., |flight| due(flight)).collect::<Vec<_>>() {
            rank.wait(flight.comm, flight.ticket).unwrap();
        }
    }
    let overlap = |a: &Option<View>, b: &Option<View>| a.zip(*b).is_some_and(|(a, b)| a.overlaps(&b));
    let conflict = |[src, dst]: &[Option<View>; 2], old: &[Option<View>; 2]| {
        overlap(src, &old[1]) || overlap(dst, &old[0]) || overlap(dst, &old[1])
    };
    let memory = view(DType::F32, 0, BLOCKS * BLOCK);
    let mut random = Random(rank.id as u64);
    let mut flying = vec![];
    for line in program {
        match *line {
            Line::Upload { rank: owner, block, seed } if owner == rank.id => {
                let x = memory.sub(block * BLOCK, BLOCK);
                settle(rank, &mut flying, |flight| conflict(&[None, Some(x)], &flight.sides));
                upload(&mut *rank.dev, &input::<f32>(seed, BLOCK), x);
            }
            Line::Transfer { group, op, src, dst } if GROUPS[group].1.contains(&rank.id) => {
                let members = GROUPS[group].1;
                let member = members.iter().position(|&r| r == rank.id).unwrap();
                let sides = sides(op, members.len(), member, src, dst).map(|s| s.map(|(at, len)| memory.sub(at, len)));
                if sides == [None, None] && op != Barrier {
                    continue;
                }
                settle(rank, &mut flying, |flight| conflict(&sides, &flight.sides));
                let comm = GROUPS[..group].iter().filter(|(_, members)| members.contains(&rank.id)).count();
                let ticket = rank.start(comm, op, sides[0], sides[1]).unwrap();
                flying.push(Flight { comm, ticket, sides });
            }
            Line::Upload { .. } | Line::Transfer { .. } => {}
        }
        settle(rank, &mut flying, |_| random.below(16) == 0);
    }
    settle(rank, &mut flying, |_| true);
    rank.comms.iter_mut().for_each(|comm| comm.finish().unwrap());
    bits(&download::<f32>(&mut *rank.dev, memory))
}

crate::properties! {
    random_programs_equal_the_sequential_model
}

pub fn random_programs_equal_the_sequential_model(engine: Engine) {
    const LINES: usize = if cfg!(miri) { 20 } else { 2000 };
    for seed in [engine.seed().unwrap_or(1), 3] {
        let program = program(LINES, &mut Random(seed));
        let want = model(&program);
        assert!(want.iter().flatten().all(|x| x.is_finite()), "the test shows less where sums overflow");
        let groups: Vec<_> = GROUPS.map(|(name, members)| (name, members.to_vec())).into();
        let run = |rank: &mut Rank| (rank.id, issue(&program, rank));
        for result in world(engine, RANKS, 4 * BLOCKS * BLOCK, &groups, LIMIT, run) {
            let (rank, got) = result.unwrap();
            assert!(got == bits(&want[rank]), "rank {rank}, {engine:?}");
        }
    }
}
