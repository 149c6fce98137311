//! NVIDIA's libraries, found when a card is asked for.
//!
//! Looked for, in this order: in the folders that the user names; where the system's linker looks; in the homes of CUDA; in
//! the packages of a Python (`pip install nvidia-cudnn-cu13`), which is where a machine with PyTorch has them. A library
//! that was found stays loaded; from then on the linker, and with it `cudarc`, knows it by its name.
use cudarc::{cublaslt, cudnn, driver, nvrtc};
use libloading::Library;
use std::fmt;
use std::path::{Path, PathBuf};

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Lib {
    /// Comes with the driver, the others with CUDA or from PyPI.
    Driver,
    /// Compiles our kernels.
    Nvrtc,
    /// Matrix products.
    CublasLt,
    /// Attention. Without it our own kernels do it.
    Cudnn,
}
pub const LIBS: [Lib; 4] = [Lib::Driver, Lib::Nvrtc, Lib::CublasLt, Lib::Cudnn];

/// The versions with which this program is known to work begin here, as the libraries count them.
const OLDEST_DRIVER: i32 = 12_080;
const OLDEST_NVRTC: (i32, i32) = (12, 0);
const OLDEST_CUBLASLT: usize = 120_000;

impl Lib {
    pub fn name(self) -> &'static str {
        match self {
            Lib::Driver => "CUDA driver",
            Lib::Nvrtc => "NVRTC",
            Lib::CublasLt => "cuBLASLt",
            Lib::Cudnn => "cuDNN",
        }
    }

    /// File names, the newest first; of those that make code or launch it, only what a driver for this CUDA takes.
    fn files(self, cuda: Option<i32>) -> &'static [&'static str] {
        let old = cuda.is_some_and(|major| major < 13);
        match self {
            Lib::Driver => &["libcuda.so.1"],
            Lib::Nvrtc if old => &["libnvrtc.so.12"],
            Lib::Nvrtc => &["libnvrtc.so.13", "libnvrtc.so.12"],
            Lib::CublasLt if old => &["libcublasLt.so.12"],
            Lib::CublasLt => &["libcublasLt.so.13", "libcublasLt.so.12"],
            Lib::Cudnn => &["libcudnn.so.9"],
        }
    }

    /// How to get it.
    fn way_out(self) -> &'static str {
        match self {
            Lib::Driver => "install NVIDIA's driver, or start the container with access to the card",
            Lib::Nvrtc => "pip install nvidia-cuda-nvrtc",
            Lib::CublasLt => "pip install nvidia-cublas",
            Lib::Cudnn => "pip install nvidia-cudnn-cu13",
        }
    }

    /// As the library tells it, once it is loaded.
    fn version(self) -> Result<String, String> {
        let too_old = |found: &str, oldest: &str| Err(format!("version {found} is too old: {oldest} is needed"));
        match self {
            Lib::Driver => {
                let mut version = 0;
                // SAFETY: the library is loaded, and writes one integer.
                let code = unsafe { driver::sys::cuDriverGetVersion(&mut version) };
                code.result().map_err(|e| e.to_string())?;
                let text = format!("{}.{}", version / 1000, version % 1000 / 10);
                if version < OLDEST_DRIVER {
                    too_old(&format!("for CUDA {text}"), "one for CUDA 12.8 or newer")
                } else {
                    Ok(text)
                }
            }
            Lib::Nvrtc => {
                let (mut major, mut minor) = (0, 0);
                // SAFETY: as above, two integers.
                let code = unsafe { nvrtc::sys::nvrtcVersion(&mut major, &mut minor) };
                code.result().map_err(|e| e.to_string())?;
                let text = format!("{major}.{minor}");
                if (major, minor) < OLDEST_NVRTC { too_old(&text, "12.0") } else { Ok(text) }
            }
            Lib::CublasLt => {
                // SAFETY: as above, no argument.
                let version = unsafe { cublaslt::sys::cublasLtGetVersion() };
                let text = format!("{}.{}.{}", version / 10_000, version / 100 % 100, version % 100);
                if version < OLDEST_CUBLASLT { too_old(&text, "12.0") } else { Ok(text) }
            }
            Lib::Cudnn => {
                // SAFETY: as above, no argument.
                let version = unsafe { cudnn::sys::cudnnGetVersion() };
                Ok(format!("{}.{}.{}", version / 10_000, version / 100 % 100, version % 100))
            }
        }
    }
}

/// Where libraries may be.
#[derive(Clone, Default, Debug)]
pub struct Search {
    /// Named by the user: nothing else is looked at for what is found here.
    pub given: Vec<PathBuf>,
    /// Where else, if the linker does not know.
    pub folders: Vec<PathBuf>,
    /// The major version of CUDA that the driver is for, once that is known.
    pub cuda: Option<i32>,
}

