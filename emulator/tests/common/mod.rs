//! The emulated libraries, loaded as a program would load NVIDIA's: a few safe calls for tests.
#![allow(dead_code)]
use libloading::Library;
use std::ffi::{CString, c_char, c_int, c_void};
use std::path::PathBuf;
use std::ptr::{null, null_mut};
use std::sync::OnceLock;

pub type Handle = *mut c_void;
pub const NON_BLOCKING: u32 = 1;

pub struct Card {
    pub home: PathBuf,
    pub cuda: Library,
    nvrtc: Library,
    pub lt: Library,
}

/// None where there is no compiler; the reason is printed.
pub fn card() -> Option<&'static Card> {
    static CARD: OnceLock<Option<Card>> = OnceLock::new();
    let card = CARD.get_or_init(|| match emulator::build() {
        Ok(home) => Some(Card::load(home)),
        Err(why) => {
            println!("skipped: {why}");
            None
        }
    });
    let card = card.as_ref()?;
    card.enter();
    Some(card)
}

/// Calls a function of one of the libraries, with the types of its arguments.
macro_rules! call {
    ($library:expr, $name:ident($($value:expr => $type:ty),* $(,)?)) => {{
        // SAFETY: the types are those of the function's declaration, and the test keeps alive what it points to.
        unsafe {
            let function = $library.get::<unsafe extern "C" fn($($type),*) -> std::ffi::c_int>(stringify!($name)).unwrap();
            function($($value),*)
        }
    }};
}
pub(crate) use call;

impl Card {
    fn load(home: PathBuf) -> Card {
        // SAFETY: the libraries start no code of their own.
        let [cuda, nvrtc, lt] = ["libcuda.so.1", "libnvrtc.so.13", "libcublasLt.so.13"]
            .map(|name| unsafe { Library::new(home.join(name)).unwrap() });
        assert_eq!(call!(cuda, cuInit(0 => u32)), 0);
        Card { home, cuda, nvrtc, lt }
    }

    /// Makes the card's context this thread's.
    pub fn enter(&self) {
        let mut context = null_mut();
        assert_eq!(call!(self.cuda, cuDevicePrimaryCtxRetain(&mut context => *mut Handle, 0 => c_int)), 0);
        assert_eq!(call!(self.cuda, cuCtxSetCurrent(context => Handle)), 0);
    }

    /// The image of a program, or the compiler's log.
    pub fn compile(&self, source: &str, options: &[&str]) -> Result<Vec<u8>, String> {
        let nvrtc = &self.nvrtc;
        let (source, name) = (CString::new(source).unwrap(), c"test.cu");
        let header = CString::new(HEADER).unwrap();
        let (headers, names) = ([header.as_ptr()], [c"test.cuh".as_ptr()]);
        let mut program: Handle = null_mut();
        let made = call!(nvrtc, nvrtcCreateProgram(
            &mut program => *mut Handle, source.as_ptr() => *const c_char, name.as_ptr() => *const c_char,
            1 => c_int, headers.as_ptr() => *const *const c_char, names.as_ptr() => *const *const c_char
        ));
        assert_eq!(made, 0);
        let options: Vec<_> = options.iter().map(|o| CString::new(*o).unwrap()).collect();
        let pointers: Vec<_> = options.iter().map(|o| o.as_ptr()).collect();
        let done = call!(nvrtc, nvrtcCompileProgram(
            program => Handle, pointers.len() as c_int => c_int, pointers.as_ptr() => *const *const c_char
        ));
        let mut size = 0;
        assert_eq!(call!(nvrtc, nvrtcGetProgramLogSize(program => Handle, &mut size => *mut usize)), 0);
        let mut log = vec![0u8; size];
        assert_eq!(call!(nvrtc, nvrtcGetProgramLog(program => Handle, log.as_mut_ptr() => *mut u8)), 0);
        assert_eq!(call!(nvrtc, nvrtcGetCUBINSize(program => Handle, &mut size => *mut usize)), 0);
        let mut image = vec![0u8; size];
        assert_eq!(call!(nvrtc, nvrtcGetCUBIN(program => Handle, image.as_mut_ptr() => *mut u8)), 0);
        assert_eq!(call!(nvrtc, nvrtcDestroyProgram(&mut program => *mut Handle)), 0);
        if done == 0 { Ok(image) } else { Err(String::from_utf8(log).unwrap()) }
    }

    pub fn kernel(&self, source: &str, name: &str) -> Handle {
        let image = self.compile(source, &["--gpu-architecture=sm_90"]).unwrap_or_else(|log| panic!("{log}"));
        let (mut module, mut function) = (null_mut(), null_mut());
        let name = CString::new(name).unwrap();
        assert_eq!(call!(self.cuda, cuModuleLoadData(&mut module => *mut Handle, image.as_ptr() => *const u8)), 0);
        assert_eq!(
            call!(self.cuda, cuModuleGetFunction(
                &mut function => *mut Handle, module => Handle, name.as_ptr() => *const c_char
            )),
            0
        );
        function
    }

