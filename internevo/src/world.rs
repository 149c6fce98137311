//! This process among the others that a launcher has started.
use crate::environment::var;
use anyhow::{Context, Result, bail};
use comm::launch::{self, Kind, Launch};
use comm::store::{Meeting, Secret, Store};
use std::net::TcpListener;
use std::os::fd::AsFd;
use std::time::Duration;

/// For all ranks to come, from the first to the last.
pub const ARRIVAL: Duration = Duration::from_secs(60);

pub fn detect() -> Result<Launch> {
    Ok(launch::detect(&var)?)
}

/// A training takes one process by now. Under a launcher each of them would train the whole model.
pub fn single_process() -> Result<()> {
    let launch = detect()?;
    if launch.world > 1 {
        bail!(
            "{launch}, and training in several processes is not there yet: start one process; `--ranks {}` makes ranks that are its threads",
            launch.world
        );
    }
    Ok(())
}

/// Meets the other ranks.
pub fn join(launch: &Launch) -> Result<Store> {
    let (address, port) = launch.endpoint()?;
    let meeting = Meeting {
        address: address.into(),
        port,
        rank: launch.rank,
        world: launch.world,
        job: launch.job.clone(),
        secret: secret()?,
        timeout: ARRIVAL,
    };
    match (launch.kind, launch.rank) {
        (Kind::Internevo, 0) => Ok(Store::host(inherited(port)?, &meeting)?),
        (_, _) => Ok(Store::join(&meeting)?),
    }
}

pub fn secret() -> Result<Option<Secret>> {
    let text = var(launch::SECRET).filter(|text| !text.is_empty());
    text.map(Secret::new).transpose().context(launch::SECRET)
}

/// `internevo launch` gives rank 0 the socket as its standard input, as inetd did: the port is taken before any rank
/// starts, and no other program can get it in between.
fn inherited(port: u16) -> Result<TcpListener> {
    let socket =
        std::io::stdin().as_fd().try_clone_to_owned().context("cannot take the socket of `internevo launch`")?;
    let listener = TcpListener::from(socket);
    match listener.local_addr() {
        Ok(address) if address.port() == port => Ok(listener),
        _ => bail!(
            "the standard input of rank 0 is not the socket that `internevo launch` gave it for port {port}; a program in between must hand it on"
        ),
    }
}
