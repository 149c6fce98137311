//! Waits, derived: what an action must wait for follows from what it and earlier actions touch.
//!
//! Read after write, write after read, write after write, over slots of memory and over the slots that share their bytes.
//! The program is a loop, so the second of two passes counts: that is how a gather overlaps the next step's forward.
use crate::{Action, Touch};
use plan::{Lane, Memory, Plan};
use std::collections::BTreeSet;

/// Before an action: the transfers that must have ended, and the compute action that its lane must let pass. An index
/// that is not below the action's own means the previous step.
#[derive(Clone, Default, Debug, PartialEq, Eq)]
pub struct Waits {
    pub tickets: Vec<usize>,
    pub after: Option<usize>,
}

#[derive(Clone, Default)]
struct Slot {
    writer: Option<usize>,
    readers: Vec<usize>,
}

pub fn derive(plan: &Plan, actions: &[Action], touches: &[Touch], memory: &Memory) -> Vec<Waits> {
    let is_transfer = |i: usize| actions[i].lane(plan) != Lane::Compute;
    let mut slots = vec![Slot::default(); memory.slots()];
    let mut open: BTreeSet<usize> = BTreeSet::new(); // transfers that nobody has waited for
    let mut out = vec![];
    for _pass in 0..2 {
        out.clear();
        for (i, touch) in touches.iter().enumerate() {
            let mut against: Vec<usize> = touch.reads.iter().filter_map(|r| slots[memory.slot(*r)].writer).collect();
            for w in touch.writes.iter().map(|w| memory.slot(*w)) {
                for s in [w].iter().chain(memory.overlaps(w)) {
                    against.extend(slots[*s].writer.iter().chain(&slots[*s].readers));
                }
            }
            let mut waits = Waits::default();
            for j in against {
                if is_transfer(j) {
                    if open.remove(&j) {
                        waits.tickets.push(j);
                    }
                } else if is_transfer(i) {
                    // The latest one: of this step before of the previous.
                    waits.after = waits.after.into_iter().chain([j]).max_by_key(|&j| (j < i, j));
                }
            }
            waits.tickets.sort_unstable();
            out.push(waits);
            if is_transfer(i) {
                open.insert(i);
            }
            for r in &touch.reads {
                slots[memory.slot(*r)].readers.push(i);
            }
            for w in &touch.writes {
                slots[memory.slot(*w)] = Slot { writer: Some(i), readers: vec![] };
            }
        }
    }
    out
}
