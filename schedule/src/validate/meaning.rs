//! What one rank's program means: an abstract run that knows what every resource holds.
use crate::{Action, text};
use model::{Phase, Unit};
use plan::{Again, Micro, Place, Plan, RankId, Res, Stage, StepShape};
use std::collections::{HashMap, HashSet};
use std::ops::Range;

/// What a gradient buffer holds: contributions in the order in which they were added, or a node of the tree.
#[derive(Clone, PartialEq, Debug)]
enum Sum {
    Leaf(Vec<Part>),
    Pair(Box<Sum>, Box<Sum>),
}
/// The gradient that one unit's backward gives for one micro-batch.
type Part = (Unit, Micro);

/// The first fault of a rank's actions, by name.
pub fn check(plan: &Plan, rank: RankId, shape: StepShape, actions: &[Action]) -> Result<(), String> {
    let units = plan.computed(rank);
    let (done, grads, dx) = (HashSet::new(), HashMap::new(), HashMap::new());
    let (returned, dead) = (HashSet::new(), HashSet::new());
    let mut state = State { plan, shape, rank, units, done, grads, dx, returned, dead };
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
    shape: StepShape,
    pub(super) rank: RankId,
    /// What the rank computes.
    units: Vec<Unit>,
    done: HashSet<Action>,
    grads: HashMap<(Unit, Place), Sum>,
    /// The unit whose output the gradient of the residual stream belongs to.
    pub(super) dx: HashMap<Micro, Unit>,
    /// Which backwards have been.
    returned: HashSet<Part>,
    /// What was poisoned and not written anew.
    dead: HashSet<Res>,
}

