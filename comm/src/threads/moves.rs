//! What a complete operation does to the memory of its members, part by part. How a sum and a copy are done is the
//! [mover](super::Mover)'s.
use crate::{Call, Coll};
use std::ops::Range;

/// Members by their place in the group, parts in group order.
pub enum Move {
    /// A part, summed over all members, becomes that part of each target.
    Sum { part: usize, targets: Range<usize> },
    /// Part `parts[0]` of what `members[0]` gives becomes part `parts[1]` of what `members[1]` takes.
    Copy { members: [usize; 2], parts: [usize; 2] },
}

impl Call {
    /// Into how many equal parts the whole buffer is cut, among so many members.
    pub fn parts(&self, members: usize) -> usize {
        match self.op {
            Coll::AllReduce | Coll::Broadcast { .. } | Coll::Barrier | Coll::SendRecv { .. } => 1,
            Coll::ReduceScatter | Coll::AllGather | Coll::AllToAll => members,
        }
    }

    /// All that is done with one of the parts. No two moves of an operation write the same memory.
    pub fn moves(&self, part: usize, members: usize, mut each: impl FnMut(Move)) {
        let all = 0..members;
        let mut copy = |members, parts| each(Move::Copy { members, parts });
        match self.op {
            Coll::AllReduce => each(Move::Sum { part, targets: all }),
            Coll::ReduceScatter => each(Move::Sum { part, targets: part..part + 1 }),
            Coll::AllGather => all.for_each(|to| copy([part, to], [part, part])),
            Coll::AllToAll => all.for_each(|from| copy([from, part], [part, from])),
            Coll::Broadcast { root } => all.filter(|to| *to != root).for_each(|to| copy([root, to], [0, 0])),
            Coll::Barrier => {}
            Coll::SendRecv { from, to } => copy([from, to], [0, 0]),
        }
    }

    /// The first element of `part`, of `part_len` elements, in a buffer of `len`: the whole, or this part alone.
    pub fn start(&self, part: usize, part_len: usize, len: usize) -> usize {
        if len == self.len { part * part_len } else { 0 }
    }
}
