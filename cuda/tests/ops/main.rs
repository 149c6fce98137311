//! Every operation on a card, by the tests that the CPU's operations have: against PyTorch, and against the CPU in f64.
//!
//! The card is the emulator, or with INTERNEVO_TEST_CARD set a real one.
#[path = "../../../backend/tests/cpu/device.rs"]
#[allow(dead_code)]
mod device;
#[path = "../../../backend/tests/cpu/examples.rs"]
mod examples;
#[path = "../../../backend/tests/cpu/loss.rs"]
mod loss;
#[path = "../../../backend/tests/cpu/ops.rs"]
#[allow(dead_code)]
mod ops;
#[path = "../../../backend/tests/cpu/pytorch.rs"]
mod pytorch;

mod against_cpu;
mod by_cudnn;
mod large;
mod rows;
mod under_test;
