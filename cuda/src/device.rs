//! A rank's device: its memory on a card, and the queue on which its operations happen.
//!
//! `run` lowers an operation and issues it; the host goes on. The ledger of the arena is kept on this side, in queue order,
//! as behind [`backend::Queued`]: a missing wait is refused before any byte is raced for.
use crate::attentions::{Attends, Attentions};
use crate::compute::Compute;
use crate::driver::Memory;
use crate::lower;
use crate::needs::Needs;
use crate::site::Site;
use crate::staging::Staging;
use crate::work::{Place, Work};
use backend::{Access, Arena, Backend, Loan, Mark, Op, REGIONS, Region, Sizes, Touched, View};
use std::sync::Arc;

pub struct Cuda {
    site: Site,
    memory: [Arc<Memory>; REGIONS.len()],
    scratch: Memory,
    ledger: Arena,
    touched: Touched,
    compute: Arc<Compute>,
    staging: Staging,
    /// Where cuDNN is used.
    attentions: Option<Box<dyn Attends>>,
}

impl Cuda {
    /// Everything that a run will need, at once: memory, code, and the best way of each product.
    pub fn new(site: &Site, sizes: Sizes, needs: &Needs) -> Result<Cuda, String> {
        let mut device = Cuda::without(site, sizes, needs)?;
        if site.facts.cudnn.is_some() {
            let attentions = Attentions::new(&device.compute.stream, site.cache.as_deref())?;
            device.attentions = Some(Box::new(attentions));
        }
        device.tune(needs);
        Ok(device)
    }

    /// With somebody else in the place of cuDNN.
    pub fn attending(site: &Site, sizes: Sizes, needs: &Needs, by: Box<dyn Attends>) -> Result<Cuda, String> {
        let mut device = Cuda::without(site, sizes, needs)?;
        device.attentions = Some(by);
        Ok(device)
    }

    fn without(site: &Site, sizes: Sizes, needs: &Needs) -> Result<Cuda, String> {
        let card = &site.card;
        let allocate = |bytes| Memory::new(card, bytes).map(Arc::new);
        let mut memory = vec![];
        for bytes in sizes {
            memory.push(allocate(bytes)?);
        }
        let memory: [Arc<Memory>; REGIONS.len()] = memory.try_into().unwrap_or_else(|_| unreachable!("one a region"));
        let keeper = |m: &Arc<Memory>| -> Arc<dyn Send + Sync> { m.clone() };
        let ledger = Arena::of_card(memory.each_ref().map(|m| (m.address, m.bytes, keeper(m))));
        Ok(Cuda {
            attentions: None,
            site: site.clone(),
            scratch: Memory::new(card, needs.scratch)?,
            memory,
            ledger,
            touched: Touched::default(),
            compute: Arc::new(Compute::new(card)?),
            staging: Staging::new(card)?,
        })
    }

    /// Before anything is in its memory.
    fn tune(&self, needs: &Needs) {
        let address = places(&self.memory, &self.scratch);
        for product in &needs.products {
            self.site.products.tune(product, &address, &self.compute.stream);
        }
    }

    /// For lanes.
    pub fn compute(&self) -> Arc<Compute> {
        self.compute.clone()
    }

    fn touch(&mut self, reads: &[View], writes: &[View]) {
        let mark = self.compute.issued();
        reads.iter().for_each(|view| self.touched.touch(*view, Access::Read, mark));
        writes.iter().for_each(|view| self.touched.touch(*view, Access::Write, mark));
    }
}

/// Where places are.
fn places<'a>(memory: &'a [Arc<Memory>; REGIONS.len()], scratch: &'a Memory) -> impl Fn(Place) -> u64 + 'a {
    |place| match place {
        Place::Of(view) => memory[view.region as usize].address + view.offset as u64,
        Place::Scratch { at, .. } => {
            debug_assert!(at <= scratch.bytes);
            scratch.address + at as u64
        }
    }
}

impl Backend for Cuda {
    fn run(&mut self, op: Op) {
        let (reads, writes) = op.views();
        self.ledger.check(&reads, &writes);
        let lowered = lower(op, self.site.facts);
        let (need, have) = (lowered.scratch, self.scratch.bytes);
        assert!(need <= have, "{op:?} needs {need} bytes of scratch, and the survey said {have}");
        let (address, stream) = (places(&self.memory, &self.scratch), &self.compute.stream);
        for work in &lowered.work {
            match work {
                Work::Launch(launch) => self.site.kernels.launch(launch, &address, stream),
                Work::Product(product) => self.site.products.run(product, &address, stream),
                Work::Attend(attend) => self.attentions.as_mut().expect("the card has cuDNN").run(attend, &address),
                Work::Copy { from, to } => {
                    let [from_at, to_at] = [*from, *to].map(|view| address(Place::Of(view)));
                    stream.copy(from_at, to_at, from.bytes());
                }
            }
        }
        drop(address);
        self.touch(&reads, &writes);
    }

    fn upload(&mut self, src: &[u8], dst: View) {
        assert_eq!(src.len(), dst.bytes());
        self.ledger.check(&[], &[dst]);
        let at = places(&self.memory, &self.scratch)(Place::Of(dst));
        self.staging.upload(&self.compute.stream, src, at);
        self.touch(&[], &[dst]);
    }

    fn download(&mut self, src: View, dst: &mut [u8]) {
        assert_eq!(src.bytes(), dst.len());
        self.ledger.check(&[src], &[]);
        let at = places(&self.memory, &self.scratch)(Place::Of(src));
        self.compute.stream.download(at, dst);
    }

    fn synchronize(&mut self) {
        self.compute.stream.synchronize();
    }

    fn mark(&mut self) -> Mark {
        self.compute.mark()
    }

    fn lend(&mut self, view: View, access: Access) -> Loan {
        let ready = self.touched.ready(view, access);
        self.ledger.lend(view, access).from(ready)
    }

    fn settle(&mut self, loan: Loan) {
        // The lane has made the queue wait: whoever comes after this mark comes after the transfer.
        let mark = self.compute.issued();
        self.touched.touch(loan.view(), loan.access(), mark);
        self.ledger.settle(loan);
    }

    fn high_water(&self, region: Region) -> usize {
        self.ledger.high_water(region)
    }
}

impl Drop for Cuda {
    fn drop(&mut self) {
        // Memory goes when nothing uses it any more.
        if !std::thread::panicking() {
            self.compute.stream.synchronize();
        }
    }
}
