//! The engines by their contract: [`engines`] one operation at a time, [`programs`] many, [`faults`] what goes wrong.
mod engines;
mod faults;
mod mailbox;
mod numbers;
mod programs;
mod ranks;