    pub fn alloc(&self, bytes: usize) -> u64 {
        let mut at = 0;
        assert_eq!(call!(self.cuda, cuMemAlloc_v2(&mut at => *mut u64, bytes => usize)), 0);
        at
    }

    pub fn upload<T: Copy>(&self, values: &[T]) -> u64 {
        let (bytes, from) = (size_of_val(values), values.as_ptr().cast());
        let at = self.alloc(bytes);
        assert_eq!(call!(self.cuda, cuMemcpyHtoD_v2(at => u64, from => *const c_void, bytes => usize)), 0);
        at
    }

    pub fn download<T: Copy + Default>(&self, at: u64, count: usize) -> Vec<T> {
        let mut values = vec![T::default(); count];
        let (bytes, to) = (size_of_val(&values[..]), values.as_mut_ptr().cast());
        assert_eq!(call!(self.cuda, cuMemcpyDtoH_v2(to => *mut c_void, at => u64, bytes => usize)), 0);
        values
    }

    pub fn stream(&self) -> Handle {
        let mut stream = null_mut();
        assert_eq!(call!(self.cuda, cuStreamCreate(&mut stream => *mut Handle, NON_BLOCKING => u32)), 0);
        stream
    }

    pub fn event(&self) -> Handle {
        let mut event = null_mut();
        assert_eq!(call!(self.cuda, cuEventCreate(&mut event => *mut Handle, 0 => u32)), 0);
        event
    }

    pub fn synchronize(&self) -> c_int {
        call!(self.cuda, cuCtxSynchronize())
    }

    /// On the default stream, where `stream` is null. The error is the driver's.
    pub fn launch(&self, kernel: Handle, grid: u32, block: u32, shared: u32, stream: Handle, args: &[Arg]) -> c_int {
        let mut buffer: Vec<u8> = vec![];
        for arg in args {
            let bytes = arg.bytes();
            buffer.resize(buffer.len().next_multiple_of(bytes.len()), 0);
            buffer.extend(bytes);
        }
        let size = buffer.len();
        let mut extra: [*const c_void; 5] = [1 as _, buffer.as_ptr().cast(), 2 as _, (&raw const size).cast(), null()];
        call!(self.cuda, cuLaunchKernel(
            kernel => Handle, grid => u32, 1 => u32, 1 => u32, block => u32, 1 => u32, 1 => u32,
            shared => u32, stream => Handle, null_mut() => *mut Handle, extra.as_mut_ptr() => *mut *const c_void
        ))
    }

    /// Launches and waits.
    pub fn run(&self, kernel: Handle, grid: u32, block: u32, shared: u32, args: &[Arg]) {
        assert_eq!(self.launch(kernel, grid, block, shared, null_mut(), args), 0);
        assert_eq!(self.synchronize(), 0);
    }
}

/// An argument of a kernel.
#[derive(Clone, Copy)]
pub enum Arg {
    At(u64),
    U32(u32),
    F64(f64),
}

impl Arg {
    fn bytes(self) -> Vec<u8> {
        match self {
            Arg::At(at) => at.to_le_bytes().to_vec(),
            Arg::U32(n) => n.to_le_bytes().to_vec(),
            Arg::F64(x) => x.to_le_bytes().to_vec(),
        }
    }
}

/// What a kernel of the tests begins with.
const HEADER: &str = "
#pragma once
typedef unsigned short u16;
typedef unsigned int u32;
struct bf16 { u16 bits; };
struct f16 { u16 bits; };
";

/// Numbers between -1 and 1, the same in each run.
pub fn numbers(count: usize, seed: u64) -> Vec<f32> {
    let mut state = seed;
    (0..count)
        .map(|_| {
            state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
            (state >> 40) as f32 / (1 << 23) as f32 - 1.0
        })
        .collect()
}

/// Runs one test of this program alone, in a process with an environment of its own. Returns whether it went well, and
/// what it printed to stderr.
pub fn in_process(test: &str, environment: &[(&str, &str)]) -> (bool, String) {
    let program = std::env::current_exe().unwrap();
    let mut command = std::process::Command::new(program);
    command.args(["--exact", test, "--nocapture"]).env("EMULATOR_TEST_ALONE", "1").envs(environment.iter().copied());
    let output = command.output().unwrap();
    (output.status.success(), String::from_utf8_lossy(&output.stderr).into_owned())
}

/// What a test begins with that `in_process` runs: elsewhere it has nothing to do.
pub fn is_alone() -> bool {
    std::env::var_os("EMULATOR_TEST_ALONE").is_some()
}
