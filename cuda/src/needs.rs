//! What a run will need of a card, found out without one: of each operation what it becomes.
use crate::cudnn::{self, Pass};
use crate::lower;
use crate::work::{Attend, Card, Module, Product, Work};
use backend::Op;
use std::collections::HashSet;

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
                Work::Attend(attend) => {
                    let Attend { pass, shape, .. } = *attend;
                    if !self.attends.contains(&(pass, shape)) {
                        self.attends.push((pass, shape));
                    }
                }
                Work::Copy { .. } => {}
            }
        }
    }
}