impl State<'_> {
    fn micros(&self) -> impl Iterator<Item = Micro> + use<> {
        (0..self.shape.micros).map(Micro)
    }
    pub(super) fn has(&self, stage: usize) -> bool {
        self.plan.mesh.has(self.rank, Stage(stage))
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
    fn holds(&self, u: Unit) -> Result<(), String> {
        if self.plan.held(self.rank).contains(&u) { Ok(()) } else { self.own(u) }
    }
    pub(super) fn known(&self, m: Micro) -> Result<(), String> {
        let n = self.shape.micros;
        if m.0 < n { Ok(()) } else { Err(format!("there is no micro-batch {}: this rank has {n}", m.0)) }
    }
    fn only_in_training(&self) -> Result<(), String> {
        if self.trains() { Ok(()) } else { Err("only a training step has this".into()) }
    }
    fn only_with(&self, what: &str, holds: bool) -> Result<(), String> {
        if holds { Ok(()) } else { Err(format!("this layout has no {what}")) }
    }

    /// Contributions to a unit's bucket by one micro-batch, in order.
    fn parts(&self, u: Unit, m: Micro) -> Vec<Part> {
        let head = self.plan.model.head();
        let shared = u != head && u == self.plan.model.head_matrix_unit();
        let from = [shared.then_some(head), Some(u)].into_iter().flatten();
        // Tied embeddings of a pipeline have one of them on the first stage, the other on the last.
        from.filter(|from| self.units.contains(from)).map(|from| (from, m)).collect()
    }

    /// The promised sum of a unit's gradients: a balanced tree over leaves, each added up in increasing order.
    fn promised(&self, u: Unit) -> Sum {
        let leaf_of = |m: &Micro| self.plan.leaf(*m, self.shape);
        let leaves = self.micros().map(|m| leaf_of(&m)).max().map_or(0, |l| l + 1);
        let leaf = |i| Sum::Leaf(self.micros().filter(|m| leaf_of(m) == i).flat_map(|m| self.parts(u, m)).collect());
        fn tree(range: Range<usize>, leaf: &dyn Fn(usize) -> Sum) -> Sum {
            if range.len() == 1 {
                return leaf(range.start);
            }
            let mid = range.start + range.len().next_power_of_two() / 2;
            Sum::Pair(Box::new(tree(range.start..mid, leaf)), Box::new(tree(mid..range.end, leaf)))
        }
        tree(0..leaves, &leaf)
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
        let mesh = self.plan.mesh;
        let (data, world, zero, copies) = (mesh.data, mesh.world(), mesh.zero, mesh.copies());
        match *action {
            Action::Begin => Ok(()),
            Action::Load { m } => self.known(m),
            Action::ReduceCount => {
                self.only_with("data parallelism", data > 1)?;
                self.micros().try_for_each(|m| self.need(Action::Load { m }))
            }
            Action::Forward { u, m } => self.forward(u, m),
            Action::Recompute { u, m } => self.recompute(u, m),
            Action::Backward { u, m, place, acc } => self.backward(u, m, place, acc),
            Action::Merge { u, place } => self.merge(u, place),
            Action::Reduce { u } => {
                self.holds(u)?;
                self.only_with("sharding group", zero > 1)?;
                self.complete(u)
            }
            Action::AllReduce { u } => {
                self.holds(u)?;
                self.only_with("other holders of the same shard", copies > 1)?;
                if zero > 1 { self.need(Action::Reduce { u }) } else { self.complete(u) }
            }
            Action::ReduceTied { u } => {
                self.holds(u)?;
                self.only_with("embeddings tied across stages", self.plan.tied_across() == Some(u))?;
                self.summed(u)
            }
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
                self.only_with("optimizer shards", zero > 1)?;
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
        if self.follows(u) {
            self.need(Action::Forward { u: before, m })
        } else {
            self.need(Action::Recv { what: Res::X(before, m), from: self.plan.stage_of(before) })
        }
    }

    fn before_the_step(&self, u: Unit) -> Result<(), String> {
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
        if self.returned.contains(&(u, m)) {
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

    fn backward(&mut self, u: Unit, m: Micro, place: Place, acc: bool) -> Result<(), String> {
        self.only_in_training()?;
        self.own(u)?;
        self.need(Action::Forward { u, m })?;
        if self.plan.again(u) != Again::Nothing {
            self.need(Action::Recompute { u, m })?;
        }
        self.before_the_step(u)?;
        if u == self.plan.model.head() {
            // The gradient of the loss is divided by the labels of the whole step.
            if self.plan.mesh.data > 1 {
                self.need(Action::ReduceCount)?
            }
            self.micros().try_for_each(|m| self.need(Action::Load { m }))?;
        }
        if u != self.plan.model.head() && self.dx.get(&m) != Some(&u) {
            return Err(format!("the gradient of the output of {} is not there", self.plan.model.kind(u).name()));
        }
        if !self.returned.insert((u, m)) {
            return Err("a second time in one step".into());
        }
        let shared = self.plan.model.head_matrix_unit();
        if u == self.plan.model.head() && shared != u {
            self.add(shared, (u, m), place, acc)?;
        }
        self.add(u, (u, m), place, acc)?;
        if u.0 > 0 {
            self.dx.insert(m, Unit(u.0 - 1));
        }
        Ok(())
    }

    fn add(&mut self, bucket: Unit, part: Part, place: Place, acc: bool) -> Result<(), String> {
        let (plan, shape) = (self.plan, self.shape);
        match (self.grads.get_mut(&(bucket, place)), acc) {
            (Some(_), false) => Err(format!("overwrites gradients in place {}", place.0)),
            (None, true) => Err(format!("adds to place {}, which holds nothing", place.0)),
            (None, false) => {
                self.grads.insert((bucket, place), Sum::Leaf(vec![part]));
                Ok(())
            }
            (Some(Sum::Pair(..)), true) => Err(format!("adds to place {}, which holds a merged sum", place.0)),
            (Some(Sum::Leaf(parts)), true) => {
                let last = parts.last().expect("a leaf is not empty").1;
                if plan.leaf(last, shape) != plan.leaf(part.1, shape) {
                    return Err(format!(
                        "micro-batches {} and {} belong to different leaves of the sum",
                        last.0, part.1.0
                    ));
                }
                if last > part.1 {
                    return Err(format!(
                        "micro-batch {} after {}: gradients are added in increasing order",
                        part.1.0, last.0
                    ));
                }
                parts.push(part);
                Ok(())
            }
        }
    }

    fn merge(&mut self, u: Unit, place: Place) -> Result<(), String> {
        self.holds(u)?;
        let into = Place(place.0 - 1);
        let (Some(right), Some(left)) = (self.grads.remove(&(u, place)), self.grads.remove(&(u, into))) else {
            return Err(format!("places {} and {} do not both hold a sum", into.0, place.0));
        };
        self.grads.insert((u, into), Sum::Pair(Box::new(left), Box::new(right)));
        Ok(())
    }

    /// All gradients of this rank are in place 0, added in the promised order.
    fn complete(&self, u: Unit) -> Result<(), String> {
        let seen: HashSet<Part> = self.grads.iter().filter(|((v, _), _)| *v == u).flat_map(|(_, s)| flat(s)).collect();
        let all = self.micros().flat_map(|m| self.parts(u, m));
        let missing: Vec<String> = all
            .filter(|p| !seen.contains(p))
            .map(|(v, m)| format!("`backward {} {}`", self.plan.model.kind(v).name(), m.0))
            .collect();
        if !missing.is_empty() {
            return Err(format!("{} is missing before it", missing.join(", ")));
        }
        if self.grads.get(&(u, Place(0))) != Some(&self.promised(u)) {
            return Err(format!(
                "the gradients of {} are not summed in the promised order (leaves in increasing order, then pairs); a merge is missing, early or swapped",
                self.plan.model.kind(u).name()
            ));
        }
        Ok(())
    }

    /// The gradients of the global batch are there.
    fn reduced(&self, u: Unit) -> Result<(), String> {
        if self.plan.tied_across() == Some(u) { self.need(Action::ReduceTied { u }) } else { self.summed(u) }
    }

    /// Over data parallelism.
    fn summed(&self, u: Unit) -> Result<(), String> {
        if self.plan.mesh.copies() > 1 {
            self.need(Action::AllReduce { u })
        } else if self.plan.mesh.zero > 1 {
            self.need(Action::Reduce { u })
        } else {
            self.complete(u)
        }
    }

    fn stats_complete(&self) -> Result<(), String> {
        let u = self.plan.model.head();
        if self.units.contains(&u) {
            self.micros().try_for_each(|m| match self.trains() {
                true if self.returned.contains(&(u, m)) => Ok(()),
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
                if !self.plan.mesh.is_last(stage) {
                    let last = Unit(self.plan.units(stage).end - 1);
                    need(Action::Send { what: Res::X(last, m), to: Stage(stage.0 + 1) })?;
                }
                if self.trains() && stage.0 > 0 {
                    need(Action::Send { what: Res::Dx(m), to: Stage(stage.0 - 1) })?;
                }
            }
        }
        if !self.trains() {
            let shared = self.shape.phase == Phase::Eval && self.plan.mesh.world() > 1;
            return if shared { need(Action::ReduceStats) } else { Ok(()) };
        }
        for u in self.plan.held(self.rank) {
            need(Action::Step { u })?;
            if self.plan.mesh.zero > 1 {
                need(Action::Gather { u })?;
            }
        }
        Ok(())
    }
}

fn flat(sum: &Sum) -> Vec<Part> {
    match sum {
        Sum::Leaf(parts) => parts.clone(),
        Sum::Pair(a, b) => [flat(a), flat(b)].concat(),
    }
}
