//! Memory for the terms of sums that come from other processes: the only memory of the engine that grows with tensors.
use super::transport::Bytes;

/// Where terms of sums wait. It grows to the largest sum of its group, and stays.
#[derive(Default)]
pub struct Staging(Vec<u64>);

impl Staging {
    pub fn grow(&mut self, bytes: usize) {
        self.0.resize(self.0.len().max(bytes.div_ceil(size_of::<u64>())), 0);
    }
    /// By address only: no reference to all of it may come between messages that are under way.
    pub fn bytes(&mut self, at: usize, len: usize) -> Bytes {
        assert!(at + len <= self.0.len() * size_of::<u64>(), "bytes {at}..{} of the staging", at + len);
        Bytes { at: self.0.as_mut_ptr().cast::<u8>().wrapping_add(at), len }
    }
}
