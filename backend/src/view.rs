//! Names of memory: a view is a place in a region, not a borrow.

/// How an element is stored.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Hash, PartialOrd, Ord)]
pub enum DType {
    F32,
    F64,
    U32,
}

impl DType {
    pub fn bytes(self) -> usize {
        match self {
            DType::F32 | DType::U32 => 4,
            DType::F64 => 8,
        }
    }
}

/// A Rust type that a view can hold.
pub trait Element: bytemuck::Pod + Send + Sync {
    const DTYPE: DType;
}
impl Element for f32 {
    const DTYPE: DType = DType::F32;
}
impl Element for f64 {
    const DTYPE: DType = DType::F64;
}
impl Element for u32 {
    const DTYPE: DType = DType::U32;
}

/// The kinds of memory of a rank, each one allocation. The report of a plan is by these names.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Hash, PartialOrd, Ord)]
#[repr(u8)]
pub enum Region {
    /// Parameters, whole or this rank's shard.
    Param,
    /// Optimizer state of this rank's shard.
    Optim,
    /// Accumulated gradients.
    Grad,
    /// Activation slabs, placed by lifetime.
    Act,
    /// Keys and values of a generation.
    Cache,
    /// Inputs of the step, scalars, tables.
    Misc,
}
pub const REGIONS: [Region; 6] = [Region::Param, Region::Optim, Region::Grad, Region::Act, Region::Cache, Region::Misc];

/// `len` elements of `dtype` that start at byte `offset` of `region`.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Hash)]
pub struct View {
    pub region: Region,
    pub dtype: DType,
    pub offset: usize,
    pub len: usize,
}

impl View {
    /// Elements `at .. at + len`.
    pub fn sub(self, at: usize, len: usize) -> View {
        assert!(at + len <= self.len, "elements {at}..{} of {self:?}", at + len);
        View { offset: self.offset + at * self.dtype.bytes(), len, ..self }
    }

    /// Cuts off consecutive pieces: `let [n, h, s] = v.split([t * d, 2 * t * f, t * f]);`
    pub fn split<const N: usize>(self, lens: [usize; N]) -> [View; N] {
        let mut at = 0;
        lens.map(|len| {
            at += len;
            self.sub(at - len, len)
        })
    }

    pub fn bytes(&self) -> usize {
        self.len * self.dtype.bytes()
    }

    pub fn overlaps(&self, other: &View) -> bool {
        self.region == other.region
            && self.offset < other.offset + other.bytes()
            && other.offset < self.offset + self.bytes()
    }
}
