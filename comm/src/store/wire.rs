//! What goes over a connection: who one is, then requests and replies in frames that carry a tag.
//!
//! ```text
//! rank      magic 8 | version 4 | world 4 | rank 4 | nonce 32       numbers are little-endian
//! rank 0    nonce 32 | proof 32                                     it knows the secret
//! rank      proof 32                                                so does the rank
//! both      length 4 | body | tag 32                                tag over a counter and the body
//! ```
//!
//! Proofs and keys are over both nonces, so nothing of one connection is good on another; each direction has a key of
//! its own and counts its frames, so none can be repeated, dropped or sent back.
use super::secret::{Key, Tag, nonce};
use std::io::{self, Read, Write};
use std::net::TcpStream;
use std::time::Duration;

pub const VERSION: u32 = 1;
const MAGIC: &[u8; 8] = b"intrnevo";
/// Of a value. The store is for words between ranks; tensors have the engine.
pub const MAX_VALUE: usize = 64 << 10;
pub const MAX_KEY: usize = 1 << 10;
const MAX_BODY: usize = MAX_VALUE + MAX_KEY + 64;

/// Who connects.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Hello {
    pub version: u32,
    pub world: u32,
    pub rank: u32,
    nonce: [u8; 32],
}

impl Hello {
    const BYTES: usize = 52;

    pub fn new(rank: usize, world: usize) -> Hello {
        let [rank, world] = [rank, world].map(|n| n.try_into().expect("fewer than 2^32 ranks"));
        Hello { version: VERSION, world, rank, nonce: nonce() }
    }

    fn to_bytes(self) -> [u8; Hello::BYTES] {
        let mut out = [0; Hello::BYTES];
        out[..8].copy_from_slice(MAGIC);
        for (i, number) in [self.version, self.world, self.rank].into_iter().enumerate() {
            out[8 + 4 * i..][..4].copy_from_slice(&number.to_le_bytes());
        }
        out[20..].copy_from_slice(&self.nonce);
        out
    }

    /// None from a stranger.
    fn from_bytes(bytes: &[u8; Hello::BYTES]) -> Option<Hello> {
        let number = |at: usize| u32::from_le_bytes(bytes[at..at + 4].try_into().unwrap());
        let nonce = bytes[20..].try_into().unwrap();
        (&bytes[..8] == MAGIC).then(|| Hello { version: number(8), world: number(12), rank: number(16), nonce })
    }
}

/// The side of a rank. None: the other end does not know the secret.
pub fn greet(mut stream: TcpStream, key: &Key, hello: Hello) -> io::Result<Option<Channel>> {
    let sent = hello.to_bytes();
    stream.write_all(&sent)?;
    let [theirs, proof] = [read(&mut stream)?, read(&mut stream)?];
    if !key.verifies(&[b"rank 0 proves", &sent, &theirs], &proof) {
        return Ok(None);
    }
    stream.write_all(&key.tag(&[b"a rank proves", &sent, &theirs]))?;
    let [up, down] = keys(key, &sent, &theirs);
    Ok(Some(Channel { stream, send: Half::new(up), receive: Half::new(down) }))
}

/// The side of rank 0. None: a stranger, who learns nothing that helps to be taken for a rank.
pub fn welcome(mut stream: TcpStream, key: &Key) -> io::Result<Option<(Hello, Channel)>> {
    let received = read(&mut stream)?;
    let Some(hello) = Hello::from_bytes(&received) else { return Ok(None) };
    let ours = nonce();
    stream.write_all(&[ours, key.tag(&[b"rank 0 proves", &received, &ours])].concat())?;
    let proof = read(&mut stream)?;
    if !key.verifies(&[b"a rank proves", &received, &ours], &proof) {
        return Ok(None);
    }
    let [up, down] = keys(key, &received, &ours);
    Ok(Some((hello, Channel { stream, send: Half::new(down), receive: Half::new(up) })))
}

