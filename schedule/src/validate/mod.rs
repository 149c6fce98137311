//! The proof, before anything runs, that programs compute the step and end.
//!
//! [`meaning`](check_rank) follows one rank's actions and knows what each resource holds: every micro-batch goes through
//! every unit once each way, gradients are summed in the promised order, the optimizer sees complete sums. No program is
//! made without it. [`world`](check_world) runs all ranks without data on a virtual clock: same operations in the same
//! order on every lane, and no deadlock. Both are written against what a step *is*, not against what `lower` emits.
mod meaning;
mod sums;
mod travel;
mod whole;
mod world;

pub use meaning::check as check_rank;
pub use world::check as check_world;
