//! Parameters become whole just in time: those of the next computation behind the one before it, which hides the transfer (ISP of
//! InternEvo; FSDP, Zhao et al. 2023). What was used a moment ago is still there, so that a layer which is made again is gathered
//! once. At most two blocks are whole at a time.
use crate::Action;
use model::Unit;
use plan::{Plan, Res, StepShape};
use std::collections::HashMap;

/// A bucket that was used is still whole this many computations later: attention, MLP and MLP again, attention again.
pub const KEPT: usize = 3;

pub fn unshard(plan: &Plan, shape: StepShape, actions: Vec<Action>) -> Vec<Action> {
    // Buckets that each computation needs whole.
    let needs = |action: &Action| -> Vec<Unit> {
        let mut units: Vec<Unit> = action.touch(plan, shape).reads.iter().filter_map(unsharded).collect();
        units.dedup();
        units
    };
    let uses: Vec<(usize, Vec<Unit>)> =
        actions.iter().enumerate().map(|(i, a)| (i, needs(a))).filter(|(_, units)| !units.is_empty()).collect();
    let computations: Vec<usize> = (0..actions.len()).filter(|&i| actions[i].as_use().is_some()).collect();
    let mut before: HashMap<usize, Vec<Action>> = HashMap::new();
    let mut last: HashMap<Unit, usize> = HashMap::new();
    for (number, (at, units)) in uses.iter().enumerate() {
        for &u in units {
            if last.insert(u, number).is_none_or(|last| number - last > KEPT) {
                let by = actions[*at].as_use().expect("a computation");
                let own = computations.partition_point(|i| i < at);
                let behind = computations[own.saturating_sub(1)];
                before.entry(behind).or_default().push(Action::Unshard { u, by });
            }
        }
    }
    let with = |(i, action)| before.remove(&i).unwrap_or_default().into_iter().chain([action]);
    actions.into_iter().enumerate().flat_map(with).collect()
}

fn unsharded(res: &Res) -> Option<Unit> {
    match res {
        Res::Unsharded(u) => Some(*u),
        _ => None,
    }
}
