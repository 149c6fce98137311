//! An MPI library, found at run time: the dozen functions that we call, and the three ways to spell a handle.
//!
//! A handle is a pointer in Open MPI and in the standard ABI of MPI 5, and an `int` in MPICH and its relatives. Here it
//! is a `usize`: on x86-64 and AArch64 a callee that wants an `int` looks at the low half of the register, and an `int`
//! that is written through a pointer fills the low half of a zeroed `usize`. Arrays of handles are never passed.
use libloading::os::unix::{Library, RTLD_GLOBAL, RTLD_NOW};
use std::error::Error;
use std::ffi::{c_char, c_int, c_void};
use std::path::{Path, PathBuf};
use std::ptr;

pub type Handle = usize;

/// How a library spells its constants.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Abi {
    OpenMpi,
    Mpich,
    /// Of MPI 5: `libmpi_abi`.
    Standard,
}

pub struct Mpi {
    pub abi: Abi,
    pub world: Handle,
    pub byte: Handle,
    errors_return: Handle,
    status_ignore: *mut c_void,
    /// The level of thread support that we ask for.
    pub multiple: c_int,
    init_thread: unsafe extern "C" fn(*mut c_int, *mut c_void, c_int, *mut c_int) -> c_int,
    initialized: unsafe extern "C" fn(*mut c_int) -> c_int,
    finalize: unsafe extern "C" fn() -> c_int,
    rank: unsafe extern "C" fn(Handle, *mut c_int) -> c_int,
    size: unsafe extern "C" fn(Handle, *mut c_int) -> c_int,
    set_errhandler: unsafe extern "C" fn(Handle, Handle) -> c_int,
    error_string: unsafe extern "C" fn(c_int, *mut c_char, *mut c_int) -> c_int,
    library_version: unsafe extern "C" fn(*mut c_char, *mut c_int) -> c_int,
    pub isend: unsafe extern "C" fn(*const c_void, c_int, Handle, c_int, c_int, Handle, *mut Handle) -> c_int,
    pub irecv: unsafe extern "C" fn(*mut c_void, c_int, Handle, c_int, c_int, Handle, *mut Handle) -> c_int,
    test: unsafe extern "C" fn(*mut Handle, *mut c_int, *mut c_void) -> c_int,
    cancel: unsafe extern "C" fn(*mut Handle) -> c_int,
    iprobe: unsafe extern "C" fn(c_int, c_int, Handle, *mut c_int, *mut c_void) -> c_int,
}
// SAFETY: function pointers, and constants that are addresses only to MPI. It is called by one thread at a time.
unsafe impl Send for Mpi {}

/// What any MPI has room for in a text.
const TEXT: usize = 8192;

impl Mpi {
    /// The first of `names` that is there, and what became of those before it.
    pub fn load(names: &[PathBuf]) -> Result<(PathBuf, Mpi), Vec<String>> {
        let mut tried = vec![];
        for name in names {
            // SAFETY: an MPI library may be loaded anywhere; what the user names is run, as any program that the user
            // names. Open MPI's plugins look for its symbols: RTLD_GLOBAL.
            match unsafe { Library::open(Some(name), RTLD_NOW | RTLD_GLOBAL) } {
                Ok(library) => match Mpi::bind(&library, name) {
                    Ok(mpi) => {
                        // MPI has threads and exit handlers: its code must stay to the end.
                        std::mem::forget(library);
                        return Ok((name.clone(), mpi));
                    }
                    Err(missing) => tried.push(cause(&missing)),
                },
                Err(error) => tried.push(cause(&error)),
            }
        }
        Err(tried)
    }

    fn bind(library: &Library, name: &Path) -> Result<Mpi, libloading::Error> {
        let address = |symbol: &str| get::<*const c_void>(library, symbol).map(|at| at as Handle);
        let abi = if name.to_string_lossy().contains("mpi_abi") {
            Abi::Standard
        } else if address("ompi_mpi_comm_world").is_ok() {
            Abi::OpenMpi
        } else if address("MPI_Abi_get_version").is_ok() && address("MPIR_Dup_fn").is_err() {
            Abi::Standard
        } else {
            Abi::Mpich
        };
        let (world, byte, errors_return, status_ignore, multiple) = match abi {
            Abi::OpenMpi => {
                let [world, byte, errors] =
                    [address("ompi_mpi_comm_world")?, address("ompi_mpi_byte")?, address("ompi_mpi_errors_return")?];
                (world, byte, errors, 0, 3)
            }
            Abi::Mpich => (0x44000000, 0x4c00010d, 0x54000001, 1, 3),
            Abi::Standard => (0x101, 0x247, 0x143, 0, 4096),
        };
        Ok(Mpi {
            abi,
            world,
            byte,
            errors_return,
            status_ignore: ptr::without_provenance_mut(status_ignore),
            multiple,
            init_thread: get(library, "MPI_Init_thread")?,
            initialized: get(library, "MPI_Initialized")?,
            finalize: get(library, "MPI_Finalize")?,
            rank: get(library, "MPI_Comm_rank")?,
            size: get(library, "MPI_Comm_size")?,
            set_errhandler: get(library, "MPI_Comm_set_errhandler")?,
            error_string: get(library, "MPI_Error_string")?,
            library_version: get(library, "MPI_Get_library_version")?,
            isend: get(library, "MPI_Isend")?,
            irecv: get(library, "MPI_Irecv")?,
            test: get(library, "MPI_Test")?,
            cancel: get(library, "MPI_Cancel")?,
            iprobe: get(library, "MPI_Iprobe")?,
        })
    }

