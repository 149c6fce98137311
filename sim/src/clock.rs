//! All ranks on one clock, by the rules of the proof (`schedule::validate`): lanes work in order, an action waits for what its
//! program derives, and a transfer begins when all its members are there. Ranks issue without blocking, as on a device with
//! queues: what waits is the lane.
use crate::timeline::{RankLine, Span, Timeline, loads};
use plan::{LANES, Lane, Plan};
use schedule::Program;
use std::collections::{HashMap, VecDeque};
use std::ops::Range;

/// The program is a loop, and waits reach into the step before: the last of these steps is what all are like.
const STEPS: usize = 3;

/// One member's end of a lane.
#[derive(Default)]
struct End {
    /// Action, counted over all steps, and when this member is ready for it.
    issued: VecDeque<(usize, f64)>,
    free: f64,
}

struct World<'a> {
    plan: &'a Plan,
    programs: &'a [Program],
    prices: &'a [Vec<f64>],
    /// Who shares a lane, of those whose programs are here; by index.
    groups: HashMap<(usize, Lane), Vec<usize>>,
    /// The action that a rank issues next.
    next: Vec<usize>,
    compute_free: Vec<f64>,
    /// When each action of a rank begins and ends, as far as that is known.
    times: Vec<Vec<Option<[f64; 2]>>>,
    ends: HashMap<(usize, Lane), End>,
}

/// `programs` are those of all ranks, or of the first rank at each place of the pipeline; they have been proved together. A
/// price is that of an action alone, in seconds.
pub fn run(plan: &Plan, programs: &[Program], prices: &[Vec<f64>]) -> Timeline {
    let here: HashMap<_, usize> = programs.iter().enumerate().map(|(r, program)| (program.rank, r)).collect();
    let group = |r: usize, lane| {
        let ranks = plan.group(programs[r].rank, lane);
        ranks.iter().filter_map(|rank| here.get(rank).copied()).collect()
    };
    let ranks = 0..programs.len();
    let mut world = World {
        plan,
        programs,
        prices,
        groups: ranks.clone().flat_map(|r| LANES.map(|lane| ((r, lane), group(r, lane)))).collect(),
        next: vec![0; ranks.len()],
        compute_free: vec![0.0; ranks.len()],
        times: programs.iter().map(|program| vec![None; STEPS * program.actions.len()]).collect(),
        ends: HashMap::new(),
    };
    loop {
        let mut moved = false;
        for r in ranks.clone() {
            while world.issue(r) {
                moved = true;
            }
        }
        for r in ranks.clone() {
            for lane in LANES.into_iter().filter(|lane| *lane != Lane::Compute) {
                while world.transfer(r, lane) {
                    moved = true;
                }
            }
        }
        if !moved {
            break;
        }
    }
    timeline(plan, programs, &world)
}

impl World<'_> {
    /// Issues a rank's next action, if the transfers that it waits for have their times.
    fn issue(&mut self, r: usize) -> bool {
        let Program { actions, waits, .. } = &self.programs[r];
        let clock = self.next[r];
        let (step, i) = (clock / actions.len(), clock % actions.len());
        if step == STEPS {
            return false;
        }
        // Before the first step nothing was under way.
        let at = |j: usize| if j < i { Some(clock - (i - j)) } else { (clock + j - i).checked_sub(actions.len()) };
        let before: Vec<usize> = waits[i].tickets.iter().filter_map(|j| at(*j)).collect();
        let arrived: Option<Vec<f64>> = before.iter().map(|c| self.times[r][*c].map(|[_, end]| end)).collect();
        let Some(arrived) = arrived else { return false };
        // What is waited for stops the compute lane.
        self.compute_free[r] = arrived.iter().copied().fold(self.compute_free[r], f64::max);
        let lane = actions[i].lane(self.plan);
        if lane == Lane::Compute {
            let begin = self.compute_free[r];
            let end = begin + self.prices[r][i];
            self.times[r][clock] = Some([begin, end]);
            self.compute_free[r] = end;
        } else {
            let ready = match waits[i].after.and_then(at) {
                _ if !waits[i].tickets.is_empty() => self.compute_free[r],
                Some(c) => self.times[r][c].expect("compute gets its time when it is issued")[1],
                None => 0.0,
            };
            self.ends.entry((r, lane)).or_default().issued.push_back((clock, ready));
        }
        self.next[r] += 1;
        true
    }

    /// Does the transfer at the head of a lane, if all its members have issued it.
    fn transfer(&mut self, r: usize, lane: Lane) -> bool {
        let lane_of = |member: usize| if member == r { lane } else { lane.other_end() };
        let members = &self.groups[&(r, lane)];
        let (mut begin, mut took) = (0.0f64, 0.0f64);
        for &member in members {
            let Some(end) = self.ends.get(&(member, lane_of(member))) else { return false };
            let Some(&(clock, ready)) = end.issued.front() else { return false };
            let prices = &self.prices[member];
            (begin, took) = (begin.max(ready).max(end.free), took.max(prices[clock % prices.len()]));
        }
        for &member in members {
            let end = self.ends.get_mut(&(member, lane_of(member))).expect("it has issued");
            let (clock, _) = end.issued.pop_front().expect("it has issued");
            end.free = begin + took;
            self.times[member][clock] = Some([begin, begin + took]);
        }
        true
    }
}

