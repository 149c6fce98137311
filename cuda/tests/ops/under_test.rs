//! The device that the tests of operations are about: a card, or what stands in for one.
use backend::{Backend, Isa, Sizes};
use cuda::{Card, Compiler, Cuda, F32Products, Kernels, Lib, Needs, Search};
use std::path::PathBuf;
use std::sync::{Arc, OnceLock};

pub fn device(sizes: Sizes, _threads: usize, _isa: Isa) -> Box<dyn Backend> {
    let (card, kernels) = card();
    let mut needs = Needs::default();
    (needs.scratch, needs.workspace) = (128 << 20, 32 << 20);
    Box::new(Cuda::new(&card, &kernels, sizes, &needs, F32Products::Full).unwrap())
}

/// One for all tests.
#[allow(clippy::disallowed_methods, reason = "a test is told by the environment where it runs")]
pub fn card() -> (Arc<Card>, Arc<Kernels>) {
    static CARD: OnceLock<(Arc<Card>, Arc<Kernels>)> = OnceLock::new();
    let open = || {
        let real = std::env::var("INTERNEVO_TEST_CARD").is_ok();
        let mut search = Search::new(&|name| std::env::var(name).ok());
        let mut cache = None;
        if !real {
            let emulator = emulator::build().expect("an emulator");
            cache = Some(PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join("kernels"));
            search.given = vec![emulator];
        }
        for lib in [Lib::Driver, Lib::Nvrtc, Lib::CublasLt] {
            let loaded = search.load(lib).unwrap_or_else(|e| panic!("{e}"));
            println!("{} {} from {}", lib.name(), loaded.version, loaded.path.display());
        }
        let card = Card::open(0).unwrap();
        let kernels = Kernels::new(card.clone(), Compiler::new(card.facts.arch, cache));
        (card, Arc::new(kernels))
    };
    CARD.get_or_init(open).clone()
}
