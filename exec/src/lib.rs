//! Doing it: one rank, one loop, one match.
//!
//! [`run`] executes a program on a [`Rank`]: a device, one communicator per lane, and the plan. It knows neither the
//! device nor the engine: the same function trains on a CPU, records a trace on the device without memory, and follows a
//! queue. [`optim`] is what happens to a bucket when its gradient is complete.
mod card;
mod config;
mod optim;
mod rank;
mod run;
mod state;
mod world;

pub use card::{rehearse, survey};
pub use config::StepConfig;
pub use optim::OptimizerConfig;
pub use rank::{Clock, Comms, Rank};
pub use run::{Hyper, run};
pub use state::{Loss, Losses, State, StepResult, TypeSums};
pub use world::{Lanes, World};
