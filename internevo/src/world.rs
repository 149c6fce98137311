//! This process among the others that a launcher has started: how they meet, and the engine between them.
use crate::control::Control;
use crate::environment::{mpi_library, var};
use crate::job::TIMEOUT;
use anyhow::{Context, Result, bail};
use comm::launch::{self, Kind, Launch};
use comm::store::{Meeting, Secret, Store};
use comm::{Launcher, MpiSettings, Processes};
use plan::RankId;
use rustix::fs::{MemfdFlags, memfd_create};
use std::fs::{self, File};
use std::net::TcpListener;
use std::os::fd::{AsFd, AsRawFd};
use std::path::PathBuf;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// For all ranks to come, from the first to the last.
pub const ARRIVAL: Duration = Duration::from_secs(60);

pub fn detect() -> Result<Launch> {
    Ok(launch::detect(&var)?)
}

/// Which ranks this process is.
#[derive(Clone, Copy, Debug)]
pub struct Place {
    pub world: usize,
    /// None: all of them, as threads.
    pub own: Option<RankId>,
    /// Ranks on this machine.
    pub here: usize,
}

impl Place {
    /// `asked` is what `--ranks` says, if it is there.
    pub fn new(launch: &Launch, asked: Option<u16>) -> Result<Place> {
        match (launch.world, asked.map(usize::from)) {
            (1, asked) => {
                let world = asked.unwrap_or(1);
                Ok(Place { world, own: None, here: world })
            }
            (world, Some(asked)) if asked != world => {
                bail!("{launch}, but --ranks says {asked}; leave it out: each process is a rank")
            }
            (world, _) => {
                Ok(Place { world, own: Some(RankId(launch.rank)), here: launch.local_world.unwrap_or(world) })
            }
        }
    }
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

// ---- engines -------------------------------------------------------------------------------------------------------

/// The engine between the processes, and its name: the MPI of a launcher that has one, else memory that they share.
pub fn engine(launch: &Launch, control: &mut Control) -> Result<(Processes, String)> {
    let mpi = match launch.kind {
        Kind::Internevo | Kind::Torchrun => None,
        Kind::OpenMpi => Some(Launcher::OpenMpi),
        Kind::Pmi => Some(Launcher::Pmi),
        // `srun --mpi=pmix` is for Open MPI; without it MPI finds out, or says that each process is alone.
        Kind::Slurm => Some(if var("PMIX_RANK").is_some() { Launcher::OpenMpi } else { Launcher::Unknown }),
        Kind::Alone => unreachable!("nobody has started several processes"),
    };
    let (engine, name) = match mpi {
        None => (shared(launch, control)?, "shared memory".into()),
        Some(launcher) => {
            let settings = MpiSettings { library: mpi_library(), launcher, size: launch.world, timeout: TIMEOUT };
            comm::mpi(settings)?
        }
    };
    launch.agrees(&name, comm::Engine::rank(&engine), engine.size())?;
    Ok((engine, name))
}

/// Memory without a name: it goes with the last process that has it, however that ends.
fn shared(launch: &Launch, control: &mut Control) -> Result<Processes> {
    one_host(launch, control)?;
    let mut made = None;
    let path = control.agree(|| {
        let memory = memfd_create("internevo", MemfdFlags::CLOEXEC).context("no memory to share")?;
        let memory = File::from(memory);
        memory.set_len(comm::shared_bytes(launch.world) as u64).context("no memory to share")?;
        let path = PathBuf::from(format!("/proc/{}/fd/{}", std::process::id(), memory.as_raw_fd()));
        made = Some(memory);
        Ok(path)
    })?;
    let memory = match made {
        Some(memory) => memory,
        None => File::options().read(true).write(true).open(&path).with_context(|| {
            format!(
                "cannot open the memory of rank 0 at {}: ranks share memory as one user, outside of containers or in one; else start them with mpirun or srun",
                path.display()
            )
        })?,
    };
    let engine = comm::shared(&memory, launch.rank, launch.world, TIMEOUT)?;
    // Rank 0 keeps it open until all have it.
    control.gather(())?;
    control.agree(|| Ok(()))?;
    Ok(engine)
}

fn one_host(launch: &Launch, control: &mut Control) -> Result<()> {
    let name = "/proc/sys/kernel/random/boot_id";
    let boot = fs::read_to_string(name).with_context(|| format!("cannot read {name}, which tells hosts apart"))?;
    let all = control.gather(boot)?;
    control.agree(|| {
        let away: Vec<usize> = (0..all.len()).filter(|&rank| all[rank] != all[0]).collect();
        if away.is_empty() {
            return Ok(());
        }
        bail!(
            "ranks {away:?} are on another host than rank 0, and {} has no engine between hosts: on CPUs start the ranks with mpirun or srun",
            launch.kind
        )
    })
}

/// How long after rank 0 this rank comes to the same point: their timelines have one origin.
pub fn after_first(control: &mut Control) -> Result<Duration> {
    let now = || SystemTime::now().duration_since(UNIX_EPOCH).expect("the clock is past 1970");
    let first: Duration = control.agree(|| Ok(now()))?;
    // Clocks of several hosts may differ by more than a word takes.
    Ok(if control.leads() { Duration::ZERO } else { now().saturating_sub(first) })
}
