//! Ranks on a card: what their programs will need of it, found out by running them on nothing, and a world of them.
use crate::{Comms, Hyper, Rank, StepConfig, World};
use backend::{Backend, Meta, Watched};
use comm::{Engine, Threads};
use cuda::{Cuda, Lane as CardLane, Needs, Site};
use model::Inputs;
use plan::{LANES, Lane, Plan, RankId, Res};
use schedule::RankPrograms;
use std::sync::{Arc, Mutex};

/// What a rank will need of a card: its programs are rehearsed on a device that only notes.
pub fn survey(plan: &Arc<Plan>, programs: &RankPrograms, step: &StepConfig, card: cuda::work::Card) -> Needs {
    let needs = Arc::<Mutex<Needs>>::default();
    let noted = needs.clone();
    let note = move |op| noted.lock().expect("nothing panics with the lock").note(op, card);
    rehearse(plan, programs, step, Box::new(Watched::new(Box::new(Meta::new(programs.sizes())), note)));
    needs.lock().expect("nothing panics with the lock").clone()
}

/// Runs every program of a rank on a device without memory, with communicators that move nothing.
pub fn rehearse(plan: &Arc<Plan>, programs: &RankPrograms, step: &StepConfig, dev: Box<dyn Backend>) {
    let id = programs.programs[0].rank;
    let mut comms = Comms::default();
    for lane in LANES.into_iter().filter(|lane| *lane != Lane::Compute) {
        let group = plan.group(id, lane);
        if group.len() > 1 {
            let place = group.iter().position(|rank| *rank == id).expect("a rank is in its groups");
            comms.set(lane, Box::new(comm::Meta::new(place, group.len())));
        }
    }
    let programs = Arc::new(programs.programs.clone());
    let mut rank = Rank::new(id, plan.clone(), programs.clone(), dev, comms, step.clone());
    for (number, program) in programs.iter().enumerate() {
        // Packed, all tokens are one segment: what is needed does not depend on how many there are.
        let (t, cached) = (program.shape.t, program.shape.phase.is_cached());
        let batch = |m| {
            let zeros = vec![0; t];
            match cached {
                true => vec![0; program.memory.view(Res::Batch(m)).len],
                false => Inputs::packed(&zeros, &zeros, &zeros, &[0, t as u32], &zeros),
            }
        };
        crate::run(&mut rank, number, Hyper { lr: 0.0, step: 1 }, &mut { batch })
            .expect("what moves nothing meets no error");
    }
}

impl World {
    /// The card as it can be used for these programs: without cuDNN if it has no plan for an attention of theirs.
    pub fn settle(&self, site: &Site, programs: &[RankPrograms]) -> Site {
        let mut needs = Needs::default();
        programs.iter().for_each(|of| needs.and(survey(&self.plan, of, &self.step, site.facts)));
        site.attends(&needs).map_or_else(|why| site.without_cudnn(&why), |()| site.clone())
    }

    /// Every rank on one card, each on a thread, as [`launch`](World::launch) does it on the CPU. `done` is told of each kernel
    /// that is ready, and how many there are.
    pub fn launch_on_card<T: Send>(
        &self,
        site: &Site,
        programs: Vec<RankPrograms>,
        done: &(dyn Fn(usize) + Sync),
        body: impl Fn(&mut Rank) -> T + Sync,
    ) -> Result<Vec<T>, String> {
        let needs = self.prepare(site, &programs, done)?;
        let engines = Threads::moving(self.plan.mesh.world(), self.timeout);
        let join = |programs: RankPrograms, needs: &Needs, engine: Threads<CardLane>| {
            let dev = Cuda::new(site, programs.sizes(), needs)?;
            let (compute, kernels) = (dev.compute(), site.kernels.clone());
            let engine = engine.by(move || CardLane::new(&compute, &kernels).unwrap_or_else(|e| panic!("{e}")));
            let ends = self.communicators(&engine).expect("nobody waits in `join`");
            Ok(self.rank_of(RankId(engine.rank()), programs, Box::new(dev), ends))
        };
        std::thread::scope(|scope| {
            let (body, join) = (&body, &join);
            let start = |((programs, needs), engine)| {
                scope.spawn(move || join(programs, &needs, engine).map(|mut rank| body(&mut rank)))
            };
            let ranks: Vec<_> = programs.into_iter().zip(needs).zip(engines).map(start).collect();
            let ended: Vec<_> = ranks.into_iter().map(|rank| rank.join()).collect();
            ended.into_iter().map(|rank| rank.unwrap_or_else(|panic| std::panic::resume_unwind(panic))).collect()
        })
    }

    /// One rank alone on a card, on this thread.
    pub fn solo_on_card(&self, site: &Site, programs: RankPrograms) -> Result<Rank, String> {
        let needs = self.prepare(site, std::slice::from_ref(&programs), &|_| {})?.remove(0);
        let dev = Cuda::new(site, programs.sizes(), &needs)?;
        Ok(self.rank_of(RankId(0), programs, Box::new(dev), vec![]))
    }

    /// What each rank will need, with the code of all of them compiled.
    fn prepare(
        &self,
        site: &Site,
        programs: &[RankPrograms],
        done: &(dyn Fn(usize) + Sync),
    ) -> Result<Vec<Needs>, String> {
        let of = |programs| survey(&self.plan, programs, &self.step, site.facts);
        let needs: Vec<Needs> = programs.iter().map(of).collect();
        let mut all = Needs::default();
        needs.iter().for_each(|needs| all.and(needs.clone()));
        let number = all.modules.len();
        site.kernels.prepare(all.modules, self.threads.max(1) * programs.len(), &|| done(number))?;
        Ok(needs)
    }
}
