//! Kernels compiled by NVIDIA's own compiler for every architecture; no card is needed.
//!
//! Of all modules that published models and the examples of operations need, those are compiled that are the first with their types
//! or with a constant: a module with the same types and other constants differs in loops' bounds. The compiler takes one program
//! at a time, so tests want processes of their own.
#[path = "../../../backend/tests/cpu/device.rs"]
#[allow(dead_code)]
mod device;
#[path = "../../../backend/tests/cpu/examples.rs"]
#[allow(dead_code)]
mod examples;
#[path = "../../../backend/tests/cpu/ops.rs"]
#[allow(dead_code)]
mod ops;

mod cubin;
mod noted;
mod programs;

use backend::{DType, REGIONS, Region};
use cuda::work::{Card, Module};
use cuda::{Compiler, Lib, SOURCES, Search};
use device::Device;
use noted::{Launches, Notes};
use std::collections::HashSet;
use std::time::Instant;

/// As other tests of these files have it: what examples are computed on before they are run.
mod under_test {
    use backend::{Backend, Cpu, Isa, Sizes};
    pub fn device(sizes: Sizes, threads: usize, _isa: Isa) -> Box<dyn Backend> {
        Box::new(Cpu::new(sizes, threads))
    }
}

/// An A100. Its multiprocessors, and KiB of shared memory that a block of it can ask for.
#[test]
fn sm_80() {
    compile(80, 108, 163);
}
/// An H100.
#[test]
fn sm_90a() {
    compile(90, 132, 227);
}
/// A B200.
#[test]
fn sm_100a() {
    compile(100, 148, 227);
}
/// An RTX 5090.
#[test]
fn sm_120() {
    compile(120, 170, 99);
}

#[allow(clippy::disallowed_methods, reason = "a test is told by the environment where NVRTC is")]
fn compile(arch: u32, multiprocessors: u32, kib: usize) {
    let card = Card { arch, multiprocessors, shared: kib << 10, cudnn: None };
    let search = Search::new(&|name| std::env::var(name).ok());
    let nvrtc = search.load(Lib::Nvrtc).unwrap_or_else(|e| panic!("{e}"));
    let compiler = Compiler::new(card.arch, None);
    let launches = launches(card);
    for source in SOURCES {
        assert!(launches.modules.keys().any(|module| module.source == *source), "nothing launches {}", source.name);
    }

    let (covering, began) = (covering(&launches), Instant::now());
    let mut local = vec![];
    for module in &covering {
        let code = compiler.compile(module).unwrap_or_else(|e| panic!("{e}"));
        let facts = cubin::facts(&code);
        for (entry, dynamic) in &launches.modules[module].1 {
            let of = facts.get(*entry).unwrap_or_else(|| panic!("{} has no {entry}", module.source.name));
            let shared = of.shared + dynamic;
            let what = || format!("{entry} of {}, {}", module.source.name, words(module));
            assert!(shared <= card.shared, "{} asks for {shared} bytes of shared memory: {}", what(), card.shared);
            if of.local > 0 {
                local.push(format!("{:6} bytes, {:3} registers: {}", of.local, of.registers, what()));
            }
        }
    }
    println!(
        "{}: {} of {} modules by NVRTC {} in {:.0} s; {} kernels have local memory",
        compiler.architecture(),
        covering.len(),
        launches.modules.len(),
        nvrtc.version,
        began.elapsed().as_secs_f64(),
        local.len()
    );
    local.sort_by(|a, b| b.cmp(a));
    local.iter().for_each(|line| println!("  {line}"));
}

/// Everything that is launched on a card, with shared memory that the card has.
fn launches(card: Card) -> Launches {
    let notes = Notes::new(card);
    programs::note(&notes);
    examples(&notes);
    let mut launches = notes.end();
    for dtype in [DType::F32, DType::F64, DType::BF16, DType::F16] {
        for members in [2, 4] {
            let at: Vec<u64> = (1..=members).map(|i| i << 20).collect();
            [&at[..], &at[..1]].iter().for_each(|results| launches.note(cuda::tree_sum(dtype, &at, results, 4096)));
        }
    }
    launches
}

/// Every operation in every type, and in types by turns.
fn examples(notes: &Notes) {
    use DType::{BF16, F16, F32, F64};
    let types: [&[DType]; 6] = [&[F32], &[F64], &[BF16], &[F16], &[BF16, F32], &[F32, BF16, F32]];
    let mut sizes = [0; REGIONS.len()];
    sizes[Region::Act as usize] = 48 << 20;
    for (t, d) in [(3, 12), (33, 24), (70, 96)] {
        for example in examples::examples(t, d) {
            for types in types {
                let floats: Vec<DType> = types.iter().copied().cycle().take(example.tensors.len()).collect();
                let mut dev = Device::on(notes.device(sizes), types[0]);
                example.run_on(&mut dev, &example.tensors, &floats);
            }
        }
    }
}

/// Modules that are, of a kernel, the first with their types or with one of their constants.
fn covering(launches: &Launches) -> Vec<&Module> {
    let mut modules: Vec<_> = launches.modules.iter().collect();
    modules.sort_by_key(|(_, (first, _))| *first);
    let mut seen = HashSet::new();
    let mut new = |module: &Module, entry: &'static str| {
        let (types, constants): (Vec<_>, Vec<_>) =
            module.defines.iter().cloned().partition(|(name, _)| name.ends_with("_T") || *name == "REAL");
        let constants = constants.into_iter().map(|constant| vec![constant]);
        let parts = constants.chain([types]).map(|part| seen.insert((module.source.name, entry, part)));
        parts.filter(|new| *new).count() > 0
    };
    let mut covers = |module: &Module, entries: Vec<&'static str>| {
        entries.into_iter().filter(|entry| new(module, entry)).count() > 0
    };
    let taken = modules.into_iter().filter(|(module, (_, entries))| covers(module, entries.keys().copied().collect()));
    taken.map(|(module, _)| module).collect()
}

/// `X_T=bf16 VEC=8`
fn words(module: &Module) -> String {
    let words: Vec<String> = module.defines.iter().map(|(name, value)| format!("{name}={value}")).collect();
    words.join(" ")
}
