//! The kernels of a card: compiled, loaded, found by name.
use crate::compile::Compiler;
use crate::driver::{Card, Function, Loaded, Stream};
use crate::work::{Arg, Launch, Module, Place};
use std::collections::HashMap;
use std::sync::{Arc, Mutex};

/// Of one card, for all ranks on it.
pub struct Kernels {
    card: Arc<Card>,
    compiler: Compiler,
    known: Mutex<Known>,
}

#[derive(Default)]
struct Known {
    modules: HashMap<Module, Loaded>,
    /// With the bytes of shared memory that they may ask for.
    functions: HashMap<(Module, &'static str, usize), Function>,
}

impl Kernels {
    pub fn new(card: Arc<Card>, compiler: Compiler) -> Kernels {
        Kernels { card, compiler, known: Mutex::default() }
    }

    /// Compiles and loads what is not there yet, on so many threads. `done` is told of each module.
    pub fn prepare(&self, modules: Vec<Module>, threads: usize, done: &(dyn Fn() + Sync)) -> Result<(), String> {
        let known = || self.known.lock().expect("nothing panics with the lock");
        // Nobody waits for the compiler who does not need what it makes.
        let is_new = |module: &Module| !known().modules.contains_key(module);
        let new: Vec<Module> = modules.into_iter().filter(is_new).collect();
        let codes = self.compiler.all(&new, threads, done)?;
        for (module, code) in new.into_iter().zip(codes) {
            let loaded = Loaded::new(&self.card, &code).map_err(|e| format!("{}: {e}", module.source.name))?;
            known().modules.entry(module).or_insert(loaded);
        }
        Ok(())
    }

    /// The kernel of a launch. One that was not prepared is compiled here.
    pub fn function(&self, launch: &Launch) -> Result<Function, String> {
        let key = (launch.module.clone(), launch.entry, launch.shared);
        if let Some(function) = self.known.lock().expect("nothing panics with the lock").functions.get(&key) {
            return Ok(*function);
        }
        self.prepare(vec![launch.module.clone()], 1, &|| {})?;
        let mut known = self.known.lock().expect("nothing panics with the lock");
        let function = known.modules[&launch.module].function(&self.card, launch.entry, launch.shared);
        let function = function.map_err(|e| format!("{} of {}: {e}", launch.entry, launch.module.source.name))?;
        known.functions.insert(key, function);
        Ok(function)
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