impl Search {
    /// From the environment: INTERNEVO_CUDA_LIBRARIES (folders, separated by colons), CUDA_HOME, CUDA_PATH, VIRTUAL_ENV,
    /// CONDA_PREFIX, PYTHONPATH, HOME and the Pythons on PATH.
    pub fn new(var: &dyn Fn(&str) -> Option<String>) -> Search {
        let list = |name: &str| -> Vec<PathBuf> {
            let text = var(name).unwrap_or_default();
            text.split(':').filter(|part| !part.is_empty()).map(PathBuf::from).collect()
        };
        let homes = ["CUDA_HOME", "CUDA_PATH"].into_iter().flat_map(list).chain(["/usr/local/cuda".into()]);
        let mut folders: Vec<PathBuf> =
            homes.flat_map(|home| ["lib64", "targets/x86_64-linux/lib"].map(|lib| home.join(lib))).collect();
        folders.extend(["/usr/local/nvidia/lib64", "/usr/lib/wsl/lib", "/run/opengl-driver/lib"].map(PathBuf::from));
        let on_path = list("PATH").into_iter().filter(|bin| bin.join("python3").exists());
        let prefixes = ["VIRTUAL_ENV", "CONDA_PREFIX"].into_iter().flat_map(list);
        let prefixes = prefixes.chain(on_path.filter_map(|bin| Some(bin.parent()?.to_path_buf())));
        let local = list("HOME").into_iter().map(|home| home.join(".local"));
        let sites = prefixes.chain(local).flat_map(|prefix| sites(&prefix)).chain(list("PYTHONPATH"));
        folders.extend(sites.flat_map(|site| children(&site.join("nvidia"))).map(|package| package.join("lib")));
        Search { given: list("INTERNEVO_CUDA_LIBRARIES"), folders, cuda: None }
    }

    /// Loads the driver; what is looked for later has to go with it.
    pub fn driver(&mut self) -> Result<Loaded, Missing> {
        let driver = self.load(Lib::Driver)?;
        self.cuda = driver.version.split('.').next().and_then(|major| major.parse().ok());
        Ok(driver)
    }

    /// Loads a library and checks its version.
    pub fn load(&self, lib: Lib) -> Result<Loaded, Missing> {
        let missing = |why: String| Missing { lib, why };
        let places = || {
            let in_folders = |folders: &[PathBuf]| -> Vec<PathBuf> {
                let files = lib.files(self.cuda);
                folders.iter().flat_map(|folder| files.iter().map(move |file| folder.join(file))).collect()
            };
            let here = |paths: Vec<PathBuf>| paths.into_iter().filter(|path| path.exists());
            let by_name = lib.files(self.cuda).iter().map(PathBuf::from);
            here(in_folders(&self.given)).chain(by_name).chain(here(in_folders(&self.folders)))
        };
        let mut why = "not found".to_string();
        for place in places() {
            match open(&place) {
                Ok(()) => {
                    let version = lib.version().map_err(|e| missing(format!("{}: {e}", place.display())))?;
                    let path = actual(&place);
                    return Ok(Loaded { lib, path, version });
                }
                // The linker's own words, of a file that is there.
                Err(e) if place.is_absolute() => why = e,
                Err(_) => {}
            }
        }
        Err(missing(why))
    }
}

/// The folders of packages of a Python that is installed at `prefix`.
fn sites(prefix: &Path) -> Vec<PathBuf> {
    let versions = ["lib", "lib64", "local/lib"].into_iter().flat_map(|lib| children(&prefix.join(lib)));
    let pythons = versions.filter(|v| v.file_name().is_some_and(|name| name.to_string_lossy().starts_with("python3")));
    pythons.flat_map(|python| ["site-packages", "dist-packages"].map(|packages| python.join(packages))).collect()
}

/// Of a folder, in order; none of one that is not there.
fn children(folder: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(folder).into_iter().flatten();
    let mut all: Vec<PathBuf> = entries.filter_map(|entry| Some(entry.ok()?.path())).collect();
    all.sort();
    all
}

/// For the life of the process.
fn open(path: &Path) -> Result<(), String> {
    // Some versions of NVRTC look for their own part by its bare name, where the linker does not find it.
    let beside = path.parent().into_iter().flat_map(children);
    let builtins = beside.filter(|file| {
        let named = |of: &Path, with: &str| of.file_name().is_some_and(|name| name.to_string_lossy().starts_with(with));
        named(path, "libnvrtc.so") && named(file, "libnvrtc-builtins.so")
    });
    for file in builtins.chain([path.to_path_buf()]) {
        // SAFETY: the initialisers of NVIDIA's libraries ask nothing of who loads them.
        let library = unsafe { Library::new(&file) }.map_err(|e| e.to_string())?;
        std::mem::forget(library);
    }
    Ok(())
}

/// Where the linker took a library from that it was asked for by name.
fn actual(place: &Path) -> PathBuf {
    let name = place.file_name().unwrap_or_default().to_string_lossy().into_owned();
    let maps = std::fs::read_to_string("/proc/self/maps").unwrap_or_default();
    let mapped = maps.lines().filter_map(|line| Some(Path::new(&line[line.find('/')?..])));
    let same = |path: &Path| path.file_name().is_some_and(|file| file.to_string_lossy().starts_with(&name));
    mapped.into_iter().find(|path| same(path)).unwrap_or(place).to_path_buf()
}

#[derive(Clone, Debug)]
pub struct Loaded {
    pub lib: Lib,
    pub path: PathBuf,
    pub version: String,
}

/// Why a library cannot be used.
#[derive(Clone, Debug)]
pub struct Missing {
    pub lib: Lib,
    pub why: String,
}
impl fmt::Display for Missing {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        let Missing { lib, why } = self;
        let way_out = lib.way_out();
        write!(
            f,
            "{} ({}): {why}; {way_out}, or name its folder in INTERNEVO_CUDA_LIBRARIES",
            lib.name(),
            lib.files(None)[0]
        )
    }
}
