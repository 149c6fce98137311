//! Where everything lies. Persistent resources are laid one after another; planned ones share bytes when their lifetimes
//! do not meet. Nothing is allocated later.
//!
//! Placement has two levels. Resources of the same kind in different micro-batches (`saved attn.3 0`, `saved attn.3 1`)
//! take turns in as few *slots* as their lifetimes allow; then slots are laid out first-fit, large ones first, where two
//! slots may overlap if none of their lifetimes do. The number of slots depends on the depth of the pipeline, not on the
//! number of micro-batches.
use crate::res::Size;
use crate::{Plan, RankId, Res, StepShape};
use backend::{Region, Sizes, View};
use std::collections::{BTreeMap, BTreeSet, HashMap};

/// Every slab starts on a cache line.
const ALIGN: usize = 64;

/// Views that all programs of a run share.
#[derive(Clone, Debug, Default)]
pub struct Persistent {
    views: HashMap<Res, View>,
    pub sizes: Sizes,
}

impl Persistent {
    /// Lays out what any of the programs touches, sized for the largest.
    pub fn new(plan: &Plan, rank: RankId, touched: &[(StepShape, BTreeSet<Res>)]) -> Persistent {
        let mut sizes: BTreeMap<Res, Size> = BTreeMap::new();
        for (shape, resources) in touched {
            for &res in resources.iter().filter(|r| r.is_persistent()) {
                let size = plan.size(res, rank, *shape);
                sizes.entry(res).and_modify(|s| s.len = s.len.max(size.len)).or_insert(size);
            }
        }
        let mut out = Persistent::default();
        for (res, Size { region, dtype, len }) in sizes {
            let end = &mut out.sizes[region as usize];
            out.views.insert(res, View { region, dtype, offset: *end, len });
            *end += (len * dtype.bytes()).next_multiple_of(ALIGN);
        }
        out
    }
}

/// When a planned resource is alive: indices of actions, first and last. One that is written anew has several lives.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Life {
    pub res: Res,
    pub first: usize,
    pub last: usize,
}

/// Memory of one program on one rank.
#[derive(Clone, Debug)]
pub struct Memory {
    views: HashMap<Res, View>,
    slot_of: HashMap<Res, usize>,
    /// Slots that share bytes with a slot.
    overlaps: Vec<Vec<usize>>,
    /// Bytes of planned memory.
    pub act: usize,
    /// The most bytes alive at once: no placement can need less.
    pub live: usize,
}

struct Slot {
    bytes: usize,
    offset: usize,
    /// Sorted, disjoint.
    lives: Vec<(usize, usize)>,
    resources: Vec<Res>,
}

impl Memory {
    pub fn new(plan: &Plan, rank: RankId, shape: StepShape, persistent: &Persistent, lives: &[Life]) -> Memory {
        let bytes = |res| {
            let size = plan.size(res, rank, shape);
            assert!(size.region == Region::Act, "{res:?} is persistent");
            (size.len * size.dtype.bytes()).next_multiple_of(ALIGN)
        };
        let slots = lay_out(take_turns(lives, bytes));
        let mut out = Memory {
            views: persistent.views.clone(),
            slot_of: HashMap::new(),
            overlaps: vec![vec![]; slots.len()],
            act: slots.iter().map(|s| s.offset + s.bytes).max().unwrap_or(0),
            live: most_alive(lives, bytes),
        };
        for (i, slot) in slots.iter().enumerate() {
            for res in &slot.resources {
                let Size { region, dtype, len } = plan.size(*res, rank, shape);
                out.views.insert(*res, View { region, dtype, offset: slot.offset, len });
                out.slot_of.insert(*res, i);
            }
            let shares = |o: &Slot| o.offset < slot.offset + slot.bytes && slot.offset < o.offset + o.bytes;
            out.overlaps[i] = (0..slots.len()).filter(|&j| j != i && shares(&slots[j])).collect();
        }
        // Persistent resources have a slot each, which nothing else shares.
        let mut persistent: Vec<Res> = persistent.views.keys().copied().collect();
        persistent.sort();
        for res in persistent {
            out.slot_of.insert(res, out.overlaps.len());
            out.overlaps.push(vec![]);
        }
        out
    }

