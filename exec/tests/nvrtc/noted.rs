//! A device without memory that notes what a card would launch.
use backend::{Backend, Meta, Op, Sizes, Watched};
use cuda::lower;
use cuda::work::{ByCudnn, Card, Launch, Module, Work};
use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex};

/// What is launched on a card.
pub struct Launches {
    pub card: Card,
    /// Of each module its kernels, with the most of shared memory that they ask for; and when it was needed first.
    pub modules: HashMap<Module, (usize, BTreeMap<&'static str, usize>)>,
}

impl Launches {
    pub fn note(&mut self, launch: Launch) {
        let next = self.modules.len();
        let (_, entries) = self.modules.entry(launch.module).or_insert_with(|| (next, BTreeMap::new()));
        let most = entries.entry(launch.entry).or_default();
        *most = launch.shared.max(*most);
    }

    /// With cuDNN and without.
    fn op(&mut self, op: Op) {
        for cudnn in [None, Some(ByCudnn { deterministic: false })] {
            for work in lower(op, Card { cudnn, ..self.card }).work {
                if let Work::Launch(launch) = work {
                    self.note(launch);
                }
            }
        }
    }
}

#[derive(Clone)]
pub struct Notes(Arc<Mutex<Launches>>);

impl Notes {
    pub fn new(card: Card) -> Notes {
        Notes(Arc::new(Mutex::new(Launches { card, modules: HashMap::new() })))
    }
    pub fn device(&self, sizes: Sizes) -> Box<dyn Backend> {
        let notes = self.clone();
        Box::new(Watched::new(Box::new(Meta::new(sizes)), move |op| notes.0.lock().unwrap().op(op)))
    }
    /// No device is left.
    pub fn end(self) -> Launches {
        let launches = Arc::into_inner(self.0).expect("all devices are gone");
        launches.into_inner().unwrap()
    }
}
