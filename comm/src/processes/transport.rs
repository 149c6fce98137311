//! What an engine of processes needs to be able to do: pass messages of bytes from one process to another.

/// A message under way, as its transport knows it.
#[derive(Debug)]
pub struct Request(pub usize);

/// Bytes of somebody, by address.
#[derive(Clone, Copy, Debug)]
pub struct Bytes {
    pub at: *mut u8,
    pub len: usize,
}
// SAFETY: an address by itself; who may follow it is decided where it is followed.
unsafe impl Send for Bytes {}

impl Bytes {
    pub fn of(bytes: &mut [u8]) -> Bytes {
        Bytes { at: bytes.as_mut_ptr(), len: bytes.len() }
    }
    /// Without the first `len`.
    pub fn skip(&mut self, len: usize) {
        assert!(len <= self.len, "{len} of {} bytes", self.len);
        *self = Bytes { at: self.at.wrapping_add(len), len: self.len - len };
    }
}

/// Messages between the processes of a world. Those from one process to another with the same tag arrive in the order in
/// which they were sent, and are received in the order in which receives were started; tags do not wait for each other.
/// An error, in the words of the transport, leaves it usable.
pub trait Transport: Send {
    /// As errors name it.
    fn name(&self) -> &str;
    fn rank(&self) -> usize;
    fn size(&self) -> usize;
    /// # Safety
    /// `bytes` can be read, and nobody writes there, until `test` says that the message is over.
    unsafe fn send(&mut self, to: usize, tag: u16, bytes: Bytes) -> Result<Request, String>;
    /// The message that comes has the length of `bytes`.
    ///
    /// # Safety
    /// `bytes` can be written, and nobody else looks there, until `test` says that the message is over.
    unsafe fn receive(&mut self, from: usize, tag: u16, bytes: Bytes) -> Result<Request, String>;
    /// Whether the message is over; if so, its request is.
    fn test(&mut self, request: &Request) -> Result<bool, String>;
    /// Ends a receive whose message is not wanted any more. False: it is under way, nobody knows for how long.
    fn cancel(&mut self, receive: &Request) -> Result<bool, String>;
    /// Whether a message waits to be received.
    fn waiting(&mut self, from: usize, tag: u16) -> Result<bool, String>;
    /// Whether a process has ended, as far as is known here.
    fn ended(&mut self, rank: usize) -> bool;
    /// Whether `close` wants all processes, with no message left anywhere.
    fn ends_together(&self) -> bool;
    /// The last call. Nothing of this process is under way.
    fn close(&mut self) -> Result<(), String>;
}
