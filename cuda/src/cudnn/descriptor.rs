//! cuDNN's descriptors: objects that get attributes one by one and are then finalised.
use cudarc::cudnn::sys::{self, cudnnBackendAttributeType_t as AttributeType};
use cudarc::cudnn::sys::{cudnnBackendAttributeName_t as Name, cudnnBackendDescriptorType_t as Kind, cudnnStatus_t};
use std::ffi::{CStr, c_char, c_void};

/// A handle of a descriptor, where one descriptor names another.
#[derive(Clone, Copy, PartialEq, Eq)]
#[repr(transparent)]
pub struct Raw(pub sys::cudnnBackendDescriptor_t);

/// A note of an engine, as a number: newer versions of cuDNN have notes that the bindings do not know.
#[derive(Clone, Copy, PartialEq, Eq)]
#[repr(transparent)]
pub struct Note(pub u32);

/// A type of values that cuDNN knows.
///
/// # Safety
/// `TYPE` says how cuDNN reads and writes `Self`.
pub unsafe trait Value: Copy {
    const TYPE: AttributeType;
}
macro_rules! values {
    ($($rust:ty => $theirs:ident,)*) => { $(
        // SAFETY: the enum's documentation names this C type for this kind of value.
        unsafe impl Value for $rust { const TYPE: AttributeType = AttributeType::$theirs; }
    )* };
}
values! {
    bool => CUDNN_TYPE_BOOLEAN,
    i64 => CUDNN_TYPE_INT64,
    u8 => CUDNN_TYPE_CHAR,
    Raw => CUDNN_TYPE_BACKEND_DESCRIPTOR,
    *mut c_void => CUDNN_TYPE_VOID_PTR,
    sys::cudnnHandle_t => CUDNN_TYPE_HANDLE,
    sys::cudnnDataType_t => CUDNN_TYPE_DATA_TYPE,
    sys::cudnnPointwiseMode_t => CUDNN_TYPE_POINTWISE_MODE,
    sys::cudnnReduceTensorOp_t => CUDNN_TYPE_REDUCTION_OPERATOR_TYPE,
    sys::cudnnBackendHeurMode_t => CUDNN_TYPE_HEUR_MODE,
    sys::cudnnBackendKnobType_t => CUDNN_TYPE_KNOB_TYPE,
    Note => CUDNN_TYPE_NUMERICAL_NOTE,
}

/// A descriptor, destroyed when it is dropped.
pub struct Descriptor(Raw);
// SAFETY: a descriptor belongs to no thread; two never use it at once, because it is not Sync.
unsafe impl Send for Descriptor {}

impl Descriptor {
    pub fn new(kind: Kind) -> Result<Descriptor, String> {
        let mut raw = std::ptr::null_mut();
        // SAFETY: `raw` is where the descriptor is written to.
        let status = unsafe { sys::cudnnBackendCreateDescriptor(kind, &mut raw) };
        check(status, || format!("create {kind:?}"))?;
        Ok(Descriptor(Raw(raw)))
    }
    pub fn raw(&self) -> Raw {
        self.0
    }

    pub fn set<V: Value>(&mut self, name: Name, values: &[V]) -> Result<(), String> {
        // SAFETY: there are so many values, of the type that is said; cuDNN copies them.
        let status = unsafe {
            sys::cudnnBackendSetAttribute(self.0.0, name, V::TYPE, values.len() as i64, values.as_ptr().cast())
        };
        check(status, || format!("set {name:?}"))
    }
    pub fn finalised(self) -> Result<Descriptor, String> {
        // SAFETY: the descriptor is alive.
        check(unsafe { sys::cudnnBackendFinalize(self.0.0) }, || "finalise a descriptor".into())?;
        Ok(self)
    }

    /// How many values an attribute has.
    pub fn count<V: Value>(&self, name: Name) -> Result<usize, String> {
        let mut count = 0;
        // SAFETY: no values are asked for, only their number.
        let status =
            unsafe { sys::cudnnBackendGetAttribute(self.0.0, name, V::TYPE, 0, &mut count, std::ptr::null_mut()) };
        check(status, || format!("count {name:?}"))?;
        Ok(count as usize)
    }
    /// Reads up to `into.len()` values, and says how many.
    pub fn get<V: Value>(&self, name: Name, into: &mut [V]) -> Result<usize, String> {
        let mut count = 0;
        // SAFETY: there is room for so many values, of the type that is said.
        let status = unsafe {
            let (room, at) = (into.len() as i64, into.as_mut_ptr().cast());
            sys::cudnnBackendGetAttribute(self.0.0, name, V::TYPE, room, &mut count, at)
        };
        check(status, || format!("get {name:?}"))?;
        Ok((count as usize).min(into.len()))
    }
    /// Descriptors of one kind that are the value of an attribute, at most so many.
    pub fn get_descriptors(&self, name: Name, kind: Kind, most: usize) -> Result<Vec<Descriptor>, String> {
        let mut all = (0..most).map(|_| Descriptor::new(kind)).collect::<Result<Vec<_>, _>>()?;
        let mut raws: Vec<Raw> = all.iter().map(|one| one.0).collect();
        let count = self.get(name, &mut raws)?;
        all.truncate(count);
        Ok(all)
    }
}
impl Drop for Descriptor {
    fn drop(&mut self) {
        // SAFETY: it was created by cuDNN and is destroyed once. A failure would tell nobody anything.
        unsafe { sys::cudnnBackendDestroyDescriptor(self.0.0) };
    }
}

/// An error of cuDNN with what it says about it.
pub fn check(status: cudnnStatus_t, what: impl FnOnce() -> String) -> Result<(), String> {
    if status == cudnnStatus_t::CUDNN_STATUS_SUCCESS {
        return Ok(());
    }
    let mut text = [0 as c_char; 1024];
    // SAFETY: at most so many bytes are written, the last of them a zero, because the buffer was full of them.
    let said = unsafe {
        sys::cudnnGetLastErrorString(text.as_mut_ptr(), text.len() - 1);
        CStr::from_ptr(text.as_ptr())
    };
    Err(format!("cuDNN cannot {}: {status:?}. {}", what(), said.to_string_lossy().trim()))
}
