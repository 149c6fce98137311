//! A rank's share of the state, out of its memory and back.
use crate::config::Content;
use anyhow::Result;
use checkpoint::{CheckpointError, Part, Share, Told, Training};
use exec::{Rank, State};
use model::{ParamSpec, Stretch};
use plan::{Plan, RankId};
use std::ops::Range;
use std::sync::Arc;

const STATES: [(State, Part); 3] =
    [(State::Param, Part::Param), (State::ExpAvg, Part::ExpAvg), (State::ExpAvgSq, Part::ExpAvgSq)];

/// Elements of a parameter's state that a rank tells, of what it has of the parameter.
struct Block {
    states: (State, Part),
    part: ParamSpec,
    whole: ParamSpec,
    own: Range<usize>,
}

/// Elements of what this rank has of a parameter that it tells: of all ranks one tells each element.
fn told(rank: &Rank, part: &ParamSpec) -> Range<usize> {
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

/// Where values come from.
pub trait Source {
    /// Elements `start ..` of a part of a parameter.
    fn read(&mut self, of: Part, whole: &ParamSpec, start: usize, out: &mut [f32]) -> Result<()>;
    /// Hears of those that were read and that this rank tells.
    fn tell(&mut self, _of: Part, _whole: &ParamSpec, _start: usize, _values: &[f32]) {}
    /// Whether what lies between short runs is better read with them.
    fn is_file(&self) -> bool;
}

struct Checkpoint<'a> {
    training: &'a Training,
    sums: Told,
}

impl Source for Checkpoint<'_> {
    fn read(&mut self, of: Part, whole: &ParamSpec, start: usize, out: &mut [f32]) -> Result<()> {
        Ok(self.training.read(of, &whole.name, start, out)?)
    }
    fn tell(&mut self, of: Part, whole: &ParamSpec, start: usize, values: &[f32]) {
        self.training.tell(&mut self.sums, of, &whole.name, start, values);
    }
    fn is_file(&self) -> bool {
        true
    }
}

/// What this rank has of a checkpoint, and the checksums of what it tells.
pub fn read(rank: &mut Rank, training: &Training, content: &[Content]) -> Result<Told> {
    let mut from = Checkpoint { training, sums: Told::default() };
    if Content::Model.is_in(content) {
        put_params(rank, &mut from)?;
    }
    if Content::Optimizer.is_in(content) {
        put_moments(rank, &mut from)?;
    }
    Ok(from.sums)
}

/// Parameters of this rank.
pub fn put_params(rank: &mut Rank, from: &mut dyn Source) -> Result<()> {
    for (part, whole) in rank.parts() {
        fill(rank, STATES[0], &part, &whole, rank.kept(&part), from)?;
    }
    Ok(())
}

/// Its optimizer's running means.
fn put_moments(rank: &mut Rank, from: &mut dyn Source) -> Result<()> {
    // In the order of the file.
    for states in &STATES[1..] {
        for (part, whole) in rank.parts() {
            fill(rank, *states, &part, &whole, rank.stepped(&part), from)?;
        }
    }
    Ok(())
}

/// Elements read at a time.
const PIECE: usize = 1 << 20;
/// Shorter runs are read together with what lies between them: a disk reads it in any case.
const SHORT: usize = 1 << 13;

/// Elements `range` of what the rank has of a parameter, from where they stand in the whole. Rows that fill up the
/// vocabulary are zeros.
fn fill(
    rank: &mut Rank,
    (state, of): (State, Part),
    part: &ParamSpec,
    whole: &ParamSpec,
    range: Range<usize>,
    from: &mut dyn Source,
) -> Result<()> {
    let (told, is_file) = (told(rank, part), from.is_file());
    let (mut buffer, mut span) = (vec![0.0; PIECE.min(range.len())], vec![]);
    for start in range.clone().step_by(PIECE) {
        let end = (start + PIECE).min(range.end);
        let piece = &mut buffer[..end - start];
        let runs = rank.plan.stretches(rank.id, part, whole, start..end);
        if runs.iter().map(|(_, _, len)| len).sum::<usize>() < piece.len() {
            piece.fill(0.0);
        }
        for runs in runs.chunk_by(|a, b| is_file && together(a, b)) {
            match *runs {
                [(here, there, len)] => from.read(of, whole, there, &mut piece[here - start..][..len])?,
                [(_, first, _), .., (_, last, len)] => {
                    span.resize(last + len - first, 0.0);
                    from.read(of, whole, first, &mut span)?;
                    for (here, there, len) in runs {
                        piece[here - start..][..*len].copy_from_slice(&span[there - first..][..*len]);
                    }
                }
                [] => unreachable!("chunks are not empty"),
            }
        }
        for (here, there, len) in runs {
            let within = |at: usize| at.clamp(here, here + len);
            let own = within(told.start)..within(told.end);
            if !own.is_empty() {
                from.tell(of, whole, there + own.start - here, &piece[own.start - start..own.end - start]);
            }
        }
        rank.set(state, part, start, piece);
    }
    Ok(())
}

/// Two runs of one rank, one after the other, are read as one with the gap between them.
fn together((_, first, len): &Stretch, (_, next, following): &Stretch) -> bool {
    let gap = next.checked_sub(first + len);
    *len.max(following) < SHORT && gap.is_some_and(|gap| gap < SHORT)
}
