//! Attention by cuDNN: one plan forward, one backward, for packed segments.
//!
//! A [`graph`] says what is computed ([`forward`], [`backward`]); a [`Plan`] is what cuDNN made of it for a device and a
//! [`Shape`]. Making one takes seconds, because kernels are compiled; executing one is a launch. A plan can be made for a
//! card that is not there, from a description of it.
//!
//! Queries, keys and values are read where they are, side by side in a row of each token. Their gradients come as three
//! tensors of their own: a kernel that rotates queries and keys back has to read them anyhow, and the workspace follows
//! the rows of the gradients, which would make it several times as large. cuDNN does not read `cu_seqlens`; it wants the
//! lengths, and the offset of each segment in each tensor, which [`Shape::auxiliary`] lists.
mod backward;

mod descriptor;
#[cfg(test)]
mod evaluated;
mod forward;
mod graph;
mod lower;
mod plan;

pub use plan::{Pass, Plan};

use backend::{DType, Heads};
use cudarc::cudnn::sys;
use cudarc::driver::sys as driver;
use descriptor::check;

/// What a plan is made for; plans are cached by it.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Shape {
    pub heads: Heads,
    pub tokens: usize,
    /// At most so many segments; those that are not there have no tokens. Blocks are started for segments x longest, and
    /// most leave at once, so neither should be much larger than it has to be.
    pub segments: usize,
    /// No segment has more tokens. That is not checked: it is known on the device only.
    pub longest: usize,
    pub dtype: DType,
    /// Bits of the f64 that scores are multiplied by.
    pub scale_bits: u64,
    /// i sees j > i - window only.
    pub window: Option<usize>,
    /// The same bits every time.
    pub deterministic: bool,
}

/// What a tensor is to the computation. T tokens, N query heads, K key and value heads, H numbers each, S segments.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Role {
    /// (T, N H), in rows of (N + 2 K) H
    Q,
    /// (T, K H), in rows of (N + 2 K) H
    K,
    /// (T, K H), in rows of (N + 2 K) H
    V,
    /// (T, N H)
    O,
    /// (T, N) f32: log of the sums of exponentials. Tokens first, unlike `Op::Attention` says: only the backward reads it.
    Lse,
    /// (T, N H)
    DO,
    /// (T, N H)
    DQ,
    /// (T, K H)
    DK,
    /// (T, K H)
    DV,
    /// (S) i32: tokens of each segment.
    Lengths,
    /// (S + 1) i64: cu_seqlens (N + 2 K) H
    OffsetsQkv,
    /// (S + 1) i64: cu_seqlens N H
    OffsetsOut,
    /// (S + 1) i64: cu_seqlens K H. Read if N > K, in the backward.
    OffsetsKv,
    /// (S + 1) i64: cu_seqlens N
    OffsetsLse,
}

/// Addresses on the device. Those of tensors of a pass that is not executed are not read, and may be 0.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Tensors {
    pub q: u64,
    pub k: u64,
    pub v: u64,
    pub o: u64,
    pub lse: u64,
    pub d_o: u64,
    pub dq: u64,
    pub dk: u64,
    pub dv: u64,
    pub lengths: u64,
    pub offsets_qkv: u64,
    pub offsets_out: u64,
    pub offsets_kv: u64,
    pub offsets_lse: u64,
}
impl Tensors {
    pub fn of(&self, role: Role) -> u64 {
        match role {
            Role::Q => self.q,
            Role::K => self.k,
            Role::V => self.v,
            Role::O => self.o,
            Role::Lse => self.lse,
            Role::DO => self.d_o,
            Role::DQ => self.dq,
            Role::DK => self.dk,
            Role::DV => self.dv,
            Role::Lengths => self.lengths,
            Role::OffsetsQkv => self.offsets_qkv,
            Role::OffsetsOut => self.offsets_out,
            Role::OffsetsKv => self.offsets_kv,
            Role::OffsetsLse => self.offsets_lse,
        }
    }
}

impl Shape {
    /// From one token of a tensor to the next, in elements.
    pub fn row(&self, role: Role) -> usize {
        match role {
            Role::Q | Role::K | Role::V | Role::OffsetsQkv => self.heads.qkv(),
            Role::O | Role::DO | Role::DQ | Role::OffsetsOut => self.heads.out(),
            Role::DK | Role::DV | Role::OffsetsKv => self.heads.kv * self.heads.dim,
            Role::Lse | Role::OffsetsLse => self.heads.n,
            Role::Lengths => panic!("the lengths have no rows"),
        }
    }
    /// The offsets to be made of cu_seqlens, and what each entry is to be multiplied by.
    pub fn auxiliary(&self) -> [(Role, usize); 4] {
        [Role::OffsetsQkv, Role::OffsetsOut, Role::OffsetsKv, Role::OffsetsLse].map(|role| (role, self.row(role)))
    }

    /// Bytes that a plan may use beside its tensors: what those for Hopper have used, and some more. In the backward that is
    /// the sum of dq in f32, with grouped heads dk and dv of each query head, and Σ o do; the rest grows with the segments.
    pub fn workspace(&self, pass: Pass) -> usize {
        let Heads { n, kv, dim } = self.heads;
        let of_row = if n > kv { 3 * dim + 1 } else { dim + 1 };
        let rows = if pass == Pass::Backward { 4 * self.tokens * n * of_row } else { 0 };
        // Not more segments than tokens: what is needed beside the plan must not depend on data.
        rows + (1 << 20) + 512 * self.tokens
    }

