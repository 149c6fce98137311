//! The card as the driver shows it: memory, streams, events, modules. Everything is freed where it is dropped.
//!
//! What fails while a run is set up is an `Err`. What fails later, a launch or a wait, is a fault of ours or of the card:
//! the rank panics with the driver's words, and the other ranks hear of it.
use crate::work;
use cudarc::driver::result::{self, DriverError};
use cudarc::driver::sys::{self, CUdevice_attribute_enum as Attribute, CUfunction_attribute_enum as OfFunction};
use std::ffi::{CString, c_void};
use std::sync::Arc;

/// Our fault, or the card's.
#[track_caller]
pub(crate) fn must<T>(what: &str, result: Result<T, DriverError>) -> T {
    result.unwrap_or_else(|e| panic!("{what}: {}", words(e)))
}

pub(crate) fn words(e: DriverError) -> String {
    let text = |s: Result<&std::ffi::CStr, DriverError>| s.map_or("?".into(), |s| s.to_string_lossy().into_owned());
    format!("{} ({})", text(e.error_string()), text(e.error_name()))
}

/// One card, opened.
pub struct Card {
    pub ordinal: usize,
    pub name: String,
    pub facts: work::Card,
    /// Bytes of its memory.
    pub memory: usize,
    pub l2: usize,
    device: sys::CUdevice,
    context: sys::CUcontext,
}
// SAFETY: a context may be used by any thread that has made it current, which `bind` does.
unsafe impl Send for Card {}
// SAFETY: as above.
unsafe impl Sync for Card {}

impl Card {
    /// How many there are. The driver is loaded.
    pub fn count() -> Result<usize, String> {
        result::init().map_err(words)?;
        result::device::get_count().map(|n| n as usize).map_err(words)
    }

    pub fn open(ordinal: usize) -> Result<Arc<Card>, String> {
        let count = Card::count()?;
        if ordinal >= count {
            return Err(format!("there is no card {ordinal}: {count} of them are visible (CUDA_VISIBLE_DEVICES)"));
        }
        Card::opened(ordinal).map(Arc::new).map_err(|e| format!("card {ordinal}: {}", words(e)))
    }

    fn opened(ordinal: usize) -> Result<Card, DriverError> {
        let device = result::device::get(ordinal as i32)?;
        // SAFETY: the device exists; what is retained is released in `drop`.
        let (attribute, memory, context) = unsafe {
            let attribute = |which| result::device::get_attribute(device, which).map(|n| n as usize);
            (attribute, result::device::total_mem(device)?, result::primary_ctx::retain(device)?)
        };
        let arch = 10 * attribute(Attribute::CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR)?
            + attribute(Attribute::CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR)?;
        let facts = work::Card {
            arch: arch as u32,
            multiprocessors: attribute(Attribute::CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT)? as u32,
            shared: attribute(Attribute::CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_BLOCK_OPTIN)?,
            cudnn: None,
        };
        let (name, l2) = (result::device::get_name(device)?, attribute(Attribute::CU_DEVICE_ATTRIBUTE_L2_CACHE_SIZE)?);
        Ok(Card { ordinal, name, facts, memory, l2, device, context })
    }

    /// Makes the card this thread's.
    pub fn bind(&self) {
        // SAFETY: the context is retained as long as `self` lives.
        must("using a card on a thread", unsafe { result::ctx::set_current(self.context) });
    }

    /// Blocks until everything that was issued on any stream is done.
    pub fn synchronize(&self) {
        self.bind();
        must("waiting for the card", result::ctx::synchronize());
    }

    /// Bytes that nobody has.
    pub fn free(&self) -> usize {
        self.bind();
        must("asking for free memory", result::mem_get_info()).0
    }
}
impl Drop for Card {
    fn drop(&mut self) {
        // SAFETY: retained once, in `opened`. Nobody is left who could hear of a failure.
        let _ = unsafe { result::primary_ctx::release(self.device) };
    }
}

