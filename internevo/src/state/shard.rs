//! A rank's share of the state, out of its memory into a checkpoint.
use checkpoint::{CheckpointError, Part, Share};
use exec::{Rank, State};
use model::ParamSpec;
use plan::{Plan, RankId};
use std::ops::Range;
use std::sync::Arc;

pub const STATES: [(State, Part); 3] =
    [(State::Param, Part::Param), (State::ExpAvg, Part::ExpAvg), (State::ExpAvgSq, Part::ExpAvgSq)];

/// Elements of a parameter's state that a rank tells, of what it has of the parameter.
struct Block {
    states: (State, Part),
    part: ParamSpec,
    whole: ParamSpec,
    own: Range<usize>,
}

/// Elements of what this rank has of a parameter that it tells: of all ranks one tells each element.
pub fn told(rank: &Rank, part: &ParamSpec) -> Range<usize> {
    // What the last stage holds of the first is told there.
    let computed = rank.plan.computed(rank.id).contains(&part.unit);
    if computed && rank.plan.tells(rank.id, part) { rank.stepped(part) } else { 0..0 }
}

fn blocks(rank: &Rank) -> Vec<Block> {
    let of = |(part, whole): (ParamSpec, ParamSpec)| {
        let own = told(rank, &part);
        STATES.map(|states| Block { states, part: part.clone(), whole: whole.clone(), own: own.clone() })
    };
    rank.parts().into_iter().flat_map(of).filter(|block| !block.own.is_empty()).collect()
}

/// Bytes of a copy of what a rank tells, for the one with the most.
pub fn copied_bytes(plan: &Plan) -> usize {
    let of = |rank| plan.computed(rank).into_iter().map(|u| plan.stepped(u, rank).len()).sum::<usize>();
    let most = (0..plan.mesh.pipeline).map(|place| of(plan.mesh.first(place))).max();
    most.unwrap_or(0) * STATES.len() * size_of::<f32>()
}

/// What a rank tells, as it was at one moment.
pub struct Copied {
    plan: Arc<Plan>,
    id: RankId,
    blocks: Vec<Block>,
    values: Vec<f32>,
}

impl Copied {
    /// Into the memory of an earlier copy, or of none.
    pub fn of(rank: &mut Rank, mut values: Vec<f32>) -> Copied {
        let blocks = blocks(rank);
        let elements = blocks.iter().map(|block| block.own.len()).sum();
        if values.len() != elements {
            values = vec![0.0; elements];
        }
        let mut rest = &mut values[..];
        for Block { states: (state, _), part, own, .. } in &blocks {
            let out = rest.split_off_mut(..own.len()).expect("it was made for all of them");
            rank.get_into(*state, part, own.clone(), out);
        }
        Copied { plan: rank.plan.clone(), id: rank.id, blocks, values }
    }

    pub fn bytes(&self) -> usize {
        self.values.len() * size_of::<f32>()
    }

    pub fn write(&self, share: &mut Share) -> Result<(), CheckpointError> {
        let mut rest = &self.values[..];
        self.blocks.iter().try_for_each(|block| {
            let values = rest.split_off(..block.own.len()).expect("it was made for all of them");
            block.write(&self.plan, self.id, values, share)
        })
    }

    /// For the next copy.
    pub fn into_values(self) -> Vec<f32> {
        self.values
    }
}

/// The same without a copy of all.
pub fn write(rank: &mut Rank, share: &mut Share) -> Result<(), CheckpointError> {
    blocks(rank).into_iter().try_for_each(|block| {
        let values = rank.get(block.states.0, &block.part, block.own.clone());
        block.write(&rank.plan, rank.id, &values, share)
    })
}

impl Block {
    fn write(&self, plan: &Plan, id: RankId, values: &[f32], share: &mut Share) -> Result<(), CheckpointError> {
        let stretches = plan.stretches(id, &self.part, &self.whole, self.own.clone());
        stretches.into_iter().try_for_each(|(here, there, len)| {
            share.write(self.states.1, &self.whole.name, there, &values[here - self.own.start..][..len])
        })
    }
}
