//! Gradients: added up in the promised order, complete before they are summed over ranks, and that in order.
use super::meaning::State;
use crate::Action;
use model::Unit;
use model::block::Half;
use plan::{Again, Micro, Place, Sharing};
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

#[derive(Default)]
pub(super) struct Sums {
    grads: HashMap<(Unit, Place), Sum>,
    /// Of a bucket and a micro-batch whose gradients are scattered.
    unreduced: HashMap<(Unit, Micro), Vec<Part>>,
}

impl State<'_> {
    pub(super) fn has_returned(&self, u: Unit, m: Micro, half: Half) -> bool {
        self.returned.contains(&(u, m, half))
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

    pub(super) fn backward(&mut self, u: Unit, m: Micro, half: Half, place: Place, acc: bool) -> Result<(), String> {
        self.only_in_training()?;
        self.own(u)?;
        self.known(m)?;
        self.need(Action::Forward { u, m })?;
        if self.plan.again(u) != Again::Nothing {
            self.need(Action::Recompute { u, m })?;
        }
        self.before_the_step(u)?;
        if half != Half::Both && (self.plan.is_end(u) || !self.plan.split_backward) {
            return Err("the backward of this unit is not made in halves".into());
        }
        let passes: &[Half] = if half == Half::Both { &[Half::Input, Half::Weight] } else { &[half] };
        if !passes.iter().all(|half| self.returned.insert((u, m, *half))) {
            return Err("a second time in one step".into());
        }
        if half == Half::Weight {
            if !self.has_returned(u, m, Half::Input) {
                let name = self.plan.model.kind(u).name();
                return Err(format!("`backward_input {name} {}` is missing before it", m.0));
            }
            return self.add(u, (u, m), place, acc);
        }
        let head = self.plan.model.head();
        if u == head {
            // The gradient of the loss is divided by the labels of the whole step.
            if self.plan.mesh.data > 1 {
                self.need(Action::ReduceCount)?
            }
            self.micros().try_for_each(|m| self.need(Action::Load { m }))?;
        } else if self.dx.get(&m) != Some(&u) {
            return Err(format!("the gradient of the output of {} is not there", self.plan.model.kind(u).name()));
        }
        let shared = self.plan.model.head_matrix_unit();
        if u == head && shared != u {
            self.add(shared, (u, m), place, acc)?;
        }
        if half == Half::Both {
            self.add(u, (u, m), place, acc)?;
        } else if acc || place != Place(0) {
            return Err("the first half of a backward puts no gradients anywhere".into());
        }
        if u.0 > 0 {
            self.dx.insert(m, Unit(u.0 - 1));
        }
        Ok(())
    }

    /// Where a backward puts its gradients.
    fn add(&mut self, bucket: Unit, part: Part, place: Place, acc: bool) -> Result<(), String> {
        if !self.plan.scatters(bucket) {
            return self.add_to(bucket, &[part], place, acc);
        }
        match (self.sums.unreduced.get_mut(&(bucket, part.1)), acc) {
            (None, false) => {
                self.sums.unreduced.insert((bucket, part.1), vec![part]);
            }
            (Some(parts), true) => parts.push(part),
            (Some(_), false) => return Err("overwrites gradients that are not scattered yet".into()),
            (None, true) => return Err("adds to gradients of this micro-batch, and there are none".into()),
        }
        Ok(())
    }

    pub(super) fn scatter(&mut self, u: Unit, m: Micro) -> Result<(), String> {
        self.only_with("weight group that shares gradients of this unit", self.plan.scatters(u))?;
        self.holds(u)?;
        self.known(m)?;
        let have = self.sums.unreduced.get(&(u, m)).cloned().unwrap_or_default();
        match self.parts(u, m).iter().find(|part| !have.contains(part)) {
            Some((of, m)) => {
                Err(format!("`backward {} {}` is missing before it", self.plan.model.kind(*of).name(), m.0))
            }
            None => Ok(()),
        }
    }

    pub(super) fn accumulate(&mut self, u: Unit, m: Micro, place: Place, acc: bool) -> Result<(), String> {
        self.need(Action::Scatter { u, m })?;
        let parts = self.sums.unreduced.remove(&(u, m)).ok_or("a second time in one step")?;
        self.add_to(u, &parts, place, acc)
    }

    fn add_to(&mut self, bucket: Unit, new: &[Part], place: Place, acc: bool) -> Result<(), String> {
        let (plan, shape) = (self.plan, self.shape);
        match (self.sums.grads.get_mut(&(bucket, place)), acc) {
            (Some(_), false) => Err(format!("overwrites gradients in place {}", place.0)),
            (None, true) => Err(format!("adds to place {}, which holds nothing", place.0)),
            (None, false) => {
                self.sums.grads.insert((bucket, place), Sum::Leaf(new.to_vec()));
                Ok(())
            }
            (Some(Sum::Pair(..)), true) => Err(format!("adds to place {}, which holds a merged sum", place.0)),
            (Some(Sum::Leaf(parts)), true) => {
                let (last, first) = (parts.last().expect("a leaf is not empty").1, new[0].1);
                if plan.leaf(last, shape) != plan.leaf(first, shape) {
                    return Err(format!(
                        "micro-batches {} and {} belong to different leaves of the sum",
                        last.0, first.0
                    ));
                }
                if last > first && !plan.tied_in_a_v() {
                    return Err(format!(
                        "micro-batch {} after {}: gradients are added in increasing order",
                        first.0, last.0
                    ));
                }
                parts.extend_from_slice(new);
                Ok(())
            }
        }
    }

    pub(super) fn merge(&mut self, u: Unit, place: Place) -> Result<(), String> {
        self.holds(u)?;
        let (grads, into) = (&mut self.sums.grads, Place(place.0 - 1));
        let (Some(right), Some(left)) = (grads.remove(&(u, place)), grads.remove(&(u, into))) else {
            return Err(format!("places {} and {} do not both hold a sum", into.0, place.0));
        };
        grads.insert((u, into), Sum::Pair(Box::new(left), Box::new(right)));
        Ok(())
    }

    /// A sum as it would be with both ends of the model in turn, where one rank has them and comes to each in its own time.
    fn in_turn(&self, u: Unit, sum: &Sum) -> Sum {
        match sum {
            Sum::Leaf(parts) if self.plan.tied_in_a_v() && u == self.plan.model.head_matrix_unit() => {
                let mut parts = parts.clone();
                parts.sort_by_key(|(_, m)| *m);
                Sum::Leaf(parts)
            }
            sum => sum.clone(),
        }
    }

    /// All gradients of this rank are in place 0, added in the promised order.
    pub(super) fn complete(&self, u: Unit) -> Result<(), String> {
        let of_unit = self.sums.grads.iter().filter(|((v, _), _)| *v == u);
        let seen: HashSet<Part> = of_unit.flat_map(|(_, sum)| flat(sum)).collect();
        let missing = self.micros().flat_map(|m| self.parts(u, m)).filter(|part| !seen.contains(part));
        let verb = match self.plan.scatters(u) {
            true => "accumulate",
            false if self.plan.split_backward && !self.plan.is_end(u) => "backward_weight",
            false => "backward",
        };
        let name = |(v, m): Part| format!("`{verb} {} {}`", self.plan.model.kind(v).name(), m.0);
        let missing: Vec<String> = missing.map(name).collect();
        if !missing.is_empty() {
            return Err(format!("{} is missing before it", missing.join(", ")));
        }
        let sum = self.sums.grads.get(&(u, Place(0))).map(|sum| self.in_turn(u, sum));
        if sum.as_ref() != Some(&self.promised(u)) {
            return Err(format!(
                "the gradients of {} are not summed in the promised order (leaves in increasing order, then pairs); a merge is missing, early or swapped",
                self.plan.model.kind(u).name()
            ));
        }
        Ok(())
    }

    /// The sums over ranks that a bucket needs, in order.
    fn over_ranks(&self, u: Unit) -> Vec<Action> {
        let (plan, Sharing { zero, copies, .. }) = (self.plan, self.plan.sharing(u));
        let mut out = vec![];
        out.extend((!plan.partial(u).is_empty()).then_some(Action::ReduceTensor { u }));
        out.extend((!plan.shared_heads(u).is_empty()).then_some(Action::ReduceKv { u }));
        out.extend((zero > 1).then_some(Action::Reduce { u }));
        out.extend((copies > 1).then_some(Action::AllReduce { u }));
        out.extend((plan.tied_across() == Some(u)).then_some(Action::ReduceTied { u }));
        out
    }

    pub(super) fn reduce(&self, u: Unit, action: &Action) -> Result<(), String> {
        self.holds(u)?;
        let chain = self.over_ranks(u);
        let Some(at) = chain.iter().position(|a| a == action) else {
            return Err("this layout has no such sum of this unit".into());
        };
        if at > 0 { self.need(chain[at - 1]) } else { self.complete(u) }
    }

    /// The gradients of the global batch are there.
    pub(super) fn reduced(&self, u: Unit) -> Result<(), String> {
        match self.over_ranks(u).last() {
            Some(sum) => self.need(*sum),
            None => self.complete(u),
        }
    }
}

fn flat(sum: &Sum) -> Vec<Part> {
    match sum {
        Sum::Leaf(parts) => parts.clone(),
        Sum::Pair(a, b) => [flat(a), flat(b)].concat(),
    }
}
