//! A step in time, simulated or measured.

/// One action. Times are in seconds from the beginning of what is shown.
#[derive(Clone, PartialEq, Debug)]
pub struct Span {
    pub name: String,
    /// Index in the timeline's lanes.
    pub lane: usize,
    pub begin: f64,
    pub end: f64,
    /// Actions of the same rank that it waits for, by index. Of the step before where the index is not below its own.
    pub waits: Vec<usize>,
}

#[derive(Clone, PartialEq, Debug)]
pub struct RankLine {
    pub rank: usize,
    /// In the order of the program.
    pub spans: Vec<Span>,
    /// Seconds of a step in which its compute lane works,
    pub busy: f64,
    /// has nothing to do while a transfer of its own is under way,
    pub exposed: f64,
    /// has nothing to do and nothing moves.
    pub idle: f64,
}

#[derive(Clone, PartialEq, Debug)]
pub struct Timeline {
    /// From the end of a step to the end of the next.
    pub step: f64,
    /// Compute is the first.
    pub lanes: Vec<String>,
    pub ranks: Vec<RankLine>,
}

impl Timeline {
    /// Part of the step in which compute lanes do nothing, over all ranks.
    pub fn bubble(&self) -> f64 {
        self.part(|rank| rank.exposed + rank.idle)
    }
    /// The part of it during which transfers are under way.
    pub fn exposed(&self) -> f64 {
        self.part(|rank| rank.exposed)
    }
    fn part(&self, seconds: impl Fn(&RankLine) -> f64) -> f64 {
        let all: f64 = self.ranks.iter().map(seconds).sum();
        if self.step > 0.0 { all / (self.step * self.ranks.len() as f64) } else { 0.0 }
    }
}

/// Busy, exposed and idle seconds of a window. Both lists are sorted by their beginnings, and compute does not overlap.
pub(crate) fn loads(window: [f64; 2], compute: &[[f64; 2]], transfers: &[[f64; 2]]) -> [f64; 3] {
    let clip = |[a, b]: [f64; 2]| [a.max(window[0]), b.min(window[1])];
    let (mut busy, mut exposed, mut idle) = (0.0, 0.0, 0.0);
    let mut gap_from = window[0];
    let end = [window[1]; 2];
    for [begin, end] in compute.iter().copied().map(clip).filter(|[a, b]| a <= b).chain([end]) {
        let moving = covered([gap_from, begin], transfers);
        exposed += moving;
        idle += (begin - gap_from).max(0.0) - moving;
        busy += end - begin;
        gap_from = gap_from.max(end);
    }
    [busy, exposed, idle]
}

/// How much of a gap lies under one interval or more.
fn covered([from, to]: [f64; 2], intervals: &[[f64; 2]]) -> f64 {
    let (mut covered, mut at) = (0.0, from);
    for &[begin, end] in intervals.iter().take_while(|[begin, _]| *begin < to) {
        let (begin, end) = (begin.max(at), end.min(to));
        if end > begin {
            covered += end - begin;
            at = end;
        }
    }
    covered
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_window_is_busy_exposed_or_idle() {
        let compute = [[-1.0, 1.0], [2.0, 4.0], [7.0, 8.0]];
        let transfers = [[0.0, 1.5], [1.0, 1.25], [5.0, 20.0]];
        // Gaps: 1 to 2, half of it under a transfer; 4 to 7, two thirds; 8 to 10, all.
        assert_eq!(loads([0.0, 10.0], &compute, &transfers), [4.0, 4.5, 1.5]);
        assert_eq!(loads([0.0, 3.0], &[], &[]), [0.0, 0.0, 3.0]);
    }
}