/// The last step, from its own beginning.
fn timeline(plan: &Plan, programs: &[Program], world: &World) -> Timeline {
    let ended = |time: &Option<[f64; 2]>| time.expect("proved programs come to their end");
    let times: Vec<Vec<[f64; 2]>> = world.times.iter().map(|rank| rank.iter().map(ended).collect()).collect();
    let ranks: Vec<(&Program, &[[f64; 2]])> = programs.iter().zip(times.iter().map(Vec::as_slice)).collect();
    let begin = ranks.iter().flat_map(|(program, times)| &times[step_of(program, STEPS - 1)]).map(|[begin, _]| *begin);
    let begin = begin.fold(f64::INFINITY, f64::min);
    let all_done = |step| ranks.iter().map(|(program, times)| done(plan, program, times, step)).fold(0.0, f64::max);
    Timeline {
        step: all_done(STEPS - 1) - all_done(STEPS - 2),
        lanes: LANES.map(|lane| lane.name().to_string()).into(),
        ranks: ranks.iter().map(|(program, times)| rank_line(plan, program, times, begin)).collect(),
    }
}

/// The actions of a step, counted over all steps.
fn step_of(program: &Program, step: usize) -> Range<usize> {
    let n = program.actions.len();
    step * n..(step + 1) * n
}

/// When a rank's compute lane has done a step.
fn done(plan: &Plan, program: &Program, times: &[[f64; 2]], step: usize) -> f64 {
    let actions = program.actions.iter().zip(&times[step_of(program, step)]);
    let compute = actions.filter(|(action, _)| action.lane(plan) == Lane::Compute);
    compute.map(|(_, [_, end])| *end).fold(0.0, f64::max)
}

fn rank_line(plan: &Plan, program: &Program, times: &[[f64; 2]], zero: f64) -> RankLine {
    let span = |(i, [begin, end]): (usize, &[f64; 2])| Span {
        name: program.actions[i].show(plan),
        lane: program.actions[i].lane(plan) as usize,
        begin: begin - zero,
        end: end - zero,
        waits: program.waits[i].tickets.iter().copied().chain(program.waits[i].after).collect(),
    };
    // A period of the compute lane, with whatever moves meanwhile: also what the step before has left.
    let period = [STEPS - 2, STEPS - 1].map(|step| done(plan, program, times, step));
    let lane_times = |compute: bool| {
        let actions = program.actions.iter().cycle().zip(times);
        let of = actions.filter(|(action, _)| (action.lane(plan) == Lane::Compute) == compute);
        let mut times: Vec<[f64; 2]> = of.map(|(_, time)| *time).collect();
        times.sort_by(|a, b| a[0].total_cmp(&b[0]));
        times
    };
    let [busy, exposed, idle] = loads(period, &lane_times(true), &lane_times(false));
    let spans = times[step_of(program, STEPS - 1)].iter().enumerate().map(span).collect();
    RankLine { rank: program.rank.0, spans, busy, exposed, idle }
}