    /// The level of thread support that is provided, where errors come back as codes from now on.
    pub fn init(&self) -> Result<c_int, String> {
        let mut provided = -1;
        // SAFETY: no arguments are allowed, and `provided` is an int.
        self.done(unsafe { (self.init_thread)(ptr::null_mut(), ptr::null_mut(), self.multiple, &mut provided) })?;
        // SAFETY: handles of this library.
        self.done(unsafe { (self.set_errhandler)(self.world, self.errors_return) })?;
        Ok(provided)
    }
    pub fn is_initialized(&self) -> Result<bool, String> {
        self.int(|out| {
            // SAFETY: allowed before MPI_Init, and `out` is an int.
            unsafe { (self.initialized)(out) }
        })
        .map(|flag| flag != 0)
    }
    pub fn finalize(&self) -> Result<(), String> {
        // SAFETY: called once, when no request is under way.
        self.done(unsafe { (self.finalize)() })
    }
    pub fn rank(&self) -> Result<usize, String> {
        self.int(|out| {
            // SAFETY: a handle of this library, and `out` is an int.
            unsafe { (self.rank)(self.world, out) }
        })
        .map(|rank| rank as usize)
    }
    pub fn size(&self) -> Result<usize, String> {
        self.int(|out| {
            // SAFETY: as for `rank`.
            unsafe { (self.size)(self.world, out) }
        })
        .map(|size| size as usize)
    }
    /// Whether the request is over; if so, the handle is of nothing any more.
    pub fn test(&self, request: &mut Handle) -> Result<bool, String> {
        self.int(|out| {
            // SAFETY: `request` came from isend or irecv and is not over; the status is not wanted.
            unsafe { (self.test)(request, out, self.status_ignore) }
        })
        .map(|flag| flag != 0)
    }
    /// Marks a receive, which is then over by itself: without a message, or with one that had come already.
    pub fn cancel(&self, request: &mut Handle) -> Result<(), String> {
        // SAFETY: `request` came from irecv and is not over.
        self.done(unsafe { (self.cancel)(request) })
    }
    pub fn probe(&self, from: c_int, tag: c_int) -> Result<bool, String> {
        self.int(|out| {
            // SAFETY: a handle of this library, `out` is an int, the status is not wanted.
            unsafe { (self.iprobe)(from, tag, self.world, out, self.status_ignore) }
        })
        .map(|flag| flag != 0)
    }

    /// One line, as the library says who it is.
    pub fn version(&self) -> String {
        let text = self.text(|text, len| {
            // SAFETY: there is room for any version.
            unsafe { (self.library_version)(text, len) }
        });
        text.split([';', ',']).next().unwrap_or_default().split_whitespace().collect::<Vec<_>>().join(" ")
    }

    pub fn done(&self, code: c_int) -> Result<(), String> {
        if code == 0 {
            return Ok(());
        }
        Err(self.text(|text, len| {
            // SAFETY: there is room for any message.
            unsafe { (self.error_string)(code, text, len) }
        }))
    }

    fn int(&self, call: impl FnOnce(&mut c_int) -> c_int) -> Result<c_int, String> {
        let mut out = 0;
        self.done(call(&mut out)).map(|()| out)
    }

    /// Its lines, as one.
    fn text(&self, call: impl FnOnce(*mut c_char, *mut c_int) -> c_int) -> String {
        let mut text = vec![0u8; TEXT];
        let mut len = 0;
        let code = call(text.as_mut_ptr().cast(), &mut len);
        if code != 0 {
            return format!("MPI has no words for it (code {code})");
        }
        let text = String::from_utf8_lossy(&text[..len as usize]).into_owned();
        let text = text.trim_end_matches('\0').trim();
        text.lines().map(str::trim).collect::<Vec<_>>().join("; ")
    }
}

/// In the system's words, which are the source of libloading's.
fn cause(error: &libloading::Error) -> String {
    error.source().map_or_else(|| error.to_string(), |cause| cause.to_string())
}

fn get<T: Copy>(library: &Library, symbol: &str) -> Result<T, libloading::Error> {
    // SAFETY: the types above are those of the MPI standard, for handles of any of the three kinds.
    unsafe { library.get::<T>(symbol).map(|found| *found) }
}
