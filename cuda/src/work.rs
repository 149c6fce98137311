//! An operation as a card does it: launches of kernels and products, in order, with operands that are still places.
//!
//! What an operation needs beside its tensors is *scratch*: memory that holds nothing between two operations. It is known
//! from the work, so the largest of a run is allocated once, before the run.
use crate::cudnn;
use backend::{DType, View};

/// What of a card has a say in how an operation is cut.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Card {
    /// Compute capability: 90 for 9.0.
    pub arch: u32,
    /// Streaming multiprocessors.
    pub multiprocessors: u32,
    /// Bytes of shared memory that a block can ask for.
    pub shared: usize,
    /// Attention is cuDNN's where it serves; None: ours.
    pub cudnn: Option<ByCudnn>,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ByCudnn {
    /// The same bits every time.
    pub deterministic: bool,
}

impl Card {
    /// The most bytes that a product may use beside its tensors: what the library's documentation recommends.
    pub fn workspace(self) -> usize {
        if self.arch >= 90 { 32 << 20 } else { 4 << 20 }
    }
}

/// A file of kernels.
#[derive(PartialEq, Eq, Hash, Debug)]
pub struct Source {
    pub name: &'static str,
    pub text: &'static str,
}

/// A file of kernels, compiled for given types and constants: one module of the card.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct Module {
    pub source: &'static Source,
    /// Macros: names of types, sizes.
    pub defines: Vec<(&'static str, String)>,
}

/// Where an operand is.
#[derive(Clone, Copy, PartialEq, Debug)]
pub enum Place {
    Of(View),
    /// So many bytes into the scratch.
    Scratch {
        at: usize,
        dtype: DType,
    },
}

impl Place {
    pub fn dtype(self) -> DType {
        match self {
            Place::Of(view) => view.dtype,
            Place::Scratch { dtype, .. } => dtype,
        }
    }

    /// Bytes to which it is aligned, as far as anybody asks: regions and scratch are aligned to 256.
    pub fn alignment(self) -> u32 {
        match self {
            Place::Of(view) => 1 << view.offset.trailing_zeros().min(8),
            Place::Scratch { at, .. } => 1 << at.trailing_zeros().min(8),
        }
    }
}

impl From<View> for Place {
    fn from(view: View) -> Place {
        Place::Of(view)
    }
}

/// An argument of a kernel; its type in C behind the arrow.
#[derive(Clone, Copy, PartialEq, Debug)]
pub enum Arg {
    /// T *
    At(Place),
    /// u32
    U32(u32),
    /// u64
    U64(u64),
    /// double
    F64(f64),
    /// T *, of whatever is on the card; several are a struct of pointers.
    Address(u64),
}
impl Arg {
    /// u32
    pub fn small(n: usize) -> Arg {
        Arg::U32(u32::try_from(n).expect("less than 2^32"))
    }
}
impl From<View> for Arg {
    fn from(view: View) -> Arg {
        Arg::At(Place::Of(view))
    }
}
impl From<Place> for Arg {
    fn from(place: Place) -> Arg {
        Arg::At(place)
    }
}
impl From<u32> for Arg {
    fn from(x: u32) -> Arg {
        Arg::U32(x)
    }
}
impl From<usize> for Arg {
    fn from(x: usize) -> Arg {
        Arg::U64(x as u64)
    }
}
impl From<f64> for Arg {
    fn from(x: f64) -> Arg {
        Arg::F64(x)
    }
}

#[derive(Clone, PartialEq, Debug)]
pub struct Launch {
    pub module: Module,
    pub entry: &'static str,
    /// Blocks.
    pub grid: [u32; 3],
    /// Threads of a block, a multiple of 32.
    pub block: u32,
    /// Bytes of `DYNAMIC_SHARED`.
    pub shared: usize,
    pub args: Vec<Arg>,
}

/// D (m, n) = alpha A B + beta C, row-major; A is (m, k) and B is (k, n), or the transposes of what lies in memory.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct Product {
    pub m: usize,
    pub n: usize,
    pub k: usize,
    pub a: Operand,
    pub b: Operand,
    /// What is added, in the type of `d`; often `d` itself.
    pub c: Place,
    pub d: Place,
    pub alpha: f64,
    pub beta: f64,
    /// Scratch that the library may use.
    pub workspace: Place,
}

#[derive(Clone, Copy, PartialEq, Debug)]
pub struct Operand {
    pub at: Place,
    pub transposed: bool,
}

/// A pass of attention by cuDNN; see [`cudnn::Role`] for the tensors.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct Attend {
    pub pass: cudnn::Pass,
    pub shape: cudnn::Shape,
    /// q, k, v
    pub inputs: [Place; 3],
    pub o: Place,
    pub lse: Place,
    pub d_o: Place,
    /// dq, dk, dv
    pub gradients: [Place; 3],
    pub lengths: Place,
    /// In qkv, o, k or v, and lse.
    pub offsets: [Place; 4],
    pub workspace: Place,
    /// Bytes of it.
    pub limit: usize,
}

#[derive(Clone, PartialEq, Debug)]
pub enum Work {
    Launch(Launch),
    Product(Product),
    Attend(Attend),
    /// Bytes from one place to another.
    Copy {
        from: View,
        to: View,
    },
}

