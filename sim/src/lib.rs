//! How long a step would take, and where it would wait.
//!
//! A [`Profile`] says what a machine can do. [`price()`] runs a rank's program on the device without memory and gives the time
//! of each of its actions; [`clock`] lets all ranks go through their programs at these prices, each lane in its order; the
//! [`Timeline`] that comes of it, or one that was measured ([`trace`]), becomes a page that a browser shows ([`page`]).
//!
//! Prices are bounds: no operation is faster than its arithmetic at peak or its bytes at full bandwidth. So what is seen here is
//! what the schedule costs, not what kernels do.
pub mod clock;
pub mod page;
mod price;
mod profile;
mod timeline;
pub mod trace;

pub use price::price;
pub use profile::Profile;
pub use timeline::{RankLine, Span, Timeline};
