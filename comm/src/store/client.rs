//! The store's side of every other rank: one connection, one question at a time.
use super::server::limits;
use super::wire::{self, Channel, Hello, Reply, Request};
use super::{Meeting, StoreError};
use std::io;
use std::net::{TcpStream, ToSocketAddrs};
use std::thread;
use std::time::{Duration, Instant};

/// Between two tries to connect: rank 0 may start later.
const AGAIN: Duration = Duration::from_millis(50);
/// What an answer may take beyond the time the question takes.
const SLACK: Duration = Duration::from_secs(10);

pub struct Client {
    channel: Channel,
    address: String,
    /// After an error the next reply could be the answer to an older question.
    failed: Option<StoreError>,
}

impl Client {
    /// Returns when all ranks are there.
    pub fn connect(meeting: &Meeting) -> Result<Client, StoreError> {
        let address = meeting.to_string();
        let lost = |error: io::Error| StoreError::Lost { address: address.clone(), error: error.to_string() };
        let stream = reach(meeting)?;
        limits(&stream, meeting.timeout + SLACK).map_err(lost)?;
        let greeted = wire::greet(stream, &meeting.key(), Hello::new(meeting.rank, meeting.world)).map_err(lost)?;
        let Some(channel) = greeted else {
            return Err(StoreError::Stranger { address });
        };
        let mut client = Client { channel, address, failed: None };
        match client.receive()? {
            Reply::Done => Ok(client),
            Reply::Refused(why) => Err(StoreError::Refused { address: client.address, why }),
            other => Err(client.nonsense(&other)),
        }
    }

    pub fn ask(&mut self, key: &str, request: Request) -> Result<Reply, StoreError> {
        if let Some(error) = &self.failed {
            return Err(error.clone());
        }
        let takes = match request {
            Request::Wait(timeout) => timeout,
            _ => Duration::ZERO,
        };
        let asked = limits(&self.channel.stream, takes.saturating_add(SLACK))
            .and_then(|()| self.channel.send(&request.encode(key)));
        match asked {
            Ok(()) => self.receive(),
            Err(error) => Err(self.fail(error.to_string())),
        }
    }

    fn receive(&mut self) -> Result<Reply, StoreError> {
        let received = self.channel.receive();
        match received.map(|body| Reply::decode(&body)) {
            Ok(Some(reply)) => Ok(reply),
            Ok(None) => Err(self.fail("it sent a reply that does not exist".into())),
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => Err(self.fail("the connection ended".into())),
            Err(error) => Err(self.fail(error.to_string())),
        }
    }

    fn fail(&mut self, error: String) -> StoreError {
        let error = StoreError::Lost { address: self.address.clone(), error };
        self.failed = Some(error.clone());
        error
    }

    pub fn nonsense(&mut self, reply: &Reply) -> StoreError {
        self.fail(format!("it answered {reply:?} to another question"))
    }
}

/// Tries until rank 0 listens or the time is over.
fn reach(meeting: &Meeting) -> Result<TcpStream, StoreError> {
    let began = Instant::now();
    loop {
        let left = meeting.timeout.saturating_sub(began.elapsed());
        match try_once(meeting, left.max(AGAIN)) {
            Ok(stream) => return Ok(stream),
            Err(error) if left.is_zero() => {
                return Err(StoreError::Unreachable {
                    address: meeting.to_string(),
                    timeout: meeting.timeout,
                    error: error.to_string(),
                });
            }
            Err(_) => thread::sleep(AGAIN),
        }
    }
}

fn try_once(meeting: &Meeting, left: Duration) -> io::Result<TcpStream> {
    let mut last = io::Error::new(io::ErrorKind::NotFound, "the name has no address");
    for address in (meeting.address.as_str(), meeting.port).to_socket_addrs()? {
        match TcpStream::connect_timeout(&address, left) {
            // Where nobody listens, TCP may connect a port to itself.
            Ok(stream) if stream.local_addr()? == stream.peer_addr()? => {}
            Ok(stream) => return Ok(stream),
            Err(error) => last = error,
        }
    }
    Err(last)
}
