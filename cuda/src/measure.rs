//! What a card does in a second, measured: operations on copies of their tensors, one behind the other, between two events
//! of the card's own clock.
use crate::compute::Compute;
use crate::device::Cuda;
use crate::driver::{Event, Memory, Pinned, Stream};
use crate::needs::Needs;
use crate::site::Site;
use backend::{Backend, Copies, DType, Op, Region, View, draw};
use std::sync::Arc;

/// An operation that is done again and again, by turns on tensors that no cache holds any more.
pub struct Replay {
    dev: Cuda,
    compute: Arc<Compute>,
    copies: Copies,
    turn: usize,
}

/// A time is of at least so many seconds, where one operation is shorter.
const LONG_ENOUGH: f64 = 0.02;
/// So many times are taken.
const ROUNDS: usize = 5;
/// In one round.
const MOST: usize = 2000;

impl Replay {
    /// `put` fills a tensor of the operation, whose place on this device is the third argument.
    pub fn new(site: &Site, op: Op, mut put: impl FnMut(&mut dyn Backend, View, View)) -> Result<Replay, String> {
        // Twice the cache would do if it forgot what is oldest; it only mostly does.
        let mut copies = Copies::new(op, 4 * site.card.l2.max(1));
        if copies.number > 1 && copies.sizes()[Region::Act as usize] > site.card.free() / 2 {
            copies.number = 1;
        }
        let mut needs = Needs::default();
        needs.note(copies.op(0), site.facts);
        let site = &site.attends(&needs).map_or_else(|why| site.without_cudnn(&why), |()| site.clone());
        if site.facts.cudnn.is_none() {
            needs.note(copies.op(0), site.facts);
        }
        let mut dev = Cuda::new(site, copies.sizes(), &needs)?;
        for copy in 0..copies.number {
            copies.views().into_iter().for_each(|view| put(&mut dev, view, copies.place(copy, view)));
        }
        let compute = dev.compute();
        Ok(Replay { dev, compute, copies, turn: 0 })
    }

    /// How many copies of the tensors there are.
    pub fn copies(&self) -> usize {
        self.copies.number
    }

    /// Seconds of one, several times, the shortest first.
    pub fn times(&mut self) -> Vec<f64> {
        // The first ones compile and load.
        (0..self.copies.number).for_each(|_| self.run());
        let one = self.round(1).max(1e-9);
        let many = (LONG_ENOUGH / one).clamp(1.0, MOST as f64) as usize;
        let mut times: Vec<f64> = (0..ROUNDS).map(|_| self.round(many)).collect();
        times.sort_by(f64::total_cmp);
        times
    }

    fn run(&mut self) {
        self.dev.run(self.copies.op(self.turn));
        self.turn += 1;
    }

    /// Seconds of one of `many`.
    fn round(&mut self, many: usize) -> f64 {
        let [began, ended] = [(); 2].map(|()| Event::timed(&self.compute.stream.card));
        self.compute.stream.record(&began);
        (0..many).for_each(|_| self.run());
        self.compute.stream.record(&ended);
        ended.synchronize();
        began.seconds_until(&ended) / many as f64
    }
}

/// Random numbers.
fn random(dev: &mut dyn Backend, _: View, place: View) {
    draw(dev, place);
}

/// The shortest time of one operation on random numbers.
fn best(site: &Site, op: Op) -> Result<f64, String> {
    Ok(Replay::new(site, op, random)?.times()[0])
}

/// Bytes a second that are read and written when so many are copied from one place of the card to another.
pub fn copy(site: &Site, bytes: usize) -> Result<f64, String> {
    let view = |offset| View { region: Region::Act, dtype: DType::F32, offset, len: bytes / 4 };
    Ok(2.0 * bytes as f64 / best(site, Op::Copy { x: view(0), y: view(bytes) })?)
}

/// Operations a second of a product of two (n, n) matrices, in the way that a run would take.
pub fn product(site: &Site, dtype: DType, n: usize) -> Result<f64, String> {
    let view = |at: usize| View { region: Region::Act, dtype, offset: at * n * n * dtype.bytes(), len: n * n };
    let op = Op::Linear { x: view(0), w: view(1), add: None, y: view(2), dims: [n; 3] };
    Ok(op.flops() / best(site, op)?)
}

/// Seconds from one launch of a kernel with next to nothing to do to the next.
pub fn launch(site: &Site) -> Result<f64, String> {
    let y = View { region: Region::Act, dtype: DType::F32, offset: 0, len: 1 };
    best(site, Op::Fill { y, value: 1.0 })
}

/// Bytes a second from pinned memory of the host to the card.
pub fn upload(site: &Site, bytes: usize) -> Result<f64, String> {
    let (mut pinned, memory) = (Pinned::new(&site.card, bytes)?, Memory::new(&site.card, bytes)?);
    // Pages that were never written may all be the same page.
    pinned.bytes().iter_mut().enumerate().for_each(|(i, byte)| *byte = i as u8);
    let stream = Stream::new(&site.card, false)?;
    let round = |_| {
        let [began, ended] = [(); 2].map(|()| Event::timed(&site.card));
        stream.record(&began);
        stream.upload(pinned.bytes(), memory.address);
        stream.record(&ended);
        ended.synchronize();
        began.seconds_until(&ended)
    };
    let shortest = (0..ROUNDS).map(round).fold(f64::INFINITY, f64::min);
    Ok(bytes as f64 / shortest)
}
