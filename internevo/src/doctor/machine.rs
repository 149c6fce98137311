//! What a machine has beside its cards: processor, memory, libraries, compiled kernels.
use crate::device::search;
use crate::environment::{kernel_cache, mpi_library};
use crate::job;
use backend::Isa;
use cuda::LIBS;
use serde::Serialize;
use std::fs;

#[derive(Serialize)]
pub struct Machine {
    /// Operating system and architecture.
    pub system: String,
    pub cpu: Processor,
    pub memory: Option<Memory>,
    pub mpi: Found,
    pub libraries: Vec<Found>,
    pub kernels: Kernels,
}

#[derive(Serialize)]
pub struct Processor {
    pub model: String,
    /// That this process may use.
    pub cores: usize,
    pub instructions: &'static str,
}

#[derive(Serialize)]
pub struct Memory {
    pub total_bytes: usize,
    pub free_bytes: usize,
}

/// A library, or what to do about it.
#[derive(Serialize)]
pub struct Found {
    pub name: &'static str,
    pub version: String,
    pub path: String,
    pub missing: Option<String>,
}

#[derive(Serialize)]
pub struct Kernels {
    pub folder: Option<String>,
    pub number: usize,
    pub bytes: usize,
}

impl Machine {
    pub fn look() -> Machine {
        Machine {
            system: format!("{} {}", std::env::consts::OS, std::env::consts::ARCH),
            cpu: Processor { model: model(), cores: job::cores(), instructions: Isa::best().name() },
            memory: memory(),
            mpi: mpi(),
            libraries: libraries(),
            kernels: kernels(),
        }
    }
}

fn model() -> String {
    let text = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let name = text.lines().find(|line| line.starts_with("model name")).and_then(|line| line.split_once(':'));
    name.map_or("unknown", |(_, name)| name.trim()).to_string()
}

fn memory() -> Option<Memory> {
    let text = fs::read_to_string("/proc/meminfo").ok()?;
    let bytes = |key: &str| -> Option<usize> {
        let line = text.lines().find_map(|line| line.strip_prefix(key))?;
        Some(line.trim().strip_suffix("kB")?.trim().parse::<usize>().ok()? << 10)
    };
    Some(Memory { total_bytes: bytes("MemTotal:")?, free_bytes: bytes("MemAvailable:")? })
}

impl Found {
    /// Version and path, or what to do about it.
    pub fn new(name: &'static str, found: Result<(String, String), String>) -> Found {
        match found {
            Ok((version, path)) => Found { name, version, path, missing: None },
            Err(missing) => Found { name, version: String::new(), path: String::new(), missing: Some(missing) },
        }
    }
}

fn mpi() -> Found {
    let found = comm::mpi_version(mpi_library()).map(|(path, version)| (version, path.display().to_string()));
    let words = |why: comm::MpiError| format!("{why}; only a launcher's processes need it");
    Found::new("MPI", found.map_err(words))
}

fn libraries() -> Vec<Found> {
    let mut search = search();
    // What it takes, the others have to be; that it is missing is told below.
    let _ = search.driver();
    let look = |lib: cuda::Lib| {
        let found = search.load(lib).map(|found| (found.version, found.path.display().to_string()));
        Found::new(lib.name(), found.map_err(|missing| missing.to_string()))
    };
    LIBS.into_iter().map(look).collect()
}

fn kernels() -> Kernels {
    let folder = kernel_cache();
    let files = folder.iter().flat_map(|folder| fs::read_dir(folder).into_iter().flatten().flatten());
    let sizes = files.filter(|file| file.path().extension().is_some_and(|end| end == "cubin"));
    let sizes: Vec<usize> = sizes.filter_map(|file| Some(file.metadata().ok()?.len() as usize)).collect();
    let folder = folder.map(|folder| folder.display().to_string());
    Kernels { folder, number: sizes.len(), bytes: sizes.iter().sum() }
}
