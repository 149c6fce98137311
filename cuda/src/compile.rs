//! Kernels from source to machine code of a card, by NVRTC, kept on disk.
//!
//! The code is made for one architecture (a CUBIN): nothing is left to compile when the program starts, and any driver of
//! the same major version takes it. A file of the cache is named by a hash of everything that has a say in its bytes.
use crate::ops::HEADERS;
use crate::work::Module;
use cudarc::nvrtc::{result, sys};
use sha2::{Digest, Sha256};
use std::ffi::{CStr, CString};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::Mutex;

/// Compiles for one architecture. NVRTC is loaded.
#[derive(Clone)]
pub struct Compiler {
    /// 90 for 9.0.
    pub arch: u32,
    /// None: nothing is kept.
    pub cache: Option<PathBuf>,
    version: (i32, i32),
}

impl Compiler {
    pub fn new(arch: u32, cache: Option<PathBuf>) -> Compiler {
        let (mut major, mut minor) = (0, 0);
        // SAFETY: NVRTC is loaded, and writes two integers.
        let code = unsafe { sys::nvrtcVersion(&mut major, &mut minor) };
        code.result().expect("NVRTC knows its version");
        Compiler { arch, cache, version: (major, minor) }
    }

    /// With what only this architecture has, where it has such: `sm_90a`.
    pub fn architecture(&self) -> String {
        let own = if matches!(self.arch, 90 | 100 | 103) { "a" } else { "" };
        format!("sm_{}{own}", self.arch)
    }

    fn options(&self, module: &Module) -> Vec<String> {
        let defines = module.defines.iter().map(|(name, value)| format!("-D{name}={value}"));
        let architecture = format!("--gpu-architecture={}", self.architecture());
        [architecture, "--std=c++17".into()].into_iter().chain(defines).collect()
    }

    /// Where the cache has it.
    fn file(&self, cache: &Path, module: &Module) -> PathBuf {
        let mut hash = Sha256::new();
        let headers = HEADERS.iter().map(|source| source.text);
        let version = format!("{:?}", self.version);
        let options = self.options(module);
        for part in options.iter().map(String::as_str).chain(headers).chain([module.source.text, &version]) {
            hash.update(part.len().to_le_bytes());
            hash.update(part);
        }
        let name: String = hash.finalize().iter().map(|byte| format!("{byte:02x}")).collect();
        cache.join(format!("{}-{}.cubin", module.source.name, &name[..32]))
    }

    /// The machine code of a module. `Err`: the compiler's words.
    pub fn compile(&self, module: &Module) -> Result<Vec<u8>, String> {
        let file = self.cache.as_ref().map(|cache| self.file(cache, module));
        if let Some(code) = file.as_ref().and_then(|file| std::fs::read(file).ok()).and_then(unsealed) {
            return Ok(code);
        }
        let code = compile(module, &self.options(module))?;
        if let Some(file) = &file {
            let way_out = "name another folder in INTERNEVO_CACHE";
            keep(file, &code).map_err(|e| format!("cannot write {}: {e}; {way_out}", file.display()))?;
        }
        Ok(code)
    }

    /// Several at once, in their order; `done` is told of each.
    pub fn all(&self, modules: &[Module], threads: usize, done: &(dyn Fn() + Sync)) -> Result<Vec<Vec<u8>>, String> {
        let next = Mutex::new(0..modules.len());
        let codes = Mutex::new(vec![None; modules.len()]);
        std::thread::scope(|scope| {
            for _ in 0..threads.min(modules.len()) {
                scope.spawn(|| {
                    let take = || next.lock().expect("nothing panics with the lock").next();
                    while let Some(i) = take() {
                        let code = self.compile(&modules[i]);
                        codes.lock().expect("nothing panics with the lock")[i] = Some(code);
                        done();
                    }
                });
            }
        });
        let codes = codes.into_inner().expect("nothing panics with the lock");
        codes.into_iter().map(|code| code.expect("all were taken")).collect()
    }
}

