//! Parameters that are whole only while they are used: each use finds them, none of it is early.
use super::meaning::State;
use crate::passes::KEPT;
use crate::{Touch, Use};
use model::Unit;
use plan::Res;
use std::collections::HashMap;

/// Half-blocks that may be whole at a time: two blocks.
const WHOLE: usize = 4;

#[derive(Default)]
pub(super) struct Whole {
    /// Computations that needed a bucket whole.
    uses: usize,
    last: HashMap<Unit, usize>,
    /// Made whole, and for which use.
    ahead: HashMap<Unit, Use>,
}

impl State<'_> {
    pub(super) fn unshard(&mut self, u: Unit, by: Use) -> Result<(), String> {
        self.only_with("parameters of this unit that are cut", self.plan.unshards(u))?;
        self.holds(u)?;
        self.known(by.m)?;
        self.before_the_step(u)?;
        if self.whole.ahead.insert(u, by).is_some() {
            return Err("they are whole already, and not used yet".into());
        }
        // What was made whole for the next two computations, and what the second of them may still use.
        let Whole { uses, last, ahead } = &self.whole;
        let kept = last.iter().filter(|(u, at)| *uses + 1 - **at < KEPT && !ahead.contains_key(u)).map(|(u, _)| u);
        let whole = kept.chain(ahead.keys()).filter(|u| !self.plan.is_end(**u)).count();
        if whole > WHOLE {
            return Err("more than two blocks would be whole".into());
        }
        Ok(())
    }

    /// A computation: what it reads is whole.
    pub(super) fn used(&mut self, by: Use, touch: &Touch) -> Result<(), String> {
        let mut units: Vec<Unit> =
            touch.reads.iter().filter_map(|r| if let Res::Unsharded(u) = r { Some(*u) } else { None }).collect();
        units.dedup();
        if units.is_empty() {
            return Ok(());
        }
        self.whole.uses += 1;
        for u in units {
            let kept = self.whole.last.insert(u, self.whole.uses).is_some_and(|at| self.whole.uses - at <= KEPT);
            match self.whole.ahead.remove(&u) {
                Some(of) if of == by => {}
                Some(of) => {
                    let early = crate::Action::Unshard { u, by: of };
                    return Err(format!("`{}` is for another use", early.show(self.plan)));
                }
                None if kept => {}
                None => return self.need(crate::Action::Unshard { u, by }),
            }
        }
        Ok(())
    }

    /// Nothing was made whole for nothing.
    pub(super) fn all_used(&self) -> Result<(), String> {
        match self.whole.ahead.iter().next() {
            None => Ok(()),
            Some((&u, &by)) => Err(format!("`{}` was for nothing", crate::Action::Unshard { u, by }.show(self.plan))),
        }
    }
}
