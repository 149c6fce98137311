//! A transport between threads: the engine of processes without processes, for the suite.
use comm::{Bytes, Request, Transport};
use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex};

/// From, to and tag.
type Address = (usize, usize, u16);

/// Messages that were sent and not received, in order. A send is over at once: its bytes are copied.
#[derive(Default)]
struct Post(HashMap<Address, VecDeque<Vec<u8>>>);

pub struct Mailbox {
    rank: usize,
    size: usize,
    post: Arc<Mutex<Post>>,
    /// Receives that wait for a message, by address, in order.
    open: HashMap<Address, VecDeque<(usize, Bytes)>>,
    /// Address of each receive that is not over.
    asked: HashMap<usize, Address>,
    last: usize,
}

pub fn mailboxes(size: usize) -> Vec<Mailbox> {
    let post = Arc::new(Mutex::default());
    let one =
        |rank| Mailbox { rank, size, post: Arc::clone(&post), open: HashMap::new(), asked: HashMap::new(), last: 0 };
    (0..size).map(one).collect()
}

impl Transport for Mailbox {
    fn name(&self) -> &str {
        "mailboxes"
    }
    fn rank(&self) -> usize {
        self.rank
    }
    fn size(&self) -> usize {
        self.size
    }
    unsafe fn send(&mut self, to: usize, tag: u16, bytes: Bytes) -> Result<Request, String> {
        // SAFETY: the caller says that it can be read.
        let copy = unsafe { std::slice::from_raw_parts(bytes.at, bytes.len) }.to_vec();
        self.post.lock().unwrap().0.entry((self.rank, to, tag)).or_default().push_back(copy);
        self.last += 1;
        Ok(Request(self.last))
    }
    unsafe fn receive(&mut self, from: usize, tag: u16, bytes: Bytes) -> Result<Request, String> {
        self.last += 1;
        let address = (from, self.rank, tag);
        self.open.entry(address).or_default().push_back((self.last, bytes));
        self.asked.insert(self.last, address);
        Ok(Request(self.last))
    }
    fn test(&mut self, request: &Request) -> Result<bool, String> {
        // A send.
        let Some(address) = self.asked.get(&request.0).copied() else { return Ok(true) };
        let open = self.open.get_mut(&address).unwrap();
        let mut post = self.post.lock().unwrap();
        let post = post.0.entry(address).or_default();
        while let (Some((number, bytes)), false) = (open.front(), post.is_empty()) {
            let message = post.pop_front().unwrap();
            assert_eq!(message.len(), bytes.len, "a message of another length than its receive, {address:?}");
            // SAFETY: the caller of `receive` says that it can be written.
            unsafe { std::ptr::copy_nonoverlapping(message.as_ptr(), bytes.at, bytes.len) };
            self.asked.remove(number);
            open.pop_front();
        }
        Ok(!self.asked.contains_key(&request.0))
    }
    fn cancel(&mut self, receive: &Request) -> Result<bool, String> {
        let address = self.asked.remove(&receive.0).unwrap();
        self.open.get_mut(&address).unwrap().retain(|(number, _)| *number != receive.0);
        Ok(true)
    }
    fn waiting(&mut self, from: usize, tag: u16) -> Result<bool, String> {
        let post = self.post.lock().unwrap();
        Ok(post.0.get(&(from, self.rank, tag)).is_some_and(|messages| !messages.is_empty()))
    }
    fn ended(&mut self, _: usize) -> bool {
        false
    }
    fn close(&mut self) -> Result<(), String> {
        assert!(self.asked.is_empty(), "receives are under way: {:?}", self.asked);
        Ok(())
    }
}
