//! MPI as a [`Transport`]: messages of bytes that do not block, between the processes that `mpiexec` started.
//!
//! No collective of MPI is called and no communicator is made: sums are ours, and each message has a peer that an error
//! can name. Which library it is, Open MPI or MPICH or one with the standard ABI, is found out at run time.
mod library;

use crate::processes::{Bytes, Processes, Request, Transport};
use library::{Abi, Mpi};
use std::ffi::c_int;
use std::path::PathBuf;
use std::time::Duration;

/// Who started the processes: which MPI they should load.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Launcher {
    /// The `mpirun` of Open MPI.
    OpenMpi,
    /// The `mpiexec` of MPICH and its relatives, or Slurm by the same protocol.
    Pmi,
    Unknown,
}

/// What is known before MPI is.
#[derive(Clone, Debug)]
pub struct MpiSettings {
    /// A library to load instead of those that the system finds.
    pub library: Option<PathBuf>,
    pub launcher: Launcher,
    /// Processes, as the launcher says.
    pub size: usize,
    /// A wait in which nothing moves for so long is an error.
    pub timeout: Duration,
}

#[derive(Debug, thiserror::Error)]
pub enum MpiError {
    #[error(
        "no MPI library: {}; install one (`apt install mpich`, or `pip install mpich` without root), or let \
         INTERNEVO_MPI_LIB name it, such as .../lib/libmpi_abi.so.1",
        tried.join("; ")
    )]
    NoLibrary { tried: Vec<String> },
    #[error("MPI is in use in this process already")]
    Twice,
    #[error("{version}: {what}")]
    Init { version: String, what: String },
    #[error(
        "{version} provides thread level {provided} where MPI_THREAD_MULTIPLE is {wanted}; use one built for threads"
    )]
    Threads { version: String, provided: i32, wanted: i32 },
    #[error(
        "the launcher started {launcher} processes, but {version} sees {mpi}: {library} is not the MPI of that \
         launcher; start with the mpiexec of this library, or let INTERNEVO_MPI_LIB name the launcher's"
    )]
    Size { launcher: usize, mpi: usize, version: String, library: String },
}

/// The MPI that a process without a launcher would take, and what it says of its version.
pub fn mpi_version(library: Option<PathBuf>) -> Result<(PathBuf, String), MpiError> {
    let names = library.map_or_else(any, |library| vec![library]);
    let (library, mpi) = Mpi::load(&names).map_err(|tried| MpiError::NoLibrary { tried })?;
    Ok((library, mpi.version()))
}

fn any() -> Vec<PathBuf> {
    MPICH.into_iter().chain(OPEN_MPI).map(PathBuf::from).collect()
}

/// This process, as one of those that an MPI launcher started. The second is the library's version, for a log.
pub fn mpi(settings: MpiSettings) -> Result<(Processes, String), MpiError> {
    let names = match (&settings.library, settings.launcher) {
        (Some(library), _) => vec![library.clone()],
        (None, Launcher::OpenMpi) => OPEN_MPI.map(PathBuf::from).to_vec(),
        (None, Launcher::Pmi) => MPICH.map(PathBuf::from).to_vec(),
        (None, Launcher::Unknown) => any(),
    };
    let (library, mpi) = Mpi::load(&names).map_err(|tried| MpiError::NoLibrary { tried })?;
    let version = mpi.version();
    let failed = |what| MpiError::Init { version: version.clone(), what };
    if mpi.is_initialized().map_err(failed)? {
        return Err(MpiError::Twice);
    }
    let provided = mpi.init().map_err(failed)?;
    if provided < mpi.multiple {
        return Err(MpiError::Threads { version, provided, wanted: mpi.multiple });
    }
    let (rank, size) = (mpi.rank().map_err(failed)?, mpi.size().map_err(failed)?);
    if size != settings.size {
        let library = library.display().to_string();
        return Err(MpiError::Size { launcher: settings.size, mpi: size, version, library });
    }
    let name = match mpi.abi {
        Abi::OpenMpi => "MPI (Open MPI)",
        Abi::Mpich => "MPI (MPICH)",
        Abi::Standard => "MPI (standard ABI)",
    };
    let wire = Wire { mpi, name, rank, size, requests: vec![], free: vec![] };
    Ok((Processes::new(Box::new(wire), settings.timeout), version))
}

const MPICH: [&str; 3] = ["libmpi_abi.so.1", "libmpi.so.12", "libmpich.so.12"];
const OPEN_MPI: [&str; 1] = ["libmpi.so.40"];

struct Wire {
    mpi: Mpi,
    name: &'static str,
    rank: usize,
    size: usize,
    /// MPI's handles, by our number.
    requests: Vec<library::Handle>,
    /// Numbers of those that are over.
    free: Vec<usize>,
}

impl Wire {
    fn keep(&mut self, handle: library::Handle) -> Request {
        match self.free.pop() {
            Some(number) => {
                self.requests[number] = handle;
                Request(number)
            }
            None => {
                self.requests.push(handle);
                Request(self.requests.len() - 1)
            }
        }
    }
}

fn int(n: usize) -> c_int {
    c_int::try_from(n).expect("messages are cut to what an int counts")
}

impl Transport for Wire {
    fn name(&self) -> &str {
        self.name
    }
    fn rank(&self) -> usize {
        self.rank
    }
    fn size(&self) -> usize {
        self.size
    }
    unsafe fn send(&mut self, to: usize, tag: u16, bytes: Bytes) -> Result<Request, String> {
        let (mpi, mut handle) = (&self.mpi, 0);
        // SAFETY: the caller keeps the bytes until the request is over; handles are of this library.
        mpi.done(unsafe {
            (mpi.isend)(bytes.at.cast(), int(bytes.len), mpi.byte, int(to), tag.into(), mpi.world, &mut handle)
        })?;
        Ok(self.keep(handle))
    }
    unsafe fn receive(&mut self, from: usize, tag: u16, bytes: Bytes) -> Result<Request, String> {
        let (mpi, mut handle) = (&self.mpi, 0);
        // SAFETY: as for `send`.
        mpi.done(unsafe {
            (mpi.irecv)(bytes.at.cast(), int(bytes.len), mpi.byte, int(from), tag.into(), mpi.world, &mut handle)
        })?;
        Ok(self.keep(handle))
    }
    fn test(&mut self, request: &Request) -> Result<bool, String> {
        let over = self.mpi.test(&mut self.requests[request.0])?;
        if over {
            self.free.push(request.0);
        }
        Ok(over)
    }
    fn cancel(&mut self, receive: &Request) -> Result<bool, String> {
        self.mpi.cancel(&mut self.requests[receive.0])?;
        // At once, unless the message is on its way; then it depends on the sender.
        for _ in 0..1000 {
            if self.test(receive)? {
                return Ok(true);
            }
            std::thread::yield_now();
        }
        Ok(false)
    }
    fn waiting(&mut self, from: usize, tag: u16) -> Result<bool, String> {
        self.mpi.probe(int(from), tag.into())
    }
    /// Its launcher ends all processes when one fails.
    fn ended(&mut self, _: usize) -> bool {
        false
    }
    fn ends_together(&self) -> bool {
        true
    }
    fn close(&mut self) -> Result<(), String> {
        self.mpi.finalize()
    }
}
