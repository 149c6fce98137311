//! Where the ranks of a test are: threads on the CPU, or with INTERNEVO_TEST_CARD set on a card: `emulator`, or a real one's number.
#![allow(dead_code)] // each test file uses a part
use cuda::{F32Products, Search, Site};
use exec::{Rank, World};
use schedule::RankPrograms;
use std::path::PathBuf;
use std::sync::OnceLock;

pub fn launch<T: Send>(world: &World, programs: Vec<RankPrograms>, body: impl Fn(&mut Rank) -> T + Sync) -> Vec<T> {
    match card() {
        None => world.launch(programs, body),
        Some(site) => world.launch_on_card(site, programs, &|_| {}, body).unwrap_or_else(|e| panic!("{e}")),
    }
}

pub fn solo(world: &World, programs: RankPrograms) -> Rank {
    match card() {
        None => world.solo(programs),
        Some(site) => world.solo_on_card(site, programs).unwrap_or_else(|e| panic!("{e}")),
    }
}

/// One for all tests of a file.
#[allow(clippy::disallowed_methods, reason = "a test is told by the environment where it runs")]
pub fn card() -> Option<&'static Site> {
    static CARD: OnceLock<Option<Site>> = OnceLock::new();
    let open = || {
        let which = std::env::var("INTERNEVO_TEST_CARD").ok()?;
        let mut search = Search::new(&|name| std::env::var(name).ok());
        let mut cache = None;
        if which == "emulator" {
            search.given = vec![emulator::build().unwrap_or_else(|e| panic!("{e}"))];
            cache = Some(PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join("kernels"));
        }
        let site = Site::open(&search, which.parse().unwrap_or(0), cache, F32Products::Full, false);
        Some(site.unwrap_or_else(|e| panic!("{e}")))
    };
    CARD.get_or_init(open).as_ref()
}
