//! Checksums of tensors, one for each range of their elements, as far as they have been summed.
use crate::checksum::Sum;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// Elements of a range; the last of a tensor is shorter.
pub(crate) const RANGE: usize = 1 << 20;

/// By tensor and number of the range.
#[derive(Default, Serialize, Deserialize)]
pub(crate) struct Sums(pub BTreeMap<String, BTreeMap<usize, Sum>>);

impl Sums {
    /// Elements `start ..` of a tensor.
    pub fn add(&mut self, tensor: &str, start: usize, mut data: &[f32]) {
        if !self.0.contains_key(tensor) {
            self.0.insert(tensor.into(), BTreeMap::new());
        }
        let ranges = self.0.get_mut(tensor).expect("it was put there");
        let mut at = start;
        while !data.is_empty() {
            let (number, place) = (at / RANGE, at % RANGE);
            let (own, rest) = data.split_at(data.len().min(RANGE - place));
            ranges.entry(number).or_default().add(Sum::of_floats(place, own));
            (at, data) = (at + own.len(), rest);
        }
    }

    pub fn merge(&mut self, other: Sums) {
        for (tensor, ranges) in other.0 {
            let own = self.0.entry(tensor).or_default();
            ranges.into_iter().for_each(|(number, sum)| own.entry(number).or_default().add(sum));
        }
    }

    /// Of a tensor of `len` elements, all of which have been summed.
    pub fn of(&self, tensor: &str, len: usize) -> Vec<Sum> {
        let ranges = self.0.get(tensor);
        (0..len.div_ceil(RANGE)).map(|n| ranges.and_then(|r| r.get(&n)).copied().unwrap_or_default()).collect()
    }
}
