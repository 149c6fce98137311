//! A program: the actions of one rank with their waits and their memory.
use crate::{Action, Touch, Waits, lower, pipeline, validate, waits};
use plan::{Lane, Life, Memory, Persistent, PipelineSchedule, Plan, RankId, Res, StepShape};
use std::collections::{BTreeMap, BTreeSet};

#[derive(Clone, Debug)]
pub struct Program {
    pub rank: RankId,
    pub shape: StepShape,
    pub actions: Vec<Action>,
    pub waits: Vec<Waits>,
    pub memory: Memory,
}

impl Program {
    fn new(plan: &Plan, rank: RankId, shape: StepShape, actions: Vec<Action>, persistent: &Persistent) -> Program {
        let touches: Vec<Touch> = actions.iter().map(|a| a.touch(plan, shape)).collect();
        let memory =
            Memory::new(plan, rank, shape, persistent, &lives(plan, &actions, &touches, taken_late(plan, shape)));
        let waits = waits::derive(plan, &actions, &touches, &memory);
        Program { rank, shape, actions, waits, memory }
    }
}

/// From the action that writes a resource anew to the last that touches it before it is written anew again.
fn lives(plan: &Plan, actions: &[Action], touches: &[Touch], taken_late: usize) -> Vec<Life> {
    let mut lives: BTreeMap<Res, Life> = BTreeMap::new();
    let mut over = vec![];
    for (i, touch) in touches.iter().enumerate() {
        let last = holds_until(plan, actions, i, taken_late);
        for res in touch.reads.iter().filter(|r| !r.is_persistent()) {
            let life =
                lives.get_mut(res).unwrap_or_else(|| panic!("{:?} reads {res:?} before it is written", actions[i]));
            life.last = life.last.max(last);
        }
        for &res in touch.writes.iter().filter(|r| !r.is_persistent() && !touch.reads.contains(r)) {
            over.extend(lives.insert(res, Life { res, first: i, last }));
        }
    }
    over.extend(lives.into_values());
    over
}

/// The last action during which an action's memory is its own. A transfer holds on a little longer, so that reuse of its bytes
/// does not force an early wait.
pub(crate) fn holds_until(plan: &Plan, actions: &[Action], i: usize, taken_late: usize) -> usize {
    let end = actions.len() - 1;
    match actions[i] {
        action if action.lane(plan) == Lane::Compute => i,
        action @ Action::Send { .. } if taken_late > 0 => {
            let mut after = (i + 1..end).filter(|&j| actions[j].lane(plan) == action.lane(plan));
            after.nth(taken_late - 1).unwrap_or(end)
        }
        _ => (i + 2).min(end),
    }
}

/// How many more a rank may send before what it sent is taken. In a ring a rank turns to what it was sent only in the next
/// part of a round: if the sender then waited for memory, it might wait for itself.
pub(crate) fn taken_late(plan: &Plan, shape: StepShape) -> usize {
    if plan.mesh.chunks > 1 { pipeline::interleaved::round(plan.mesh.pipeline, shape.micros) } else { 0 }
}

/// All programs of one rank, on common persistent memory.
#[derive(Clone, Debug)]
pub struct RankPrograms {
    pub persistent: Persistent,
    pub programs: Vec<Program>,
}

impl RankPrograms {
    /// One lowered program for each shape.
    pub fn new(plan: &Plan, rank: RankId, shapes: &[StepShape], policy: PipelineSchedule) -> RankPrograms {
        let actions = shapes.iter().map(|&s| (s, lower(plan, rank, s, policy))).collect();
        RankPrograms::from_actions(plan, rank, actions).expect("what is lowered is valid")
    }

    /// Programs of given actions, once each is seen to compute its step. An error names the first action that does not.
    pub fn from_actions(
        plan: &Plan,
        rank: RankId,
        actions: Vec<(StepShape, Vec<Action>)>,
    ) -> Result<RankPrograms, String> {
        for (shape, actions) in &actions {
            validate::check_rank(plan, rank, *shape, actions)?;
        }
        let touched = |(shape, actions): &(StepShape, Vec<Action>)| {
            let all = actions.iter().flat_map(|a| a.touch(plan, *shape).all().collect::<Vec<_>>());
            (*shape, all.collect::<BTreeSet<Res>>())
        };
        let persistent = Persistent::new(plan, rank, &actions.iter().map(touched).collect::<Vec<_>>());
        let programs = actions.into_iter().map(|(shape, a)| Program::new(plan, rank, shape, a, &persistent)).collect();
        Ok(RankPrograms { persistent, programs })
    }

    /// Bytes of every region: the largest program decides about planned memory.
    pub fn sizes(&self) -> backend::Sizes {
        let mut sizes = self.persistent.sizes;
        sizes[backend::Region::Act as usize] = self.programs.iter().map(|p| p.memory.act).max().unwrap_or(0);
        sizes
    }
}
