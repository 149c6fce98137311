//! Names of memory: a view is a place in a region, not a borrow.

/// How an element is stored.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Hash, PartialOrd, Ord)]
pub enum DType {
    F32,
    F64,
    /// Eight bits of exponent, seven of fraction. Storage only: arithmetic on it is in f32.
    BF16,
    /// Five bits of exponent, ten of fraction. Storage only: arithmetic on it is in f32.
    F16,
    U32,
}

impl DType {
    pub fn bytes(self) -> usize {
        match self {
            DType::BF16 | DType::F16 => 2,
            DType::F32 | DType::U32 => 4,
            DType::F64 => 8,
        }
    }

    /// In what statistics (1 / σ, log-sum-exp), master weights and optimizer state of this type are kept.
    pub fn precise(self) -> DType {
        match self {
            DType::F32 | DType::BF16 | DType::F16 => DType::F32,
            DType::F64 => DType::F64,
            DType::U32 => panic!("an integer has no precise type"),
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
impl Element for half::bf16 {
    const DTYPE: DType = DType::BF16;
}
impl Element for half::f16 {
    const DTYPE: DType = DType::F16;
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

    /// As `split`, of pieces that have each a type of their own. The view is a whole slab in its widest type.
    pub fn carve<const N: usize>(self, pieces: [(DType, usize); N]) -> [View; N] {
        let mut at = 0;
        pieces.map(|(dtype, len)| {
            let piece = View { region: self.region, dtype, offset: self.offset + at, len };
            at = (at + piece.bytes()).next_multiple_of(Self::ALIGN);
            assert!(at <= self.bytes(), "{pieces:?} of {self:?}");
            piece
        })
    }

    /// Elements of type `like` that hold what `carve` cuts off.
    pub fn carved(like: DType, pieces: &[(DType, usize)]) -> usize {
        let bytes: usize = pieces.iter().map(|(dtype, len)| (dtype.bytes() * len).next_multiple_of(Self::ALIGN)).sum();
        bytes / like.bytes()
    }

    /// Every piece of a slab starts at a multiple of these bytes.
    const ALIGN: usize = 8;

    pub fn bytes(&self) -> usize {
        self.len * self.dtype.bytes()
    }

    pub fn overlaps(&self, other: &View) -> bool {
        self.region == other.region
            && self.offset < other.offset + other.bytes()
            && other.offset < self.offset + self.bytes()
    }
}
