//! One rank: its device, its ends of the lanes, its programs.
use crate::StepConfig;
use backend::{Backend, DType, Mark, upload};
use comm::{CommError, Communicator, Ticket};
use plan::{LANES, Lane, Micro, Plan, RankId, Res};
use schedule::Program;
use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

/// Time since any fixed moment: a rank does not look at the clock itself.
pub type Clock = Arc<dyn Fn() -> Duration + Send + Sync>;

/// A rank's end of each lane's communicator; none where the lane's group is the rank alone.
#[derive(Default)]
pub struct Comms([Option<Box<dyn Communicator>>; LANES.len()]);

impl Comms {
    pub fn set(&mut self, lane: Lane, end: Box<dyn Communicator>) {
        self.0[lane as usize] = Some(end);
    }
    pub(crate) fn on(&mut self, lane: Lane) -> &mut dyn Communicator {
        self.0[lane as usize].as_deref_mut().unwrap_or_else(|| panic!("no communicator on the {lane:?} lane"))
    }
    pub(crate) fn get(&mut self, lane: Lane) -> Option<&mut dyn Communicator> {
        Some(&mut **self.0[lane as usize].as_mut()?)
    }
    fn all(&mut self) -> impl Iterator<Item = &mut Box<dyn Communicator>> {
        self.0.iter_mut().flatten()
    }
}

pub struct Rank {
    pub id: RankId,
    pub plan: Arc<Plan>,
    pub dev: Box<dyn Backend>,
    pub(crate) config: StepConfig,
    pub(crate) comms: Comms,
    pub(crate) programs: Arc<Vec<Program>>,
    /// The program whose transfers may still be under way.
    current: usize,
    /// Of each action, its transfers under way.
    tickets: Vec<Vec<Ticket>>,
    pub(crate) marks: Vec<Mark>,
    /// Of each micro-batch under way, a bound on its segments.
    pub(crate) segments: HashMap<Micro, usize>,
    /// What was computed or put into memory outside of the current program: all of it comes before its transfers.
    pub(crate) before: Mark,
    /// By which it notes when each action begins and ends.
    pub clock: Option<Clock>,
    /// Bytes sent on each lane.
    pub(crate) sent: [f64; LANES.len()],
    /// When each action of the last step began and ended; a transfer ends when it is waited for.
    pub(crate) spans: Vec<[Duration; 2]>,
}

impl Rank {
    /// `dev` was made for the sizes of the programs.
    pub fn new(
        id: RankId,
        plan: Arc<Plan>,
        programs: Arc<Vec<Program>>,
        dev: Box<dyn Backend>,
        comms: Comms,
        config: StepConfig,
    ) -> Rank {
        for lane in LANES.iter().filter(|l| **l != Lane::Compute) {
            let (size, end) = (plan.group(id, *lane).len(), &comms.0[*lane as usize]);
            assert_eq!(end.as_ref().map_or(1, |c| c.size()), size, "size of the {lane:?} lane's group");
        }
        let mut rank = Rank {
            id,
            plan,
            dev,
            config,
            comms,
            programs,
            current: 0,
            tickets: vec![],
            marks: vec![],
            segments: HashMap::new(),
            before: Mark::default(),
            clock: None,
            sent: [0.0; LANES.len()],
            spans: vec![],
        };
        rank.make_room();
        rank.put_rope_table();
        rank.set_loss_scale([rank.config.initial_scale, 0.0, 0.0]);
        rank
    }

    fn make_room(&mut self) {
        let n = self.programs[self.current].actions.len();
        self.tickets = (0..n).map(|_| vec![]).collect();
        self.marks = vec![Mark::default(); n];
        self.spans = vec![[Duration::ZERO; 2]; n];
    }

    fn put_rope_table(&mut self) {
        let view = self.programs[0].memory.view(Res::RopeTable);
        let table = self.plan.model.rope_table(self.plan.positions);
        match view.dtype {
            DType::F64 => upload(&mut *self.dev, &table, view),
            _ => upload(&mut *self.dev, &table.iter().map(|&x| x as f32).collect::<Vec<_>>(), view),
        }
    }

    /// Another program may begin only when nothing of the last one is under way: waits are derived inside a program.
    pub(crate) fn enter(&mut self, program: usize) -> Result<(), CommError> {
        if program != self.current {
            self.finish()?;
            self.current = program;
            self.make_room();
            self.before = self.dev.mark();
        }
        Ok(())
    }

    pub(crate) fn began(&mut self, action: usize, ticket: Ticket) {
        self.tickets[action].push(ticket);
    }

    /// Waits for the transfers of an action and takes back what they were lent.
    pub(crate) fn settle(&mut self, action: usize) -> Result<(), CommError> {
        let tickets = std::mem::take(&mut self.tickets[action]);
        if tickets.is_empty() {
            return Ok(());
        }
        let lane = self.programs[self.current].actions[action].lane(&self.plan);
        for ticket in tickets {
            for loan in self.comms.on(lane).wait(ticket)?.into_iter().flatten() {
                self.dev.settle(loan);
            }
        }
        self.spans[action][1] = self.now();
        Ok(())
    }

    /// By the clock, or zero without one.
    pub(crate) fn now(&self) -> Duration {
        self.clock.as_ref().map_or(Duration::ZERO, |now| now())
    }

    /// When each action of the last step began and ended, by the world's clock.
    pub fn spans(&self) -> &[[Duration; 2]] {
        &self.spans
    }

    /// Bytes that this rank has sent on a lane since it began, as the best algorithm of each collective would.
    pub fn sent(&self, lane: Lane) -> f64 {
        self.sent[lane as usize]
    }

    pub fn programs(&self) -> &[Program] {
        &self.programs
    }

    /// Errors of transfers under way.
    pub(crate) fn poll(&mut self) -> Result<(), CommError> {
        self.comms.all().try_for_each(|c| c.poll())
    }

    /// Breaks all groups of this rank: their members get an error that names it and the reason, instead of waiting.
    pub fn abort(&mut self, reason: &str) {
        self.comms.all().for_each(|c| c.abort(reason));
    }

    /// Until nothing is under way.
    pub fn finish(&mut self) -> Result<(), CommError> {
        (0..self.tickets.len()).try_for_each(|i| self.settle(i))?;
        self.comms.all().try_for_each(|c| c.finish())
    }
}
