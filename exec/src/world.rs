//! A world of ranks: all of them as threads of this process, the embedded engine that every test of a layout runs on; or
//! one of them in this process, on any engine.
use crate::{Clock, Comms, Rank, StepConfig};
use backend::{Backend, Cpu, Queue, Queued, Traced};
use comm::{CommError, Communicator, Engine, Threads};
use plan::{LANES, Lane, Mesh, Plan, RankId};
use schedule::RankPrograms;
use std::sync::Arc;
use std::time::Duration;

/// How a rank's lanes work.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Lanes {
    /// An operation is done when it returns; whoever waits for a transfer does it.
    Direct,
    /// Every lane is a queue with a thread of its own, as a stream of a GPU, delayed at random by the seed: a proof that
    /// programs order what must be ordered.
    Queued { seed: u64 },
}

/// What all ranks of a world have in common.
#[derive(Clone)]
pub struct World {
    pub plan: Arc<Plan>,
    pub step: StepConfig,
    pub lanes: Lanes,
    /// Compute threads of a rank.
    pub threads: usize,
    /// After which a missing rank is an error.
    pub timeout: Duration,
    /// Devices record what they do.
    pub record: bool,
    /// By which ranks note when each action begins and ends. None: they do not.
    pub clock: Option<Clock>,
}

impl World {
    /// Runs `body` on every rank of the plan, each on a thread, and gives the results in rank order.
    pub fn launch<T: Send>(&self, programs: Vec<RankPrograms>, body: impl Fn(&mut Rank) -> T + Sync) -> Vec<T> {
        self.launch_on(Threads::world(self.plan.mesh.world(), self.timeout), programs, body)
    }

    /// The same on any engine, given in rank order.
    pub fn launch_on<T: Send>(
        &self,
        engines: Vec<impl Engine>,
        programs: Vec<RankPrograms>,
        body: impl Fn(&mut Rank) -> T + Sync,
    ) -> Vec<T> {
        assert_eq!([programs.len(), engines.len()], [self.plan.mesh.world(); 2]);
        std::thread::scope(|scope| {
            let body = &body;
            let start = |(programs, engine)| {
                scope.spawn(move || body(&mut self.join(programs, &engine).expect("nobody waits in `join`")))
            };
            let ranks: Vec<_> = programs.into_iter().zip(engines).map(start).collect();
            // A panic is ours to see: it goes on after every rank has ended.
            let ended: Vec<_> = ranks.into_iter().map(|r| r.join()).collect();
            ended.into_iter().map(|r| r.unwrap_or_else(|panic| std::panic::resume_unwind(panic))).collect()
        })
    }

    /// The rank of the plan that `engine` is, in this thread: the others are wherever the engine finds them.
    pub fn join(&self, programs: RankPrograms, engine: &dyn Engine) -> Result<Rank, CommError> {
        Ok(self.rank(RankId(engine.rank()), programs, self.communicators(engine)?))
    }

    /// One rank alone, on this thread.
    pub fn solo(&self, programs: RankPrograms) -> Rank {
        assert_eq!(self.plan.mesh.world(), 1);
        self.rank(RankId(0), programs, vec![])
    }

    fn rank(&self, id: RankId, programs: RankPrograms, ends: Ends) -> Rank {
        let (dev, queue): (Box<dyn Backend>, Option<Queue>) = match self.lanes {
            Lanes::Direct => (Box::new(Cpu::new(programs.sizes(), self.threads)), None),
            Lanes::Queued { seed } => {
                let dev = Queued::new(programs.sizes(), self.threads, Some(seed ^ id.0 as u64));
                let queue = dev.queue();
                (Box::new(dev), Some(queue))
            }
        };
        let wrap = |(lane, end): (Lane, Box<dyn Communicator>)| -> (Lane, Box<dyn Communicator>) {
            match (&queue, self.lanes) {
                (Some(queue), Lanes::Queued { seed }) => {
                    let delays = Some(seed.wrapping_add(id.0 as u64 * 8 + lane as u64));
                    (lane, Box::new(comm::Queued::new(end, queue.clone(), delays)))
                }
                _ => (lane, end),
            }
        };
        self.rank_of(id, programs, dev, ends.into_iter().map(wrap).collect())
    }

    /// A rank on a device, with its ends of the lanes.
    pub(crate) fn rank_of(&self, id: RankId, programs: RankPrograms, dev: Box<dyn Backend>, ends: Ends) -> Rank {
        let dev = if self.record { Box::new(Traced::new(dev)) } else { dev };
        let mut comms = Comms::default();
        ends.into_iter().for_each(|(lane, end)| comms.set(lane, end));
        let plan = self.plan.clone();
        let mut rank = Rank::new(id, plan, Arc::new(programs.programs), dev, comms, self.step.clone());
        rank.clock = self.clock.clone();
        rank
    }

    /// A rank's ends of its lanes. All ranks go through all groups in the same order.
    pub(crate) fn communicators(&self, engine: &dyn Engine) -> Result<Ends, CommError> {
        let mesh = self.plan.mesh;
        let id = RankId(engine.rank());
        let mut ends: Ends = vec![];
        for lane in LANES
            .into_iter()
            .filter(|l| ![Lane::Compute, Lane::RecvDown, Lane::RecvUp, Lane::RecvRising, Lane::RecvFalling].contains(l))
        {
            for first in mesh.ranks() {
                let group = self.plan.group(first, lane);
                if group.len() > 1 && group[0] == first && group.contains(&id) {
                    let members: Vec<usize> = group.iter().map(|r| r.0).collect();
                    let end = engine.join(&lane_name(mesh, lane), &members)?;
                    ends.push((if id == first { lane } else { lane.other_end() }, end));
                }
            }
        }
        Ok(ends)
    }
}

pub(crate) type Ends = Vec<(Lane, Box<dyn Communicator>)>;

/// As errors name it.
fn lane_name(mesh: Mesh, lane: Lane) -> String {
    let axis = match lane {
        Lane::Compute | Lane::World => "world".to_string(),
        Lane::Tensor => format!("tensor-parallel group of {}", mesh.tensor.size),
        Lane::Kv => "ranks with the same key/value head".into(),
        Lane::Unshard | Lane::Scatter => format!("weight group of {}", mesh.weight),
        Lane::Gather | Lane::Reduce => format!("sharding group of {}", mesh.zero.max(mesh.weight)),
        Lane::Replicas => format!("{} holders of one shard", mesh.sharing().copies),
        Lane::Data | Lane::GatherEnds | Lane::ReduceEnds => format!("data-parallel group of {}", mesh.data),
        Lane::Tied => "first and last stage".into(),
        Lane::SendDown | Lane::RecvDown | Lane::SendUp | Lane::RecvUp => format!("pipeline of {}", mesh.pipeline),
        Lane::SendRising | Lane::RecvRising | Lane::SendFalling | Lane::RecvFalling => {
            format!("pipeline of {}", mesh.pipeline)
        }
    };
    format!("{lane:?} lane, {axis}")
}
