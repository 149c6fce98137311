//! Up to which point of its queue a device touches each view: from there on a loan of it holds.
use crate::{Access, Mark, View};
use std::collections::HashMap;

#[derive(Default)]
pub struct Touched(HashMap<View, [Mark; 2]>);

impl Touched {
    /// `mark` is behind the access.
    pub fn touch(&mut self, view: View, access: Access, mark: Mark) {
        self.0.entry(view).or_default()[access as usize] = mark;
    }

    /// Behind all accesses that one to `view` has to wait for.
    pub fn ready(&self, view: View, access: Access) -> Mark {
        let conflicts = self.0.iter().filter(|(other, _)| other.overlaps(&view));
        let last = conflicts.map(|(_, [read, write])| if access == Access::Write { *read.max(write) } else { *write });
        last.max().unwrap_or_default()
    }
}
