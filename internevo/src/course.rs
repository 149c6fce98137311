//! The course of a run: how many micro-batches each step takes, and which batches are left out.
use serde::{Deserialize, Serialize};

/// `train.ramp_up`: the batch grows from `start` micro-batches by `increment` every so many steps.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RampUp {
    pub start: usize,
    pub increment: usize,
    pub every: u64,
}

impl RampUp {
    pub fn problems(&self) -> Vec<String> {
        let sizes = [("start", self.start as u64), ("increment", self.increment as u64), ("every", self.every)];
        let zero = sizes.iter().filter(|(_, n)| *n == 0);
        zero.map(|(key, _)| format!("train.ramp_up.{key} = 0: must be at least 1; remove train.ramp_up for no ramp-up"))
            .collect()
    }
}

#[derive(Clone, Debug, PartialEq)]
pub struct Course {
    /// Micro-batches of a rank's full step.
    full: usize,
    ramp_up: Option<RampUp>,
    /// First and last of each run of skipped batches.
    skipped: Vec<(u64, u64)>,
}

impl Course {
    pub fn new(full: usize, ramp_up: Option<RampUp>, skipped: Vec<(u64, u64)>) -> Course {
        Course { full, ramp_up, skipped }
    }

    pub fn full(&self) -> usize {
        self.full
    }

    /// Micro-batches of a rank in step `index`, counted from 0.
    pub fn micros(&self, index: u64) -> usize {
        match self.ramp_up {
            None => self.full,
            Some(ramp) => {
                let grown = (index / ramp.every).saturating_mul(ramp.increment as u64);
                (ramp.start as u64).saturating_add(grown).min(self.full as u64) as usize
            }
        }
    }

    /// Micro-batches of a rank in all steps before `index`.
    pub fn micros_before(&self, index: u64) -> u64 {
        let Some(ramp) = self.ramp_up else { return index * self.full as u64 };
        let (mut at, mut sum) = (0, 0);
        while at < index {
            let micros = self.micros(at);
            let end = if micros == self.full { index } else { (at + ramp.every).min(index) };
            sum += (end - at) * micros as u64;
            at = end;
        }
        sum
    }

    /// Every number of micro-batches that a step of `steps` takes, from the first to the last.
    pub fn sizes(&self, steps: u64) -> Vec<usize> {
        let mut out = vec![self.micros(0)];
        let mut at = 0;
        while let Some(ramp) = self.ramp_up
            && self.micros(at) < self.full
        {
            at += ramp.every;
            if at >= steps {
                break;
            }
            out.push(self.micros(at));
        }
        out
    }

    pub fn skips(&self, index: u64) -> bool {
        self.skipped.iter().any(|(first, last)| (*first..=*last).contains(&index))
    }
}

/// `train.skip_batches`: "2-4,10" are the batches 2, 3, 4 and 10, counted from 0, of which step 1 takes the first.
pub fn parse_batches(text: &str) -> Result<Vec<(u64, u64)>, String> {
    let parts = text.split(',').map(str::trim).filter(|part| !part.is_empty());
    let one = |part: &str| {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        let number = |s: &str| s.trim().parse::<u64>();
        match (number(first), number(last)) {
            (Ok(first), Ok(last)) if first <= last => Ok((first, last)),
            _ => Err(format!("train.skip_batches: {part:?} is neither a number nor a range; try \"2-4,10\"")),
        }
    };
    parts.map(one).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The sequences of the original's own tests.
    #[test]
    fn the_batch_grows() {
        let course =
            |full, start, increment, every| Course::new(full, Some(RampUp { start, increment, every }), vec![]);
        let check = |course: Course, want: &[usize]| {
            let got: Vec<usize> = (0..want.len() as u64).map(|i| course.micros(i)).collect();
            assert_eq!(got, want);
            for i in 0..=want.len() {
                assert_eq!(course.micros_before(i as u64), want[..i].iter().sum::<usize>() as u64, "{course:?} {i}");
            }
        };
        check(course(4, 1, 1, 4), &[1, 1, 1, 1, 2, 2, 2, 2, 3, 3, 3, 3, 4, 4, 4, 4, 4, 4]);
        check(course(8, 2, 2, 2), &[2, 2, 4, 4, 6, 6, 8, 8, 8]);
        check(course(3, 9, 1, 1), &[3, 3]);
        check(Course::new(5, None, vec![]), &[5, 5, 5]);
        assert_eq!(course(8, 3, 4, 2).sizes(100), [3, 7, 8]);
        assert_eq!(course(8, 3, 4, 2).sizes(4), [3, 7]);
        assert_eq!(course(8, 3, 4, 2).sizes(2), [3]);
        assert_eq!(Course::new(5, None, vec![]).sizes(10), [5]);
    }

    #[test]
    fn batches_are_skipped_by_number_and_range() {
        let course = Course::new(1, None, parse_batches("2-4, 10,").unwrap());
        assert_eq!((0..12).filter(|i| course.skips(*i)).collect::<Vec<_>>(), [2, 3, 4, 10]);
        assert!(parse_batches("").unwrap().is_empty());
        for bad in ["x", "4-2", "1-2-3", "-1", "1;2"] {
            assert!(parse_batches(bad).unwrap_err().contains("try \"2-4,10\""), "{bad}");
        }
    }
}
