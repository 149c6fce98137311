//! A card that is ready to be worked on, with everything that its ranks share.
use crate::attentions::Attentions;
use crate::compile::Compiler;
use crate::driver::{Card, Stream};
use crate::kernels::Kernels;
use crate::libraries::{Lib, Search};
use crate::needs::Needs;
use crate::products::{F32Products, Products};
use crate::ways::Ways;
use crate::work::{self, ByCudnn};
use std::path::PathBuf;
use std::sync::Arc;

#[derive(Clone)]
pub struct Site {
    pub card: Arc<Card>,
    /// What has a say in how operations are cut.
    pub facts: work::Card,
    /// Where what was made for the card is kept.
    pub cache: Option<PathBuf>,
    /// Who does attention, and why, for people.
    pub attention: String,
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
        let mut search = search.clone();
        search.driver().map_err(|missing| missing.to_string())?;
        for lib in [Lib::Nvrtc, Lib::CublasLt] {
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
        let kernels = Kernels::new(card.clone(), Compiler::new(card.facts.arch, cache.clone()));
        let cudnn = search.load(Lib::Cudnn);
        let facts = work::Card { cudnn: cudnn.is_ok().then_some(ByCudnn { deterministic }), ..card.facts };
        let attention = cudnn.as_ref().map(|cudnn| format!("cuDNN {}", cudnn.version)).unwrap_or_default();
        let (kernels, products) = (Arc::new(kernels), Arc::new(products));
        let site = Site { card, facts, cache, attention, kernels, products };
        let why = cudnn.map_err(|missing| missing.to_string()).and_then(|_| site.cudnn().map(drop));
        Ok(why.map_or_else(|why| site.without_cudnn(&why), |()| site.clone()))
    }

    fn cudnn(&self) -> Result<Attentions, String> {
        Attentions::new(&Stream::new(&self.card, false)?, self.cache.as_deref())
    }

    /// The same with attention by our own kernels, because of what cuDNN is or says.
    pub fn without_cudnn(&self, why: &str) -> Site {
        let attention = format!("our own kernels ({why})");
        Site { facts: work::Card { cudnn: None, ..self.facts }, attention, ..self.clone() }
    }

    /// Whether cuDNN has a plan for each of these attentions.
    pub fn attends(&self, needs: &Needs) -> Result<(), String> {
        if needs.attends.is_empty() {
            return Ok(());
        }
        let mut attentions = self.cudnn()?;
        needs.attends.iter().try_for_each(|(pass, shape)| attentions.plan(*pass, *shape).map(drop))
    }
}
