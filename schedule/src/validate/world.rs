//! All ranks at once, without data: does every transfer find its partner, and does the world come to an end?
//!
//! Ranks issue transfers without blocking and stop only at derived waits. A transfer ends when all its members have issued
//! it and all earlier ones on each member's lane have ended: in-order lanes, the strictest engine. Two steps are run,
//! because waits reach into the step before.
//!
//! The ranks of a stage are alike: they have equal programs and meet the like of the same ranks, so what one of them can do
//! next the others can too. One replica stands for all: thousands of ranks are proved by one for each stage.
use crate::{Action, Program, text};
use plan::{LANES, Lane, Plan, RankId};
use std::collections::{HashMap, HashSet};

const STEPS: usize = 2;

/// One member's end of a lane: what it has issued (clock of the rank, action), and how much of it has ended.
#[derive(Default)]
struct End {
    issued: Vec<(usize, Action)>,
    ended: usize,
}

struct World<'a> {
    plan: &'a Plan,
    programs: &'a [Program],
    /// Who shares a lane with a rank, of those whose programs are here.
    groups: HashMap<(Lane, RankId), Vec<RankId>>,
    clock: Vec<usize>,
    ends: HashMap<(Lane, RankId), End>,
}

/// `programs` are those of all ranks, or of the first rank of each stage if the others have the same.
pub fn check(plan: &Plan, programs: &[Program]) -> Result<(), String> {
    let ranks = programs.len();
    let here: HashSet<RankId> = programs.iter().map(|p| p.rank).collect();
    let group = |rank: RankId, lane| plan.group(rank, lane).into_iter().filter(|r| here.contains(r)).collect();
    let groups = here.iter().flat_map(|&rank| LANES.map(|lane| ((lane, rank), group(rank, lane)))).collect();
    let mut w = World { plan, programs, groups, clock: vec![0; ranks], ends: HashMap::new() };
    loop {
        let mut moved = false;
        for r in 0..ranks {
            while w.clock[r] < STEPS * programs[r].actions.len() && w.blocked_on(r).is_empty() && w.meets(r)? {
                w.issue(r);
                moved = true;
            }
        }
        for r in 0..ranks {
            for lane in LANES.into_iter().filter(|lane| *lane != Lane::Compute) {
                while w.end_one(programs[r].rank, lane)? {
                    moved = true;
                }
            }
        }
        if !moved {
            return w.verdict();
        }
    }
}

impl World<'_> {
    fn action(&self, r: usize) -> (usize, usize, Action) {
        let n = self.programs[r].actions.len();
        let i = self.clock[r] % n;
        (self.clock[r] / n, i, self.programs[r].actions[i])
    }

    /// Transfers that the rank's next action waits for and that have not ended.
    fn blocked_on(&self, r: usize) -> Vec<Action> {
        let (step, i, _) = self.action(r);
        let n = self.programs[r].actions.len();
        let open = |&&j: &&usize| {
            if j >= i && step == 0 {
                return false; // of the step before the first
            }
            let clock = if j < i { step * n + j } else { (step - 1) * n + j };
            let lane = self.programs[r].actions[j].lane(self.plan);
            let end = &self.ends[&(lane, self.programs[r].rank)];
            end.issued[end.ended..].iter().any(|(c, _)| *c == clock)
        };
        let waits = &self.programs[r].waits[i].tickets;
        waits.iter().filter(open).map(|&j| self.programs[r].actions[j]).collect()
    }

    /// The members of a tensor-parallel group talk inside a computation: all of them have come to it.
    fn meets(&self, r: usize) -> Result<bool, String> {
        let (_, i, action) = self.action(r);
        if !action.talks(self.plan) {
            return Ok(true);
        }
        for peer in &self.groups[&(Lane::Tensor, self.programs[r].rank)] {
            let at = self.programs.iter().position(|p| p.rank == *peer).expect("it is here");
            match self.programs[at].actions.get(i) {
                Some(other) if *other == action => {}
                other => {
                    return Err(format!(
                        "{} is `{}` on rank {}: members of a tensor-parallel group have equal programs",
                        text::place(self.plan, self.programs[r].rank, i, &action),
                        other.map_or("nothing".into(), |a| a.show(self.plan)),
                        peer.0
                    ));
                }
            }
            if self.clock[at] < self.clock[r] {
                return Ok(false);
            }
        }
        Ok(true)
    }

    fn issue(&mut self, r: usize) {
        let (_, _, action) = self.action(r);
        let lane = action.lane(self.plan);
        if lane != Lane::Compute {
            self.ends.entry((lane, self.programs[r].rank)).or_default().issued.push((self.clock[r], action));
        }
        self.clock[r] += 1;
    }

    fn next(&self, rank: RankId, lane: Lane) -> Option<Action> {
        let end = self.ends.get(&(lane, rank))?;
        end.issued.get(end.ended).map(|(_, a)| *a)
    }

    /// Ends the transfer at the head of a lane if all its members are there.
    fn end_one(&mut self, rank: RankId, lane: Lane) -> Result<bool, String> {
        let Some(action) = self.next(rank, lane) else { return Ok(false) };
        let members = &self.groups[&(lane, rank)];
        let lane_of = |member: RankId| if member == rank { lane } else { lane.other_end() };
        for &peer in members.iter().filter(|p| **p != rank) {
            let Some(other) = self.next(peer, lane_of(peer)) else { return Ok(false) };
            if !action.matches(rank, &other, peer, self.plan) {
                return Err(format!(
                    "order: on the {lane:?} lane rank {} comes to `{}` while rank {} comes to `{}`",
                    rank.0,
                    action.show(self.plan),
                    peer.0,
                    other.show(self.plan)
                ));
            }
        }
        for &peer in members {
            self.ends.get_mut(&(lane_of(peer), peer)).expect("it has a next action").ended += 1;
        }
        Ok(true)
    }

    /// Nothing moves any more: is everything done?
    fn verdict(&self) -> Result<(), String> {
        let finished = |r: usize| self.clock[r] == STEPS * self.programs[r].actions.len();
        let stuck: Vec<String> = (0..self.programs.len())
            .filter(|r| !finished(*r))
            .map(|r| {
                let (_, i, action) = self.action(r);
                let waits: Vec<String> =
                    self.blocked_on(r).iter().map(|a| format!("`{}`", a.show(self.plan))).collect();
                format!("{} waits for {}", text::place(self.plan, self.programs[r].rank, i, &action), waits.join(", "))
            })
            .collect();
        if !stuck.is_empty() {
            return Err(format!("deadlock: {}", stuck.join("; ")));
        }
        let open = self.ends.iter().find_map(|((lane, r), e)| e.issued.get(e.ended).map(|(_, a)| (*lane, *r, *a)));
        match open {
            None => Ok(()),
            Some((lane, rank, action)) => {
                Err(format!("on the {lane:?} lane `{}` of rank {} finds no partner", action.show(self.plan), rank.0))
            }
        }
    }
}
