//! A stand-in for NVIDIA's libraries on a CPU: the driver, its compiler and cuBLASLt, for x86-64 Linux.
//!
//! The libraries are C++ under `cpp/`, built on demand by the system's compiler, so that nothing but tests needs one.
//! Kernels are C++ for the CPU as well: `cpp/emulate.h` gives them what CUDA adds to the language.
use sha2::{Digest, Sha256};
use std::path::{Path, PathBuf};
use std::process::Command;

macro_rules! files {
    ($($name:literal),* $(,)?) => { [$(($name, include_str!(concat!("../cpp/", $name)))),*] };
}

/// All that is compiled, or included by what is.
const FILES: &[(&str, &str)] = &files![
    "abi.h",
    "block.cpp",
    "block.h",
    "cublaslt.cpp",
    "device.cpp",
    "emulate.h",
    "emulate_numbers.h",
    "emulate_tensor.h",
    "emulate_warp.h",
    "image.h",
    "launch.cpp",
    "memory.cpp",
    "memory.h",
    "module.cpp",
    "nvrtc.cpp",
    "products.h",
    "runtime.h",
    "scheduler.h",
    "stacks.h",
    "stream.cpp",
    "stream.h",
];

/// A library: its name, flags of its own, what it is made of. Later ones may need the first. Kernels read a thread-local
/// variable of the driver's at a fixed distance, so that one takes its place when the driver is loaded.
const LIBRARIES: [(&str, &[&str], &[&str]); 3] = [
    (
        "libcuda.so.1",
        &["-O2", "-ftls-model=initial-exec"],
        &["block.cpp", "device.cpp", "launch.cpp", "memory.cpp", "module.cpp", "stream.cpp"],
    ),
    ("libnvrtc.so.13", &["-O1"], &["nvrtc.cpp"]),
    ("libcublasLt.so.13", &["-O3", "-ffp-contract=fast"], &["cublaslt.cpp", "libcuda.so.1"]),
];

/// The folder with `libcuda.so.1`, `libnvrtc.so.13`, `libcublasLt.so.13` and the headers of kernels, built if it is not there
/// yet. The error says why there is none: most often for want of a C++ compiler.
pub fn build() -> Result<PathBuf, String> {
    if !cfg!(all(target_arch = "x86_64", target_os = "linux")) {
        return Err("the emulator runs on x86-64 Linux only".into());
    }
    let compiler = std::env::var("CXX").ok().filter(|name| !name.is_empty()).unwrap_or_else(|| "g++".into());
    let parent = target().join("cuda-emulator");
    let home = parent.join(hash(&compiler));
    if home.is_dir() {
        return Ok(home);
    }
    let failed = |what: &Path, error: std::io::Error| format!("{}: {error}", what.display());
    std::fs::create_dir_all(&parent).map_err(|e| failed(&parent, e))?;
    // One process builds, the others wait for it. The lock goes with the file's handle.
    let lock = std::fs::File::create(parent.join("lock")).map_err(|e| failed(&parent, e))?;
    lock.lock().map_err(|e| failed(&parent, e))?;
    if home.is_dir() {
        return Ok(home);
    }
    // Aside and renamed as a whole, so that nobody finds half of it.
    let aside = tempfile::tempdir_in(&parent).map_err(|e| failed(&parent, e))?;
    for (name, text) in FILES {
        std::fs::write(aside.path().join(name), text).map_err(|e| failed(&aside.path().join(name), e))?;
    }
    for (name, flags, parts) in LIBRARIES {
        compile(&compiler, aside.path(), name, flags, parts)?;
    }
    std::fs::rename(aside.keep(), &home).map_err(|e| failed(&home, e))?;
    Ok(home)
}

fn compile(compiler: &str, folder: &Path, name: &str, flags: &[&str], parts: &[&str]) -> Result<(), String> {
    let mut command = Command::new(compiler);
    command.current_dir(folder).args(["-std=c++20", "-fPIC", "-shared", "-fvisibility=hidden", "-pthread"]);
    command.args(flags).args([march(), &format!("-DEMULATOR_MARCH=\"{}\"", march())]);
    command.args([&format!("-Wl,-soname,{name}"), "-Wl,-rpath,$ORIGIN", "-o", name]).args(parts);
    let output = command.output().map_err(|error| match error.kind() {
        std::io::ErrorKind::NotFound => format!("no C++ compiler: {compiler} is not there"),
        _ => format!("{compiler}: {error}"),
    })?;
    if !output.status.success() {
        return Err(format!("{name} does not compile:\n{}", String::from_utf8_lossy(&output.stderr)));
    }
    Ok(())
}

/// The vectors of AVX2 and fused products where this CPU has them.
fn march() -> &'static str {
    #[cfg(target_arch = "x86_64")]
    if is_x86_feature_detected!("avx2")
        && is_x86_feature_detected!("fma")
        && is_x86_feature_detected!("f16c")
        && is_x86_feature_detected!("bmi2")
    {
        return "-march=x86-64-v3";
    }
    "-march=x86-64"
}

fn hash(compiler: &str) -> String {
    let mut hash = Sha256::new();
    for (name, text) in FILES {
        hash.update(format!("{name} {} ", text.len()));
        hash.update(text);
    }
    hash.update(format!("{compiler} {} {LIBRARIES:?}", march()));
    hash.finalize().iter().take(8).map(|byte| format!("{byte:02x}")).collect()
}

/// Where cargo builds, as far as a test can know.
fn target() -> PathBuf {
    let workspace = Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("a crate of the workspace");
    workspace.join(std::env::var_os("CARGO_TARGET_DIR").unwrap_or_else(|| "target".into()))
}
