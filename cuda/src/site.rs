//! A card that is ready to be worked on, with everything that its ranks share.
use crate::compile::Compiler;
use crate::driver::Card;
use crate::kernels::Kernels;
use crate::libraries::{Lib, Search};
use crate::products::{F32Products, Products};
use crate::ways::Ways;
use std::path::PathBuf;
use std::sync::Arc;

#[derive(Clone)]
pub struct Site {
    pub card: Arc<Card>,
    pub kernels: Arc<Kernels>,
    pub products: Arc<Products>,
}

impl Site {
    /// `Err`: what is missing, and the way out. Compiled kernels are kept in `cache`, with the ways of products that were found by
    /// timing; `deterministic`: none are timed.
    pub fn open(
        search: &Search,
        ordinal: usize,
        cache: Option<PathBuf>,
        f32: F32Products,
        deterministic: bool,
    ) -> Result<Site, String> {
        for lib in [Lib::Driver, Lib::Nvrtc, Lib::CublasLt] {
            search.load(lib).map_err(|missing| missing.to_string())?;
        }
        let card = Card::open(ordinal)?;
        let oldest = 80;
        if card.facts.arch < oldest {
            return Err(format!(
                "card {ordinal}, {}, is of architecture sm_{}; sm_{oldest} (Ampere) or newer is needed",
                card.name, card.facts.arch
            ));
        }
        let timed = (!deterministic).then(|| Ways::of(&card.name, cache.as_deref()));
        let products = Products::new(f32, card.facts.workspace(), timed)?;
        let kernels = Kernels::new(card.clone(), Compiler::new(card.facts.arch, cache));
        Ok(Site { card, kernels: Arc::new(kernels), products: Arc::new(products) })
    }
}