    /// Whether cuDNN can compute this at all, by its documentation and by what is known of its mistakes.
    fn check(&self, pass: Pass, version: usize, arch: u32) -> Result<(), String> {
        let Heads { n, kv, dim } = self.heads;
        assert!(kv > 0 && n.is_multiple_of(kv) && self.tokens > 0 && self.segments > 0, "{self:?}");
        let refuse = |why: &str| Err(format!("cuDNN {} cannot do this attention: {why}", Version(version)));
        if !matches!(self.dtype, DType::BF16 | DType::F16) {
            return refuse(&format!("it is in {:?}; bf16 and f16 can be done", self.dtype));
        }
        if dim > 256 || !dim.is_multiple_of(16) {
            return refuse(&format!("heads have {dim} numbers; multiples of 16 up to 256 can be done"));
        }
        if self.longest < 2 {
            return refuse("a segment of one token");
        }
        if arch < 80 {
            return refuse(&format!("the card has compute capability {}.{}, and 8.0 is needed", arch / 10, arch % 10));
        }
        if pass == Pass::Backward && matches!(arch / 10, 8 | 12) {
            return refuse("packed segments have no backward on cards of compute capability 8 and 12");
        }
        Ok(())
    }
}

/// A version as a number, as cuDNN says it: 91900 for 9.19.0.
#[derive(Clone, Copy)]
struct Version(usize);
impl std::fmt::Display for Version {
    fn fmt(&self, f: &mut std::fmt::Formatter) -> std::fmt::Result {
        write!(f, "{}.{}.{}", self.0 / 10_000, self.0 / 100 % 100, self.0 % 100)
    }
}

/// The version of the library, if there is one that can be used.
fn version() -> Result<usize, String> {
    // SAFETY: only looks for the library.
    if !unsafe { sys::is_culib_present() } {
        return Err("cuDNN is not there: libcudnn.so.9 was not found".into());
    }
    // SAFETY: the library is there.
    let version = unsafe { sys::cudnnGetVersion() };
    match version {
        // Before, masked scores wanted another value than -inf and a second mask, and packed GQA had mistakes.
        ..91_100 => Err(format!("cuDNN {} is too old: 9.11.0 or newer is needed", Version(version))),
        100_000.. => Err(format!("cuDNN {} is not known: version 9 is needed", Version(version))),
        _ => Ok(version),
    }
}

/// cuDNN on the card whose context is current.
pub struct Cudnn {
    handle: sys::cudnnHandle_t,
    version: usize,
    /// Compute capability: 90 for 9.0.
    arch: u32,
}
// SAFETY: a handle may be used by any thread, by one at a time; it is not Sync.
unsafe impl Send for Cudnn {}

impl Cudnn {
    pub fn new() -> Result<Cudnn, String> {
        let version = version()?;
        let mut device = 0;
        // SAFETY: `device` is where the answer goes.
        let result = unsafe { driver::cuCtxGetDevice(&mut device) };
        if result != driver::CUresult::CUDA_SUCCESS {
            return Err(format!("cuDNN needs a current context of a card: {result:?}"));
        }
        let attribute = |which| {
            let mut value = 0;
            // SAFETY: `value` is where the answer goes, and the device is that of the context.
            match unsafe { driver::cuDeviceGetAttribute(&mut value, which, device) } {
                driver::CUresult::CUDA_SUCCESS => Ok(value as u32),
                result => Err(format!("the card does not tell its compute capability: {result:?}")),
            }
        };
        use driver::CUdevice_attribute::*;
        let major = attribute(CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR)?;
        let minor = attribute(CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR)?;
        let mut handle = std::ptr::null_mut();
        // SAFETY: `handle` is where the handle goes.
        check(unsafe { sys::cudnnCreate(&mut handle) }, || "begin".into())?;
        Ok(Cudnn { handle, version, arch: 10 * major + minor })
    }

    /// 91900 for 9.19.0.
    pub fn version(&self) -> usize {
        self.version
    }

    /// Plans that are executed from here on are executed in this stream.
    pub fn set_stream(&self, stream: driver::CUstream) -> Result<(), String> {
        // SAFETY: the handle is alive; both types are the driver's stream.
        check(unsafe { sys::cudnnSetStream(self.handle, stream.cast()) }, || "take a stream".into())
    }
}
impl Drop for Cudnn {
    fn drop(&mut self) {
        // SAFETY: the handle is destroyed once.
        unsafe { sys::cudnnDestroy(self.handle) };
    }
}

/// What a plan is made on.
pub enum Target<'a> {
    Card(&'a Cudnn),
    /// A device that need not be there, as JSON: what cuDNN reads as `CUDNN_ATTR_DEVICEPROP_JSON_REPRESENTATION`.
    Properties(&'a str),
}
impl Target<'_> {
    fn version(&self) -> Result<usize, String> {
        match self {
            Target::Card(cudnn) => Ok(cudnn.version),
            Target::Properties(_) => version(),
        }
    }
    /// Compute capability: 90 for 9.0.
    fn arch(&self) -> Result<u32, String> {
        match self {
            Target::Card(cudnn) => Ok(cudnn.arch),
            Target::Properties(json) => {
                let number = json.split_once("\"deviceVer\":").map(|(_, rest)| rest.trim_start());
                let digits = number.map(|rest| rest.split(|c: char| !c.is_ascii_digit()).next().unwrap_or(""));
                let arch = digits.and_then(|digits| digits.parse::<u32>().ok());
                arch.map(|arch| arch / 10).ok_or("the properties of the device have no `deviceVer`".into())
            }
        }
    }
}
