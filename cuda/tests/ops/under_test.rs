//! The device that the tests of operations are about: a card, or what stands in for one.
use backend::{Backend, Isa, Sizes};
use cuda::{Cuda, F32Products, Needs, Search, Site};
use std::path::PathBuf;
use std::sync::OnceLock;

pub fn device(sizes: Sizes, _threads: usize, _isa: Isa) -> Box<dyn Backend> {
    Box::new(Cuda::new(site(), sizes, &Needs::scratch(128 << 20)).unwrap())
}

/// One for all tests.
#[allow(clippy::disallowed_methods, reason = "a test is told by the environment where it runs")]
pub fn site() -> &'static Site {
    static SITE: OnceLock<Site> = OnceLock::new();
    SITE.get_or_init(|| {
        let mut search = Search::new(&|name| std::env::var(name).ok());
        let mut cache = None;
        if std::env::var("INTERNEVO_TEST_CARD").is_err() {
            search.given = vec![emulator::build().unwrap_or_else(|e| panic!("{e}"))];
            cache = Some(PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join("kernels"));
        }
        let site = Site::open(&search, 0, cache, F32Products::Full, false).unwrap_or_else(|e| panic!("{e}"));
        println!("on {}", site.card.name);
        site
    })
}
