//! Marks every planned resource with NaN as soon as it is dead, in each of its lives. A program that still computes the same bits reads
//! nothing after its planned death: one of the proofs of the memory plan.
use crate::{Action, program};
use plan::{Plan, Res, StepShape};
use std::collections::BTreeMap;

pub fn poison(plan: &Plan, shape: StepShape, actions: &[Action]) -> Vec<Action> {
    let mut last: BTreeMap<Res, usize> = BTreeMap::new();
    let mut deaths: Vec<Vec<Res>> = vec![vec![]; actions.len()];
    // What was sent in a ring is taken late: whoever waited for that at once might wait for itself.
    let late = program::taken_late(plan, shape);
    let death = |at: usize| match actions[at] {
        Action::Send { .. } => program::holds_until(plan, actions, at, late).max(at),
        _ => at,
    };
    for (i, a) in actions.iter().enumerate() {
        let touch = a.touch(plan, shape);
        for res in touch.all().filter(|r| !r.is_persistent()) {
            let before = last.insert(res, i).filter(|at| *at < i);
            if let (Some(at), false) = (before, touch.reads.contains(&res)) {
                deaths[death(at).min(i - 1)].push(res);
            }
        }
    }
    last.into_iter().for_each(|(res, at)| deaths[death(at)].push(res));
    let poison = |i: usize| deaths[i].iter().map(|&res| Action::Poison { res }).collect::<Vec<_>>();
    actions.iter().enumerate().flat_map(|(i, a)| std::iter::once(*a).chain(poison(i))).collect()
}
