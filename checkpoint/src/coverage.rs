//! Which elements of a tensor have been written: each must be, once.
use std::collections::BTreeMap;

pub(crate) struct Coverage {
    len: usize,
    /// Start to end. Ranges that touch are one.
    ranges: BTreeMap<usize, usize>,
}

impl Coverage {
    pub fn new(len: usize) -> Coverage {
        Coverage { len, ranges: BTreeMap::new() }
    }

    /// Adds elements that are not covered yet; false where they are, or do not exist.
    #[must_use]
    pub fn add(&mut self, start: usize, len: usize) -> bool {
        let mut end = start + len;
        let before = self.ranges.range(..end).next_back().map(|(s, e)| (*s, *e));
        if end > self.len || before.is_some_and(|(_, e)| e > start) {
            return false;
        }
        let start = before.filter(|(_, e)| *e == start).map_or(start, |(s, _)| s);
        if let Some(e) = self.ranges.remove(&end) {
            end = e;
        }
        self.ranges.insert(start, end);
        true
    }

    /// The first element that is missing.
    pub fn hole(&self) -> Option<usize> {
        let covered = self.ranges.get(&0).copied().unwrap_or(0);
        (covered < self.len).then_some(covered)
    }
}

#[cfg(test)]
mod tests {
    use super::Coverage;

    #[test]
    fn every_element_once() {
        let mut c = Coverage::new(10);
        assert_eq!(c.hole(), Some(0));
        // (start, len, accepted, first hole)
        for (start, len, accepted, hole) in [
            (4, 2, true, Some(0)),
            (4, 2, false, Some(0)),
            (3, 2, false, Some(0)),
            (5, 5, false, Some(0)),
            (0, 10, false, Some(0)),
            (0, 3, true, Some(3)),
            (9, 2, false, Some(3)),
            (8, 2, true, Some(3)),
            (3, 1, true, Some(6)),
            (6, 3, false, Some(6)),
            (6, 2, true, None),
            (9, 1, false, None),
        ] {
            assert_eq!(c.add(start, len), accepted, "{start} + {len}");
            assert_eq!(c.hole(), hole, "{start} + {len}");
        }
        assert_eq!(c.ranges.len(), 1);
    }
}
