//! What one rank's program means: an abstract run that knows what every resource holds.
use super::sums::Sums;
use super::whole::Whole;
use crate::{Action, text};
use model::block::Half;
use model::{Phase, Unit};
use plan::{Again, Micro, Plan, RankId, Res, Stage, StepShape};
use std::collections::{HashMap, HashSet};

/// The first fault of a rank's actions, by name.
pub fn check(plan: &Plan, rank: RankId, shape: StepShape, actions: &[Action]) -> Result<(), String> {
    let units = plan.computed(rank);
    let (sums, whole, dx) = (Sums::default(), Whole::default(), HashMap::new());
    let (done, returned, dead) = (HashSet::new(), HashSet::new(), HashSet::new());
    let mut state = State { plan, shape, rank, units, done, sums, dx, returned, whole, dead };
    for (i, action) in actions.iter().enumerate() {
        let may_come_again = matches!(action, Action::Merge { .. } | Action::Poison { .. });
        let fault = if state.done.contains(action) && !may_come_again {
            Err("a second time in one step".to_string())
        } else {
            state.step(action)
        };
        fault.map_err(|e| format!("{}: {e}", text::place(plan, rank, i, action)))?;
        state.done.insert(*action);
    }
    state.end().map_err(|e| format!("rank {}, end of the program: {e}", rank.0))
}

pub(super) struct State<'a> {
    pub(super) plan: &'a Plan,
    pub(super) shape: StepShape,
    pub(super) rank: RankId,
    /// What the rank computes.
    pub(super) units: Vec<Unit>,
    pub(super) done: HashSet<Action>,
    /// What gradient buffers hold.
    pub(super) sums: Sums,
    /// The unit whose output the gradient of the residual stream belongs to.
    pub(super) dx: HashMap<Micro, Unit>,
    /// Which backwards have been.
    pub(super) returned: HashSet<(Unit, Micro, Half)>,
    pub(super) whole: Whole,
    /// What was poisoned and not written anew.
    dead: HashSet<Res>,
}