/// Memory of a card.
pub struct Memory {
    pub address: u64,
    pub bytes: usize,
    card: Arc<Card>,
}
impl Memory {
    /// Zeroed. An empty one has an address, too.
    pub fn new(card: &Arc<Card>, bytes: usize) -> Result<Memory, String> {
        card.bind();
        let size = bytes.max(work::ALIGN);
        let why = |e: DriverError| {
            format!("{bytes} bytes of memory of card {} ({} free): {}", card.ordinal, card.free(), words(e))
        };
        // SAFETY: the memory is freed once, in `drop`; the fill is over before anybody has the address.
        unsafe {
            let address = result::malloc_sync(size).map_err(why)?;
            let memory = Memory { address, bytes, card: card.clone() };
            result::memset_d8_async(address, 0, size, result::stream::null()).map_err(why)?;
            result::ctx::synchronize().map_err(why)?;
            Ok(memory)
        }
    }
}
impl Drop for Memory {
    fn drop(&mut self) {
        self.card.bind();
        // SAFETY: allocated once, in `new`; the driver waits for what still uses it.
        let _ = unsafe { result::free_sync(self.address) };
    }
}

/// Memory of the host that a card reads by itself.
pub struct Pinned {
    at: *mut u8,
    bytes: usize,
    card: Arc<Card>,
}
// SAFETY: an allocation, with one owner.
unsafe impl Send for Pinned {}
impl Pinned {
    pub fn new(card: &Arc<Card>, bytes: usize) -> Result<Pinned, String> {
        card.bind();
        // SAFETY: freed once, in `drop`.
        let at = unsafe { result::malloc_host(bytes, 0) }.map_err(|e| format!("{bytes} pinned bytes: {}", words(e)))?;
        Ok(Pinned { at: at.cast(), bytes, card: card.clone() })
    }
    /// Nothing that was issued reads it any more: the caller has waited for it.
    pub fn bytes(&mut self) -> &mut [u8] {
        // SAFETY: allocated with this size; borrowed mutably.
        unsafe { std::slice::from_raw_parts_mut(self.at, self.bytes) }
    }
}
impl Drop for Pinned {
    fn drop(&mut self) {
        self.card.bind();
        // SAFETY: allocated once, in `new`.
        let _ = unsafe { result::free_host(self.at.cast()) };
    }
}

/// A queue of work of a card.
pub struct Stream {
    pub(crate) raw: sys::CUstream,
    pub(crate) card: Arc<Card>,
}
// SAFETY: the driver's functions on a stream may be called from any thread.
unsafe impl Send for Stream {}
// SAFETY: as above.
unsafe impl Sync for Stream {}

impl Stream {
    /// Lanes that move data go first: what they free lets computation go on.
    pub fn new(card: &Arc<Card>, first: bool) -> Result<Stream, String> {
        card.bind();
        let create = || {
            let (_, highest) = result::stream::get_priority_range()?;
            let kind = result::stream::StreamKind::NonBlocking;
            result::stream::create_with_priority(kind, if first { highest } else { 0 })
        };
        Ok(Stream { raw: create().map_err(|e| format!("a stream: {}", words(e)))?, card: card.clone() })
    }
    /// What comes later on this stream begins after the event.
    pub fn wait(&self, event: &Event) {
        self.card.bind();
        let flags = sys::CUevent_wait_flags::CU_EVENT_WAIT_DEFAULT;
        // SAFETY: both are alive.
        must("waiting for an event", unsafe { result::stream::wait_event(self.raw, event.raw, flags) });
    }
    pub fn record(&self, event: &Event) {
        self.card.bind();
        // SAFETY: both are alive.
        must("recording an event", unsafe { result::event::record(event.raw, self.raw) });
    }
    /// Blocks until everything so far is done.
    pub fn synchronize(&self) {
        self.card.bind();
        // SAFETY: the stream is alive.
        must("waiting for the card", unsafe { result::stream::synchronize(self.raw) });
    }
    pub fn copy(&self, from: u64, to: u64, bytes: usize) {
        self.card.bind();
        // SAFETY: the caller's places are checked by an arena; streams and events order the access.
        must("copying on the card", unsafe { result::memcpy_dtod_async(to, from, bytes, self.raw) });
    }
    /// `from` is not written until the copy is over.
    pub(crate) fn upload(&self, from: &[u8], to: u64) {
        self.card.bind();
        // SAFETY: as for `copy`.
        must("copying to the card", unsafe { result::memcpy_htod_async(to, from, self.raw) });
    }
    /// Returns when `to` is written.
    pub fn download(&self, from: u64, to: &mut [u8]) {
        self.card.bind();
        // SAFETY: as for `copy`; `to` is borrowed until the copy is over.
        must("copying from the card", unsafe { result::memcpy_dtoh_async(to, from, self.raw) });
        self.synchronize();
    }