fn compile(module: &Module, options: &[String]) -> Result<Vec<u8>, String> {
    let c = |text: &str| CString::new(text).expect("a source has no zero byte");
    let [texts, names] = [|s: &crate::work::Source| s.text, |s: &crate::work::Source| s.name]
        .map(|part| HEADERS.iter().map(|source| c(part(source))).collect::<Vec<CString>>());
    let pointers = |all: &[CString]| all.iter().map(|s| s.as_ptr()).collect::<Vec<_>>();
    let (source, name) = (c(module.source.text), c(module.source.name));
    let failed = |what: &str, e: result::NvrtcError| format!("{}: NVRTC, {what}: {e}", module.source.name);
    let mut program = std::ptr::null_mut();
    // SAFETY: all strings outlive the program, which is destroyed below; sizes are those that NVRTC tells.
    unsafe {
        let (texts, names) = (pointers(&texts), pointers(&names));
        let n = texts.len() as i32;
        let code =
            sys::nvrtcCreateProgram(&mut program, source.as_ptr(), name.as_ptr(), n, texts.as_ptr(), names.as_ptr());
        code.result().map_err(|e| failed("create", e))?;
        let compiled = result::compile_program(program, options);
        let code = match compiled {
            Ok(()) => cubin(program).map_err(|e| failed("get the code", e)),
            Err(e) => Err(match result::get_program_log(program) {
                Ok(log) => {
                    let log = CStr::from_ptr(log.as_ptr()).to_string_lossy().into_owned();
                    format!("{} with {options:?} does not compile: {log}", module.source.name)
                }
                Err(_) => failed("compile", e),
            }),
        };
        result::destroy_program(program).map_err(|e| failed("destroy", e))?;
        code
    }
}

/// # Safety
/// The program is compiled.
unsafe fn cubin(program: sys::nvrtcProgram) -> Result<Vec<u8>, result::NvrtcError> {
    let mut size = 0;
    // SAFETY: the size is the one that NVRTC tells.
    unsafe {
        sys::nvrtcGetCUBINSize(program, &mut size).result()?;
        let mut code = vec![0_u8; size];
        sys::nvrtcGetCUBIN(program, code.as_mut_ptr().cast()).result()?;
        Ok(code)
    }
}

/// Written whole or not at all: others may write the same file at the same time.
fn keep(file: &Path, code: &[u8]) -> std::io::Result<()> {
    let folder = file.parent().expect("the cache is a folder");
    std::fs::create_dir_all(folder)?;
    let mut part = tempfile::NamedTempFile::new_in(folder)?;
    part.write_all(&Sha256::digest(code))?;
    part.write_all(code)?;
    part.persist(file)?;
    Ok(())
}

/// What `keep` has written, if it is that still.
fn unsealed(mut bytes: Vec<u8>) -> Option<Vec<u8>> {
    let code = bytes.split_off(32.min(bytes.len()));
    (Sha256::digest(&code)[..] == bytes[..]).then_some(code)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn some_architectures_have_what_no_other_has() {
        let name = |arch| Compiler { arch, cache: None, version: (13, 0) }.architecture();
        assert_eq!([80, 86, 89, 90, 100, 120].map(name), ["sm_80", "sm_86", "sm_89", "sm_90a", "sm_100a", "sm_120"]);
    }

    #[test]
    fn a_damaged_file_of_the_cache_is_not_taken() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("new/kernel.cubin");
        keep(&file, b"code").unwrap();
        let bytes = std::fs::read(&file).unwrap();
        assert_eq!(unsealed(bytes.clone()).unwrap(), b"code");
        for cut in 0..bytes.len() {
            assert!(unsealed(bytes[..cut].to_vec()).is_none(), "{cut}");
        }
        let flipped: Vec<u8> = bytes.iter().enumerate().map(|(i, b)| b ^ u8::from(i == 33)).collect();
        assert!(unsealed(flipped).is_none());
    }
}