impl State<'_> {
    pub(super) fn micros(&self) -> impl Iterator<Item = Micro> + use<> {
        (0..self.shape.micros).map(Micro)
    }
    pub(super) fn has(&self, stage: usize) -> bool {
        self.plan.mesh.has(self.rank, Stage(stage))
    }
    /// Does this rank have both stages, so that nothing travels between them?
    pub(super) fn stays(&self, one: Stage, other: Stage) -> bool {
        self.plan.mesh.hop(one, other) == plan::Hop::Stay
    }
    /// Is the unit before it in the same stage?
    fn follows(&self, u: Unit) -> bool {
        self.plan.units(self.plan.stage_of(u)).start < u.0
    }
    fn trains(&self) -> bool {
        self.shape.phase == Phase::Train
    }
    pub(super) fn need(&self, action: Action) -> Result<(), String> {
        if self.done.contains(&action) {
            Ok(())
        } else {
            Err(format!("`{}` is missing before it", action.show(self.plan)))
        }
    }
    pub(super) fn own(&self, u: Unit) -> Result<(), String> {
        if self.units.contains(&u) {
            return Ok(());
        }
        let own: Vec<String> = self.plan.mesh.stages_of(self.rank).map(|stage| stage.0.to_string()).collect();
        Err(format!("{} belongs to another stage than {}", self.plan.model.kind(u).name(), own.join(", ")))
    }
    pub(super) fn holds(&self, u: Unit) -> Result<(), String> {
        if self.plan.held(self.rank).contains(&u) { Ok(()) } else { self.own(u) }
    }
    pub(super) fn known(&self, m: Micro) -> Result<(), String> {
        let n = self.shape.micros;
        if m.0 < n { Ok(()) } else { Err(format!("there is no micro-batch {}: this rank has {n}", m.0)) }
    }
    pub(super) fn only_in_training(&self) -> Result<(), String> {
        if self.trains() { Ok(()) } else { Err("only a training step has this".into()) }
    }
    pub(super) fn only_with(&self, what: &str, holds: bool) -> Result<(), String> {
        if holds { Ok(()) } else { Err(format!("this layout has no {what}")) }
    }

    fn step(&mut self, action: &Action) -> Result<(), String> {
        let touch = action.touch(self.plan, self.shape);
        if let Some(res) = touch.reads.iter().find(|r| self.dead.contains(r)) {
            return Err(format!("`{}` was poisoned before", self.plan.show(*res)));
        }
        self.dead.retain(|r| !touch.writes.contains(r));
        if *action != Action::Begin {
            self.need(Action::Begin)?;
        }
        let (data, world) = (self.plan.mesh.data, self.plan.mesh.world());
        if let Some(by) = action.as_use() {
            self.used(by, &touch)?;
        }
        match *action {
            Action::Begin => Ok(()),
            Action::Load { m } => self.known(m),
            Action::ReduceCount => {
                self.only_with("data parallelism", data > 1)?;
                self.micros().try_for_each(|m| self.need(Action::Load { m }))
            }
            Action::Unshard { u, by } => self.unshard(u, by),
            Action::Forward { u, m } => self.forward(u, m),
            Action::Recompute { u, m } => self.recompute(u, m),
            Action::Backward { u, m, half, place, acc } => self.backward(u, m, half, place, acc),
            Action::Scatter { u, m } => self.scatter(u, m),
            Action::Accumulate { u, m, place, acc } => self.accumulate(u, m, place, acc),
            Action::Merge { u, place } => self.merge(u, place),
            Action::ReduceTensor { u }
            | Action::ReduceKv { u }
            | Action::Reduce { u }
            | Action::AllReduce { u }
            | Action::ReduceTied { u } => self.reduce(u, action),
            Action::Send { what, to } => self.send(what, to),
            Action::Recv { what, from } => self.recv(what, from),
            Action::SumSquares { u } => {
                self.own(u)?;
                self.reduced(u)
            }
            Action::ReduceStats => {
                self.only_with("other ranks", world > 1)?;
                self.stats_complete()
            }
            Action::GradNorm => {
                self.only_in_training()?;
                if world > 1 { self.need(Action::ReduceStats) } else { self.stats_complete() }
            }
            Action::Step { u } => {
                self.holds(u)?;
                self.need(Action::GradNorm)?;
                self.reduced(u)
            }
            Action::Gather { u } => {
                self.only_with("optimizer shards", self.plan.gathers(u))?;
                self.need(Action::Step { u })
            }
            Action::Poison { res } if res.is_persistent() => Err("only planned memory dies".into()),
            Action::Poison { res } => {
                self.dead.insert(res);
                Ok(())
            }
        }
    }

    fn forward(&self, u: Unit, m: Micro) -> Result<(), String> {
        self.own(u)?;
        self.need(Action::Load { m })?;
        self.input_of(u, m)?;
        self.before_the_step(u)
    }

    /// The residual stream before a unit.
    fn input_of(&self, u: Unit, m: Micro) -> Result<(), String> {
        if u.0 == 0 {
            return Ok(());
        }
        let before = Unit(u.0 - 1);
        if self.follows(u) || self.stays(self.plan.stage_of(u), self.plan.stage_of(before)) {
            self.need(Action::Forward { u: before, m })
        } else {
            self.need(Action::Recv { what: Res::X(before, m), from: self.plan.stage_of(before) })
        }
    }

    pub(super) fn before_the_step(&self, u: Unit) -> Result<(), String> {
        if self.done.contains(&Action::Step { u }) {
            Err("after the optimizer has changed these parameters".into())
        } else {
            Ok(())
        }
    }

    /// The same numbers again: from the same input, before the parameters change.
    fn recompute(&self, u: Unit, m: Micro) -> Result<(), String> {
        self.only_in_training()?;
        self.own(u)?;
        self.need(Action::Forward { u, m })?;
        if self.plan.again(u) == Again::Nothing {
            return Err(format!("memory.recompute keeps what {} saves", self.plan.model.kind(u).name()));
        }
        if self.has_returned(u, m, Half::Input) {
            return Err("after the backward that it is for".into());
        }
        self.input_again(u, m)?;
        self.before_the_step(u)
    }

    /// A layer's inner stream was not kept either.
    fn input_again(&self, u: Unit, m: Micro) -> Result<(), String> {
        let before = Unit(u.0 - 1);
        if self.follows(u) && self.plan.again(before) == Again::SavedAndOutput {
            // The layer's own: the output of the layer before is kept.
            self.need(Action::Recompute { u: before, m })?;
        }
        Ok(())
    }

    fn stats_complete(&self) -> Result<(), String> {
        let u = self.plan.model.head();
        if self.units.contains(&u) {
            self.micros().try_for_each(|m| match self.trains() {
                true if self.has_returned(u, m, Half::Input) => Ok(()),
                true => Err(format!("`backward head {}` is missing before it", m.0)),
                false => self.need(Action::Forward { u, m }),
            })?;
        }
        if self.trains() { self.units.iter().try_for_each(|&u| self.need(Action::SumSquares { u })) } else { Ok(()) }
    }

    /// Nothing that a step has to do was left out.
    fn end(&self) -> Result<(), String> {
        let need = |a: Action| self.need(a).map_err(|_| format!("`{}` is missing", a.show(self.plan)));
        for m in self.micros() {
            self.units.iter().try_for_each(|&u| need(Action::Forward { u, m }))?;
            for stage in self.plan.mesh.stages_of(self.rank) {
                if !self.plan.mesh.is_last(stage) && !self.stays(stage, Stage(stage.0 + 1)) {
                    let last = Unit(self.plan.units(stage).end - 1);
                    need(Action::Send { what: Res::X(last, m), to: Stage(stage.0 + 1) })?;
                }
                if self.trains() && stage.0 > 0 && !self.stays(stage, Stage(stage.0 - 1)) {
                    need(Action::Send { what: Res::Dx(m), to: Stage(stage.0 - 1) })?;
                }
            }
        }
        self.all_used()?;
        if !self.trains() {
            let shared = self.shape.phase == Phase::Eval && self.plan.mesh.world() > 1;
            return if shared { need(Action::ReduceStats) } else { Ok(()) };
        }
        for u in self.plan.held(self.rank) {
            need(Action::Step { u })?;
            if self.plan.gathers(u) {
                need(Action::Gather { u })?;
            }
        }
        Ok(())
    }
}
