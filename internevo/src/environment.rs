//! The only place that reads environment variables; everyone else is handed what they need.

use std::path::PathBuf;

/// A library of MPI that the system does not find by itself.
pub fn mpi_library() -> Option<PathBuf> {
    std::env::var_os("INTERNEVO_MPI_LIB").filter(|path| !path.is_empty()).map(PathBuf::from)
}

/// Where compiled kernels are kept: INTERNEVO_CACHE, or the user's folder of caches. None: nowhere.
pub fn kernel_cache() -> Option<PathBuf> {
    let folder = |name: &str| std::env::var_os(name).filter(|path| !path.is_empty()).map(PathBuf::from);
    let of_user = || folder("XDG_CACHE_HOME").or_else(|| Some(folder("HOME")?.join(".cache")));
    folder("INTERNEVO_CACHE").or_else(|| Some(of_user()?.join("internevo"))).map(|cache| cache.join("kernels"))
}

/// What is not Unicode is shown as far as it is, by the error of whoever wanted something else.
pub fn var(name: &str) -> Option<String> {
    std::env::var_os(name).map(|value| value.to_string_lossy().into_owned())
}

/// Slurm has started this job before: it goes on.
pub fn restarted() -> bool {
    var("SLURM_RESTART_COUNT").is_some_and(|count| count.parse::<u64>().is_ok_and(|n| n > 0))
}

/// The job of Slurm that this process is of.
pub fn slurm_job() -> Option<String> {
    var("SLURM_JOB_ID").filter(|id| !id.is_empty())
}