/// The work of one operation, as it is put together.
pub struct Lowering {
    pub card: Card,
    pub work: Vec<Work>,
    /// Bytes of scratch.
    pub scratch: usize,
}

impl Lowering {
    pub fn new(card: Card) -> Lowering {
        Lowering { card, work: vec![], scratch: 0 }
    }

    /// `l.launch(&RMSNORM, "rmsnorm").real(x).types([("X_T", x.dtype)]).grid(rows).block(256).with([x.into(), ...])`
    pub fn launch(&mut self, source: &'static Source, entry: &'static str) -> Launching<'_> {
        let module = Module { source, defines: vec![] };
        Launching { to: self, launch: Launch { module, entry, grid: [1; 3], block: 256, shared: 0, args: vec![] } }
    }

    /// Memory for `len` elements until the end of this operation.
    pub fn scratch(&mut self, dtype: DType, len: usize) -> Place {
        let at = self.scratch;
        self.scratch = (at + len * dtype.bytes()).next_multiple_of(ALIGN);
        Place::Scratch { at, dtype }
    }
}

/// What regions and pieces of scratch are aligned to.
pub const ALIGN: usize = 256;

/// A launch that is put together; [`with`](Launching::with) ends it.
#[must_use = "a launch without arguments does not happen"]
pub struct Launching<'a> {
    to: &'a mut Lowering,
    launch: Launch,
}

impl Launching<'_> {
    /// `REAL`: what the kernel computes in, for tensors like this one.
    pub fn real(self, like: View) -> Self {
        let real = if like.dtype == DType::F64 { "double" } else { "float" };
        self.define("REAL", real)
    }
    /// The types in which tensors are stored, by the kernel's names for them.
    pub fn types<const N: usize>(mut self, types: [(&'static str, DType); N]) -> Self {
        self.launch.module.defines.extend(types.map(|(name, dtype)| (name, c_name(dtype).to_string())));
        self
    }
    pub fn define(mut self, name: &'static str, value: impl ToString) -> Self {
        self.launch.module.defines.push((name, value.to_string()));
        self
    }
    /// Blocks along x.
    pub fn grid(self, x: usize) -> Self {
        self.grid3([x, 1, 1])
    }
    pub fn grid3(mut self, grid: [usize; 3]) -> Self {
        self.launch.grid = grid.map(|n| u32::try_from(n).expect("a grid has less than 2^32 blocks"));
        self
    }
    pub fn block(mut self, threads: usize) -> Self {
        assert!(threads.is_multiple_of(32) && (32..=1024).contains(&threads), "{threads} threads of a block");
        self.launch.block = threads as u32;
        self
    }
    /// Bytes of `DYNAMIC_SHARED`.
    pub fn shared(mut self, bytes: usize) -> Self {
        self.launch.shared = bytes;
        self
    }
    /// Nothing is launched on an empty grid.
    pub fn with<const N: usize>(self, args: [Arg; N]) {
        self.with_all(args);
    }
    pub fn with_all(mut self, args: impl IntoIterator<Item = Arg>) {
        self.launch.args = args.into_iter().collect();
        if self.launch.grid.iter().all(|n| *n > 0) {
            self.to.work.push(Work::Launch(self.launch));
        }
    }
}

/// As kernels call it.
pub fn c_name(dtype: DType) -> &'static str {
    match dtype {
        DType::F32 => "float",
        DType::F64 => "double",
        DType::BF16 => "bf16",
        DType::F16 => "f16",
        DType::U32 => "u32",
    }
}

/// How many neighbours of rows of `d` numbers are best read and written in one go in all of these tensors: 8, 4, 2 or 1.
///
/// `Pack` is aligned to its size, or to 16 bytes, which is also the most that one instruction moves: of the narrowest tensor
/// a thread takes no more than that, so that threads side by side leave no gaps.
pub fn vector<P: Copy + Into<Place>>(d: usize, tensors: &[P]) -> usize {
    let places: Vec<Place> = tensors.iter().map(|&place| place.into()).collect();
    let narrowest = places.iter().map(|place| place.dtype().bytes()).min().unwrap_or(1);
    let fits = |n: usize| {
        let aligned = |place: &Place| (n * place.dtype().bytes()).min(16) <= place.alignment() as usize;
        d.is_multiple_of(n) && n * narrowest <= 16 && places.iter().all(aligned)
    };
    [8, 4, 2].into_iter().find(|n| fits(*n)).unwrap_or(1)
}

#[cfg(test)]
mod tests {
    use super::*;
    use backend::Region;

    #[test]
    fn vectors_are_as_wide_as_all_tensors_allow() {
        let at = |dtype, offset| View { region: Region::Act, dtype, offset, len: 64 };
        assert_eq!(vector(64, &[at(DType::BF16, 16), at(DType::F32, 32)]), 8);
        assert_eq!(vector(64, &[at(DType::BF16, 8), at(DType::F32, 32)]), 4);
        assert_eq!(vector(64, &[at(DType::BF16, 16), at(DType::F32, 4)]), 1);
        assert_eq!(vector(6, &[at(DType::BF16, 16)]), 2);
        assert_eq!(vector(64, &[at(DType::F32, 32)]), 4);
        assert_eq!(vector(64, &[at(DType::F64, 32)]), 2);
    }
}
