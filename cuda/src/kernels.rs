//! The kernels of a card: compiled, loaded, found by name.
use crate::compile::Compiler;
use crate::driver::{Card, Function, Loaded, Stream};
use crate::work::{Arg, Launch, Module, Place};
use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard};

/// Of one card, for all ranks on it.
pub struct Kernels {
    card: Arc<Card>,
    compiler: Compiler,
    known: Mutex<Known>,
}

type Known = HashMap<Module, Ready>;

/// A module on the card, and those of its kernels that were launched, with the bytes of shared memory that they may ask for.
struct Ready {
    loaded: Loaded,
    functions: Vec<(&'static str, usize, Function)>,
}

impl Kernels {
    pub fn new(card: Arc<Card>, compiler: Compiler) -> Kernels {
        Kernels { card, compiler, known: Mutex::default() }
    }

    /// Compiles and loads what is not there yet, on so many threads. `done` is told of each module.
    pub fn prepare(&self, modules: Vec<Module>, threads: usize, done: &(dyn Fn() + Sync)) -> Result<(), String> {
        // Nobody waits for the compiler who does not need what it makes.
        let is_new = |module: &Module| !self.known().contains_key(module);
        let new: Vec<Module> = modules.into_iter().filter(is_new).collect();
        let codes = self.compiler.all(&new, threads, done)?;
        for (module, code) in new.into_iter().zip(codes) {
            let loaded = Loaded::new(&self.card, &code).map_err(|e| format!("{}: {e}", module.source.name))?;
            self.known().entry(module).or_insert(Ready { loaded, functions: vec![] });
        }
        Ok(())
    }

    /// The kernel of a launch. One that was not prepared is compiled here.
    pub fn function(&self, launch: &Launch) -> Result<Function, String> {
        if !self.known().contains_key(&launch.module) {
            self.prepare(vec![launch.module.clone()], 1, &|| {})?;
        }
        let mut known = self.known();
        let Ready { loaded, functions } = known.get_mut(&launch.module).expect("it was prepared");
        let of = functions.iter().find(|(entry, shared, _)| (*entry, *shared) == (launch.entry, launch.shared));
        if let Some((_, _, function)) = of {
            return Ok(*function);
        }
        let function = loaded.function(&self.card, launch.entry, launch.shared);
        let function = function.map_err(|e| format!("{} of {}: {e}", launch.entry, launch.module.source.name))?;
        functions.push((launch.entry, launch.shared, function));
        Ok(function)
    }

    fn known(&self) -> MutexGuard<'_, Known> {
        self.known.lock().expect("nothing panics with the lock")
    }

    /// `address` says where places are.
    pub fn launch(&self, launch: &Launch, address: &dyn Fn(Place) -> u64, stream: &Stream) {
        let function = self.function(launch).unwrap_or_else(|e| panic!("{e}"));
        let mut args = Vec::with_capacity(128);
        for arg in &launch.args {
            match *arg {
                Arg::At(place) => lay(&mut args, address(place).to_le_bytes()),
                Arg::U64(x) | Arg::Address(x) => lay(&mut args, x.to_le_bytes()),
                Arg::U32(x) => lay(&mut args, x.to_le_bytes()),
                Arg::F64(x) => lay(&mut args, x.to_le_bytes()),
            }
        }
        stream.launch(function, launch.grid, launch.block, launch.shared, &args);
    }
}

/// Aligned to its size, as the members of a struct in C.
fn lay<const N: usize>(args: &mut Vec<u8>, bytes: [u8; N]) {
    args.resize(args.len().next_multiple_of(N), 0);
    args.extend(bytes);
}