    /// `args` lie as C would lay them out.
    pub fn launch(&self, function: Function, grid: [u32; 3], block: u32, shared: usize, args: &[u8]) {
        self.card.bind();
        let mut size = args.len();
        // The driver's names for "a buffer", "its size" and "no more".
        let [buffer, buffer_size, end] = [1, 2, 0].map(std::ptr::without_provenance_mut::<c_void>);
        let mut extra = [buffer, args.as_ptr().cast_mut().cast(), buffer_size, (&raw mut size).cast(), end];
        let [x, y, z] = grid;
        // SAFETY: the function is of a module that is loaded; its arguments are what it was compiled for, and the places
        // among them are checked by an arena.
        let code = unsafe {
            let none = std::ptr::null_mut();
            let shared = shared as u32;
            sys::cuLaunchKernel(function.0, x, y, z, block, 1, 1, shared, self.raw, none, extra.as_mut_ptr())
        };
        must("launching a kernel", code.result());
    }
}
impl Drop for Stream {
    fn drop(&mut self) {
        self.card.bind();
        // SAFETY: created once; its work goes on to its end.
        let _ = unsafe { result::stream::destroy(self.raw) };
    }
}

/// A point of a stream.
pub struct Event {
    raw: sys::CUevent,
    card: Arc<Card>,
}
// SAFETY: the driver's functions on an event may be called from any thread.
unsafe impl Send for Event {}
// SAFETY: as above.
unsafe impl Sync for Event {}
impl Event {
    pub fn new(card: &Arc<Card>) -> Event {
        Event::with(card, sys::CUevent_flags::CU_EVENT_DISABLE_TIMING)
    }
    /// One that knows the time, see `seconds_until`.
    pub fn timed(card: &Arc<Card>) -> Event {
        Event::with(card, sys::CUevent_flags::CU_EVENT_DEFAULT)
    }
    fn with(card: &Arc<Card>, flags: sys::CUevent_flags) -> Event {
        card.bind();
        Event { raw: must("making an event", result::event::create(flags)), card: card.clone() }
    }
    /// Blocks until it is reached.
    pub fn synchronize(&self) {
        self.card.bind();
        // SAFETY: the event is alive.
        must("waiting for an event", unsafe { result::event::synchronize(self.raw) });
    }
    /// Both are timed, and reached.
    pub fn seconds_until(&self, later: &Event) -> f64 {
        // SAFETY: both are alive.
        f64::from(must("reading a clock", unsafe { result::event::elapsed(self.raw, later.raw) })) * 1e-3
    }
}
impl Drop for Event {
    fn drop(&mut self) {
        self.card.bind();
        // SAFETY: created once.
        let _ = unsafe { result::event::destroy(self.raw) };
    }
}

/// Compiled kernels on the card, for the life of the process: functions of it are plain handles.
pub struct Loaded(sys::CUmodule);
// SAFETY: a handle of the driver, which any thread may use.
unsafe impl Send for Loaded {}
// SAFETY: as above.
unsafe impl Sync for Loaded {}
#[derive(Clone, Copy)]
pub struct Function(sys::CUfunction);
// SAFETY: as for `Loaded`.
unsafe impl Send for Function {}
// SAFETY: as for `Loaded`.
unsafe impl Sync for Function {}

impl Loaded {
    pub fn new(card: &Card, cubin: &[u8]) -> Result<Loaded, String> {
        card.bind();
        // SAFETY: the driver reads the image, whose size stands in it, and keeps nothing of it.
        unsafe { result::module::load_data(cubin.as_ptr().cast()) }.map(Loaded).map_err(words)
    }
    /// A kernel that may ask for so many bytes of shared memory.
    pub fn function(&self, card: &Card, name: &str, shared: usize) -> Result<Function, String> {
        card.bind();
        let name = CString::new(name).expect("a name in C");
        // SAFETY: the module is never unloaded.
        unsafe {
            let function = result::module::get_function(self.0, name).map_err(words)?;
            if shared > DEFAULT_SHARED {
                let most = OfFunction::CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES;
                result::function::set_function_attribute(function, most, shared as i32).map_err(words)?;
            }
            Ok(Function(function))
        }
    }
}

/// Bytes of shared memory for which no kernel has to ask.
const DEFAULT_SHARED: usize = 48 << 10;
