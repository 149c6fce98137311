//! What a rank has written, in a form that is short enough to be told to another: ranges of the same length at the same
//! distance are one run. A shard of columns is a run, and not a range for every row.
use crate::sums::Sums;
use crate::training::Part;
use serde::{Deserialize, Serialize};

/// `count` ranges of `len` elements, `stride` apart.
type Run = [usize; 4];

#[derive(Default, Serialize, Deserialize)]
pub(crate) struct Written {
    /// By part and parameter, in the order they were written.
    runs: Vec<(u8, String, Vec<Run>)>,
    /// Of what lies in the files.
    pub sums: Sums,
}

impl Written {
    pub fn add(&mut self, part: Part, name: &str, start: usize, len: usize) {
        let part = number(part);
        if self.runs.last().is_none_or(|(p, n, _)| (*p, n.as_str()) != (part, name)) {
            self.runs.push((part, name.into(), vec![]));
        }
        let (_, _, runs) = self.runs.last_mut().expect("one was pushed");
        match runs.last_mut() {
            Some([first, whole, _, 1]) if start == *first + *whole => *whole += len,
            Some([first, same, stride, count @ 1]) if len == *same && start > *first => {
                (*stride, *count) = (start - *first, 2);
            }
            Some([first, same, stride, count]) if len == *same && start == *first + *stride * *count => *count += 1,
            _ => runs.push([start, len, 0, 1]),
        }
    }

    pub fn encode(&self) -> String {
        serde_json::to_string(self).expect("plain data")
    }

    /// None: it is no such list.
    pub fn decode(text: &str) -> Option<Written> {
        serde_json::from_str(text).ok()
    }

    /// Each range, with its start and its elements.
    pub fn ranges(&self) -> impl Iterator<Item = (Part, &str, usize, usize)> {
        self.runs.iter().flat_map(|(part, name, runs)| {
            let each = |&[start, len, stride, count]: &Run| (0..count).map(move |i| (start + i * stride, len));
            runs.iter().flat_map(each).map(|(start, len)| (PARTS[*part as usize], name.as_str(), start, len))
        })
    }
}

const PARTS: [Part; 3] = [Part::Param, Part::ExpAvg, Part::ExpAvgSq];

fn number(part: Part) -> u8 {
    PARTS.iter().position(|p| *p == part).expect("all are there") as u8
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_come_back_and_rows_are_one_run() {
        // (ranges, runs)
        for (ranges, runs) in [
            (vec![(0, 4)], 1),
            (vec![(0, 4), (4, 2)], 1),
            (vec![(2, 3), (10, 3), (18, 3), (26, 3)], 1),
            (vec![(2, 3), (10, 3), (19, 3), (40, 1), (0, 1)], 4),
        ] {
            let mut written = Written::default();
            ranges.iter().for_each(|(start, len)| written.add(Part::ExpAvg, "w", *start, *len));
            let back = Written::decode(&written.encode()).unwrap();
            assert_eq!(back.runs[0].2.len(), runs, "{ranges:?}");
            let elements = |of: &mut dyn Iterator<Item = (usize, usize)>| -> Vec<usize> {
                of.flat_map(|(start, len)| start..start + len).collect()
            };
            let told = elements(&mut back.ranges().map(|(part, name, start, len)| {
                assert_eq!((part, name), (Part::ExpAvg, "w"));
                (start, len)
            }));
            assert_eq!(told, elements(&mut ranges.iter().copied()));
        }
        assert!(Written::decode("x").is_none());
    }
}
