//! Marks every planned resource with NaN as soon as it is dead. A program that still computes the same bits reads
//! nothing after its planned death: one of the proofs of the memory plan.
use crate::Action;
use plan::{Plan, Res, StepShape};
use std::collections::BTreeMap;

pub fn poison(plan: &Plan, shape: StepShape, actions: &[Action]) -> Vec<Action> {
    let mut last: BTreeMap<Res, usize> = BTreeMap::new();
    for (i, a) in actions.iter().enumerate() {
        last.extend(a.touch(plan, shape).all().filter(|r| !r.is_persistent()).map(|r| (r, i)));
    }
    let dies = |i: usize| last.iter().filter(move |(_, at)| **at == i).map(|(&res, _)| Action::Poison { res });
    actions.iter().enumerate().flat_map(|(i, a)| std::iter::once(*a).chain(dies(i))).collect()
}
