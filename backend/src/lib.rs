//! What a device can do.
//!
//! A device owns memory ([`arena`]), runs training operations on it ([`Op`]) and lends parts of it to those who move
//! data between ranks ([`Loan`]). It does not know what a transformer is: operations name tensors and shapes, nothing
//! else. Read on in [`view`], [`arena`], [`op`], then one operation from its formula to its loops in `cpu/rmsnorm.rs`.
//!
//! One legend of shapes for the whole project: T tokens of a micro-batch (packed), D hidden, N query heads, K key/value
//! heads, H head dimension, F ffn, V vocabulary, L layers. A trailing dimension is contiguous.
mod arena;
mod copies;
mod cpu;
mod host;
mod meta;
mod op;
mod queue;
mod queued;
mod touched;
mod trace;
mod view;
mod watched;

pub use arena::{Access, Arena, In, Loan, Out, Sizes, Span};
pub use copies::{Copies, draw};
pub use cpu::{Cpu, Isa};
pub use host::{download, download_floats, upload, upload_floats};
pub use meta::Meta;
pub use op::{Columns, Heads, LogitLoss, LossScale, Nonlinearity, Op, Pairs, Rotation, Scores, Slopes};
pub use queue::{Event, Queue};
pub use queued::Queued;
pub use touched::Touched;
pub use trace::{Trace, TraceRow, Traced};
pub use view::{DType, Element, REGIONS, Region, View};
pub use watched::Watched;

/// A point in a device's compute queue. A CPU has finished when `run` returns, so its marks lie in the past; on a GPU
/// a mark is an event.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Default)]
pub struct Mark(pub u64);

/// A device with its memory. Object safe: views are plain handles, so layer code and the interpreter compile once.
///
/// Everything is *in queue order*: `run` may return before the operation has happened, and only `download` waits.
pub trait Backend: Send {
    fn run(&mut self, op: Op);
    /// Host to device. `src` is read before this returns.
    fn upload(&mut self, src: &[u8], dst: View);
    /// Device to host: the only way for the host to see tensor memory. Waits for the queue.
    fn download(&mut self, src: View, dst: &mut [u8]);

    /// Returns when everything that was run has happened.
    fn synchronize(&mut self);

    /// A mark behind everything that was run so far.
    fn mark(&mut self) -> Mark;
    /// Gives the right to touch `view` to a communicator, until [`Backend::settle`].
    fn lend(&mut self, view: View, access: Access) -> Loan;
    fn settle(&mut self, loan: Loan);

    /// Bytes up to the highest one ever touched. Equals the plan when every planned byte is used.
    fn high_water(&self, region: Region) -> usize;
    /// Takes what was recorded so far; a device that does not record has nothing.
    fn take_trace(&mut self) -> Trace {
        Trace::default()
    }
}
