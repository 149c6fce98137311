//! What a run will need of a card, found out without one: a device that only notes what its operations become.
use crate::cudnn::{self, Pass};
use crate::lower;
use crate::work::{Attend, Card, Module, Product, Work};
use backend::{Access, Backend, Loan, Mark, Meta, Op, Region, Sizes, View};
use std::collections::HashSet;
use std::sync::{Arc, Mutex};

#[derive(Clone, Default, Debug)]
pub struct Needs {
    /// Bytes of scratch.
    pub scratch: usize,
    /// Code, in the order in which it is needed first.
    pub modules: Vec<Module>,
    /// Products; of those that differ only in where their tensors are, some.
    pub products: Vec<Product>,
    /// Passes of attention by cuDNN.
    pub attends: Vec<(Pass, cudnn::Shape)>,
    seen: (HashSet<Module>, HashSet<Shape>),
}

/// Of a product: dimensions, transpositions, types and alignments.
type Shape = ([usize; 3], [bool; 2], [backend::DType; 2], bool, [u32; 3]);

impl Needs {
    /// Of what is not known before: code is compiled when it is met.
    pub fn scratch(scratch: usize) -> Needs {
        Needs { scratch, ..Needs::default() }
    }

    /// Of two ranks of a card.
    pub fn and(&mut self, other: Needs) {
        self.scratch = self.scratch.max(other.scratch);
        self.attends.extend(other.attends);
        self.modules.extend(other.modules.into_iter().filter(|module| self.seen.0.insert(module.clone())));
    }

    pub fn note(&mut self, op: Op, card: Card) {
        let lowered = lower(op, card);
        self.scratch = self.scratch.max(lowered.scratch);
        for work in lowered.work {
            match work {
                Work::Launch(launch) => {
                    if self.seen.0.insert(launch.module.clone()) {
                        self.modules.push(launch.module);
                    }
                }
                Work::Product(p) => {
                    let aligned = [p.a.at, p.b.at, p.d].map(|place| place.alignment());
                    let types = [p.a.at.dtype(), p.d.dtype()];
                    let dims = ([p.m, p.n, p.k], [p.a.transposed, p.b.transposed], types, p.beta != 0.0, aligned);
                    if self.seen.1.insert(dims) {
                        self.products.push(p);
                    }
                }
                Work::Attend(Attend { pass, shape, .. }) => {
                    if !self.attends.contains(&(pass, shape)) {
                        self.attends.push((pass, shape));
                    }
                }
                Work::Copy { .. } => {}
            }
        }
    }
}

/// A device without memory that notes.
pub struct Survey {
    inner: Meta,
    card: Card,
    needs: Arc<Mutex<Needs>>,
}

impl Survey {
    pub fn new(sizes: Sizes, card: Card) -> (Survey, Arc<Mutex<Needs>>) {
        let needs = Arc::default();
        (Survey { inner: Meta::new(sizes), card, needs: Arc::clone(&needs) }, needs)
    }
}

impl Backend for Survey {
    fn run(&mut self, op: Op) {
        self.needs.lock().expect("nothing panics with the lock").note(op, self.card);
        self.inner.run(op);
    }
    fn upload(&mut self, src: &[u8], dst: View) {
        self.inner.upload(src, dst);
    }
    fn download(&mut self, src: View, dst: &mut [u8]) {
        self.inner.download(src, dst);
    }
    fn mark(&mut self) -> Mark {
        self.inner.mark()
    }
    fn lend(&mut self, view: View, access: Access) -> Loan {
        self.inner.lend(view, access)
    }
    fn settle(&mut self, loan: Loan) {
        self.inner.settle(loan);
    }
    fn high_water(&self, region: Region) -> usize {
        self.inner.high_water(region)
    }
}