fn keys(key: &Key, hello: &[u8], nonce: &[u8]) -> [Key; 2] {
    [b"to rank 0".as_slice(), b"from rank 0"].map(|purpose| key.derive(&[purpose, hello, nonce]))
}

fn read<const N: usize>(stream: &mut TcpStream) -> io::Result<[u8; N]> {
    let mut out = [0; N];
    stream.read_exact(&mut out)?;
    Ok(out)
}

/// A connection whose ends have proved that they know the secret.
pub struct Channel {
    pub stream: TcpStream,
    send: Half,
    receive: Half,
}

struct Half {
    key: Key,
    frames: u64,
}

impl Half {
    fn new(key: Key) -> Half {
        Half { key, frames: 0 }
    }

    fn count(&mut self) -> [u8; 8] {
        self.frames += 1;
        self.frames.to_le_bytes()
    }
}

impl Channel {
    pub fn send(&mut self, body: &[u8]) -> io::Result<()> {
        assert!(body.len() <= MAX_BODY, "a frame of {} bytes, {MAX_BODY} at most", body.len());
        let count = self.send.count();
        let tag = self.send.key.tag(&[&count, body]);
        let length = (body.len() as u32).to_le_bytes();
        self.stream.write_all(&[&length, body, &tag].concat())
    }

    pub fn receive(&mut self) -> io::Result<Vec<u8>> {
        let broken = |what| io::Error::new(io::ErrorKind::InvalidData, what);
        let length = u32::from_le_bytes(read(&mut self.stream)?) as usize;
        if length > MAX_BODY {
            return Err(broken("a frame is too long"));
        }
        let mut body = vec![0; length];
        self.stream.read_exact(&mut body)?;
        let tag: Tag = read(&mut self.stream)?;
        let count = self.receive.count();
        match self.receive.key.verifies(&[&count, &body], &tag) {
            true => Ok(body),
            false => Err(broken("a frame is not authentic")),
        }
    }

    /// Whether the other end is there and has nothing to say, without waiting for it.
    pub fn is_quiet(&self) -> bool {
        let look = || {
            self.stream.set_nonblocking(true)?;
            let seen = self.stream.peek(&mut [0]);
            self.stream.set_nonblocking(false)?;
            seen
        };
        matches!(look(), Err(e) if e.kind() == io::ErrorKind::WouldBlock)
    }
}

// ---- bodies --------------------------------------------------------------------------------------------------------

/// What a rank asks.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Request {
    Set(Vec<u8>),
    Get,
    Remove,
    Wait(Duration),
    Add(i64),
    Leave,
}

/// What rank 0 answers.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Reply {
    Done,
    Value(Vec<u8>),
    Absent,
    Number(i64),
    NotANumber,
    TimedOut,
    Gone { rank: u32, why: String },
    Refused(String),
}

impl Request {
    pub fn encode(&self, key: &str) -> Vec<u8> {
        assert!(key.len() <= MAX_KEY, "a key of {} bytes, {MAX_KEY} at most", key.len());
        let (tag, rest) = match self {
            Request::Set(value) => (0, value.clone()),
            Request::Get => (1, vec![]),
            Request::Remove => (2, vec![]),
            Request::Wait(timeout) => (3, (timeout.as_millis() as u64).to_le_bytes().into()),
            Request::Add(delta) => (4, delta.to_le_bytes().into()),
            Request::Leave => (5, vec![]),
        };
        [&[tag], &(key.len() as u16).to_le_bytes()[..], key.as_bytes(), &rest].concat()
    }

