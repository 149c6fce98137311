//! Parameters that are whole only while they are used: each use finds them, none of it is early.
use super::meaning::State;
use crate::passes::KEPT;
use crate::{Touch, Use};
use model::Unit;
use plan::Res;
use std::collections::HashMap;

/// Buckets that may be whole ahead of their use: those of the next computation, which with tied embeddings is two.
const AHEAD: usize = 4;

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
        if self.whole.ahead.len() > AHEAD {
            return Err(format!("more than {AHEAD} buckets would be whole ahead of their use"));
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