    pub fn view(&self, res: Res) -> View {
        *self.views.get(&res).unwrap_or_else(|| panic!("{res:?} has no place in this program"))
    }
    pub fn try_view(&self, res: Res) -> Option<View> {
        self.views.get(&res).copied()
    }
    pub fn slots(&self) -> usize {
        self.overlaps.len()
    }
    pub fn slot(&self, res: Res) -> usize {
        self.slot_of[&res]
    }
    /// Other slots on the same bytes.
    pub fn overlaps(&self, slot: usize) -> &[usize] {
        &self.overlaps[slot]
    }
}

/// Same kind, same unit, different micro-batch.
fn class(res: Res) -> (u8, usize) {
    match res {
        Res::Batch(_) => (0, 0),
        Res::Dx(_) => (1, 0),
        Res::X(u, _) => (2, u.0),
        Res::Saved(u, _) => (3, u.0),
        Res::Tmp(u, _) => (4, u.0),
        Res::Late(u, _) => (7, u.0),
        Res::Unsharded(u) => (5, u.0),
        Res::Unreduced(u, _) => (6, u.0),
        _ => unreachable!("{res:?} is persistent"),
    }
}

/// Interval colouring, class by class: the first slot that is free in all lives of a resource is taken.
fn take_turns(lives: &[Life], bytes: impl Fn(Res) -> usize) -> Vec<Slot> {
    type Lives = Vec<(usize, usize)>;
    let mut of: BTreeMap<Res, Lives> = BTreeMap::new();
    for life in lives {
        of.entry(life.res).or_default().push((life.first, life.last));
    }
    let mut classes: BTreeMap<(u8, usize), Vec<(Lives, Res)>> = BTreeMap::new();
    for (res, mut lives) in of {
        lives.sort_unstable();
        classes.entry(class(res)).or_default().push((lives, res));
    }
    let mut out: Vec<Slot> = vec![];
    for mut resources in classes.into_values() {
        resources.sort();
        let first_slot = out.len();
        for (lives, res) in resources {
            match out[first_slot..].iter_mut().find(|s| !meet(&s.lives, &lives)) {
                Some(slot) => {
                    slot.lives.extend(lives);
                    slot.lives.sort_unstable();
                    slot.resources.push(res);
                }
                None => out.push(Slot { bytes: bytes(res), offset: 0, lives, resources: vec![res] }),
            }
        }
    }
    out
}

/// First fit, large slots first; ties by time and name, so that every run agrees.
fn lay_out(mut slots: Vec<Slot>) -> Vec<Slot> {
    slots.retain(|s| s.bytes > 0);
    slots.sort_by_key(|s| (usize::MAX - s.bytes, s.lives[0], s.resources[0]));
    for i in 0..slots.len() {
        let (placed, rest) = slots.split_at_mut(i);
        let slot = &mut rest[0];
        let mut busy: Vec<(usize, usize)> =
            placed.iter().filter(|p| meet(&p.lives, &slot.lives)).map(|p| (p.offset, p.offset + p.bytes)).collect();
        busy.sort_unstable();
        slot.offset = busy.iter().fold(0, |at, &(from, to)| if at + slot.bytes <= from { at } else { at.max(to) });
    }
    slots
}

/// Do two sorted lists of intervals have a common point?
fn meet(a: &[(usize, usize)], b: &[(usize, usize)]) -> bool {
    let (mut i, mut j) = (0, 0);
    while i < a.len() && j < b.len() {
        if a[i].1 < b[j].0 {
            i += 1;
        } else if b[j].1 < a[i].0 {
            j += 1;
        } else {
            return true;
        }
    }
    false
}

fn most_alive(lives: &[Life], bytes: impl Fn(Res) -> usize) -> usize {
    let mut change: BTreeMap<usize, isize> = BTreeMap::new();
    for life in lives {
        *change.entry(life.first).or_default() += bytes(life.res) as isize;
        *change.entry(life.last + 1).or_default() -= bytes(life.res) as isize;
    }
    let alive = change.values().scan(0, |sum, c| {
        *sum += c;
        Some(*sum)
    });
    alive.max().unwrap_or(0) as usize
}