    pub fn decode(body: &[u8]) -> Option<(String, Request)> {
        let (&tag, body) = body.split_first()?;
        let (length, body) = body.split_first_chunk()?;
        let (key, rest) = body.split_at_checked(u16::from_le_bytes(*length).into())?;
        let request = match (tag, rest.len()) {
            (0, 0..=MAX_VALUE) => Request::Set(rest.into()),
            (1, 0) => Request::Get,
            (2, 0) => Request::Remove,
            (3, 8) => Request::Wait(Duration::from_millis(u64::from_le_bytes(rest.try_into().ok()?))),
            (4, 8) => Request::Add(i64::from_le_bytes(rest.try_into().ok()?)),
            (5, 0) => Request::Leave,
            (_, _) => return None,
        };
        Some((String::from_utf8(key.into()).ok()?, request))
    }
}

impl Reply {
    pub fn encode(&self) -> Vec<u8> {
        let with = |tag: u8, rest: &[u8]| [&[tag], rest].concat();
        match self {
            Reply::Done => with(0, &[]),
            Reply::Value(value) => with(1, value),
            Reply::Absent => with(2, &[]),
            Reply::Number(number) => with(3, &number.to_le_bytes()),
            Reply::NotANumber => with(4, &[]),
            Reply::TimedOut => with(5, &[]),
            Reply::Gone { rank, why } => with(6, &[&rank.to_le_bytes(), why.as_bytes()].concat()),
            Reply::Refused(why) => with(7, why.as_bytes()),
        }
    }

    pub fn decode(body: &[u8]) -> Option<Reply> {
        let (&tag, rest) = body.split_first()?;
        let text = |bytes: &[u8]| String::from_utf8(bytes.into()).ok();
        Some(match (tag, rest.len()) {
            (0, 0) => Reply::Done,
            (1, 0..=MAX_VALUE) => Reply::Value(rest.into()),
            (2, 0) => Reply::Absent,
            (3, 8) => Reply::Number(i64::from_le_bytes(rest.try_into().ok()?)),
            (4, 0) => Reply::NotANumber,
            (5, 0) => Reply::TimedOut,
            (6, 4..) => {
                let (rank, why) = rest.split_first_chunk()?;
                Reply::Gone { rank: u32::from_le_bytes(*rank), why: text(why)? }
            }
            (7, _) => Reply::Refused(text(rest)?),
            (_, _) => return None,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn requests() -> impl Strategy<Value = Request> {
        prop_oneof![
            prop::collection::vec(any::<u8>(), 0..100).prop_map(Request::Set),
            Just(Request::Get),
            Just(Request::Remove),
            any::<u64>().prop_map(|ms| Request::Wait(Duration::from_millis(ms))),
            any::<i64>().prop_map(Request::Add),
            Just(Request::Leave),
        ]
    }
    fn replies() -> impl Strategy<Value = Reply> {
        prop_oneof![
            Just(Reply::Done),
            prop::collection::vec(any::<u8>(), 0..100).prop_map(Reply::Value),
            Just(Reply::Absent),
            any::<i64>().prop_map(Reply::Number),
            Just(Reply::NotANumber),
            Just(Reply::TimedOut),
            (any::<u32>(), ".*").prop_map(|(rank, why)| Reply::Gone { rank, why }),
            ".*".prop_map(Reply::Refused),
        ]
    }

    proptest! {
        #[test]
        fn bodies_come_back(key in "[a-z/0-9é]{0,40}", request in requests(), reply in replies()) {
            prop_assert_eq!(Request::decode(&request.encode(&key)), Some((key, request)));
            prop_assert_eq!(Reply::decode(&reply.encode()), Some(reply));
        }
        #[test]
        fn no_body_panics(body in prop::collection::vec(any::<u8>(), 0..40)) {
            let _ = (Request::decode(&body), Reply::decode(&body));
        }
    }

    #[test]
    fn a_hello_comes_back_and_a_stranger_does_not() {
        let hello = Hello::new(3, 4);
        assert_eq!(Hello::from_bytes(&hello.to_bytes()), Some(hello));
        assert_eq!(Hello::from_bytes(&[b'G'; Hello::BYTES]), None);
    }
}
