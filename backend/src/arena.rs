//! Memory of one rank: regions allocated once, and the ledger that keeps views honest.
//!
//! Soundness in four sentences. (1) A `Mem` is mapped zeroed and aligned and unmapped when its last `Arc` goes; every
//! bit pattern is a valid [`Element`]. (2) Slices come only out of `Arena::resolve(&mut self)`, so slices of two calls
//! never coexist; inside one call each written view is checked against every other view. (3) Memory that a communicator
//! may touch is a [`Loan`]: an affine token that the arena issues and takes back; until then the ledger refuses
//! conflicting views, like a `RefCell` whose borrow lives on another thread. (4) Nobody forms a reference to a whole
//! region, only to checked parts of it, all derived from one raw base pointer.
//!
//! Correct waits are therefore not needed for memory safety: they are what makes the ledger never fire.
use crate::{DType, Element, Event, Mark, Queue, REGIONS, Region, View};
use memmap2::MmapMut;
use std::{marker::PhantomData, ptr::NonNull, sync::Arc};

/// Bytes of each region, by `Region as usize`.
pub type Sizes = [usize; REGIONS.len()];

/// Every slab starts on a cache line.
const ALIGN: usize = 64;

/// One allocation. `base` is raw on purpose, see (4).
struct Mem {
    base: NonNull<u8>,
    size: usize,
    keeper: Keeper,
}
/// What keeps memory allocated; nobody looks at it through this.
enum Keeper {
    /// The host's.
    Pages(#[allow(dead_code)] MmapMut),
    /// A card's: addresses that mean nothing to the host.
    Card(#[allow(dead_code)] Arc<dyn Send + Sync>),
    /// Nothing: a phantom (Meta) has addresses but no memory.
    Nothing,
}
// SAFETY: Mem only hands out raw pointers; who may use them is decided by Arena and Loan.
unsafe impl Send for Mem {}
// SAFETY: as above.
unsafe impl Sync for Mem {}

impl Mem {
    fn new(size: usize, real: bool) -> Arc<Mem> {
        if !real {
            return Mem::at(ALIGN, size, Keeper::Nothing);
        }
        let mut pages = zeroed_pages(size.max(ALIGN));
        let base = NonNull::new(pages.as_mut_ptr()).expect("memory is not at address zero");
        Arc::new(Mem { base, size, keeper: Keeper::Pages(pages) })
    }
    fn at(address: usize, size: usize, keeper: Keeper) -> Arc<Mem> {
        let base = NonNull::new(std::ptr::without_provenance_mut(address)).expect("memory is not at address zero");
        Arc::new(Mem { base, size, keeper })
    }
}

/// Large pages, where the system has them: a product reads columns of matrices, a page or more apart.
fn zeroed_pages(size: usize) -> MmapMut {
    let pages = MmapMut::map_anon(size).unwrap_or_else(|e| panic!("{size} bytes of memory: {e}"));
    #[cfg(target_os = "linux")]
    if let Err(e) = pages.advise(memmap2::Advice::HugePage) {
        // A kernel without them: slower, and right.
        assert_eq!(e.kind(), std::io::ErrorKind::InvalidInput, "{e}");
    }
    pages
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Access {
    Read,
    Write,
}

/// What an engine sees of a loan: an address that stays allocated as long as the span lives.
#[derive(Clone)]
pub struct Span {
    mem: Arc<Mem>,
    view: View,
    /// Of a deferred loan, the end of the engine's side.
    _end: Option<Arc<End>>,
}
impl Span {
    /// *Access* is allowed only while the loan that the span came from is out.
    pub fn ptr(&self) -> *mut u8 {
        self.mem.base.as_ptr().wrapping_add(self.view.offset)
    }
    pub fn dtype(&self) -> DType {
        self.view.dtype
    }
    /// Elements.
    pub fn len(&self) -> usize {
        self.view.len
    }
    pub fn is_empty(&self) -> bool {
        self.view.len == 0
    }
    /// Keeps the memory allocated, and no more: the loan ends without it.
    pub fn anchor(&self) -> Span {
        Span { _end: None, ..self.clone() }
    }
    /// Whether the host may touch the memory: not that of a card, nor that of a phantom, which has none.
    pub fn is_of_host(&self) -> bool {
        matches!(self.mem.keeper, Keeper::Pages(_))
    }
    /// Whether there is any memory.
    pub fn is_real(&self) -> bool {
        !matches!(self.mem.keeper, Keeper::Nothing)
    }
}

/// The right to touch a view from any thread. Not `Clone`: it must come back through `settle`; a lost loan locks its
/// view for good, which is safe, and loud at the next use.
#[must_use = "a loan that is not settled locks its view"]
pub struct Loan {
    view: View,
    access: Access,
    span: Span,
    ready: Mark,
    /// Of the device that lent, if it works behind one.
    compute: Option<Queue>,
    id: u64,
}

impl Loan {
    pub fn view(&self) -> View {
        self.view
    }
    pub fn access(&self) -> Access {
        self.access
    }
    pub fn span(&self) -> &Span {
        &self.span
    }
    /// The loan holds from this point of the compute queue on: an engine must not touch the memory before.
    pub fn ready(&self) -> Mark {
        self.ready
    }

    /// A loan that holds from a point of its device's queue on.
    pub fn from(self, ready: Mark) -> Loan {
        Loan { ready, ..self }
    }

    /// A loan of a device behind a queue, whose jobs are all its accesses.
    pub(crate) fn behind(self, compute: Queue, ready: Mark) -> Loan {
        Loan { ready, compute: Some(compute), ..self }
    }

    /// Two sides of a loan, for an engine that works on a thread of its own. The engine's side cannot be settled, and
    /// ends when the last of its spans is dropped. The host's side is the call that gives the loan back, over in queue
    /// order: what the device does after that call runs after the engine's side has ended.
    pub fn defer(self) -> (Loan, impl FnOnce() -> Loan + Send) {
        let compute = self.compute.clone().expect("only a device behind a queue can go on before a transfer ends");
        let end = Event::default();
        let span = Span { _end: Some(Arc::new(End(end.clone()))), ..self.span.clone() };
        let engine = Loan { span, id: NEVER_ISSUED, compute: None, ..self };
        let back = move || {
            compute.push(move || end.wait());
            self
        };
        (engine, back)
    }
}
/// No loan of an arena has this number.
const NEVER_ISSUED: u64 = 0;

/// Signals when it goes, whatever happened to the engine's side: a thread that panics drops its spans too.
struct End(Event);
impl Drop for End {
    fn drop(&mut self) {
        self.0.signal();
    }
}

pub struct Arena {
    mem: [Arc<Mem>; REGIONS.len()],
    ledger: Vec<(u64, View, Access)>,
    last_id: u64,
    high: Sizes,
}

impl Arena {
    /// The only allocation of device memory in a run.
    pub fn new(sizes: Sizes) -> Arena {
        Arena::with(sizes.map(|s| Mem::new(s, true)))
    }

    /// Addresses without memory: every check, no slice.
    pub fn phantom(sizes: Sizes) -> Arena {
        Arena::with(sizes.map(|s| Mem::new(s, false)))
    }

    /// Memory of a card, by the address and the size of each region: every check, no slice. Addresses are kept allocated
    /// by their keepers as long as the arena or a span of it lives.
    pub fn of_card(regions: [(u64, usize, Arc<dyn Send + Sync>); REGIONS.len()]) -> Arena {
        Arena::with(regions.map(|(address, size, keeper)| Mem::at(address as usize, size, Keeper::Card(keeper))))
    }

    fn with(mem: [Arc<Mem>; REGIONS.len()]) -> Arena {
        Arena { mem, ledger: vec![], last_id: 0, high: [0; REGIONS.len()] }
    }

    /// A second arena over the same memory, with a ledger of its own.
    ///
    /// # Safety
    /// Only one of the two may `resolve`, and accesses through it must be ordered by the caller against those of the
    /// loans that the other one issues.
    pub(crate) unsafe fn alias(&self) -> Arena {
        Arena::with(self.mem.clone())
    }

    pub fn high_water(&self, region: Region) -> usize {
        self.high[region as usize]
    }

    /// Inside its region, and in no conflict with a loan.
    fn admit(&mut self, view: View, access: Access) {
        let region = view.region as usize;
        let end = view.offset + view.bytes();
        assert!(view.offset.is_multiple_of(view.dtype.bytes()), "{view:?} is not aligned");
        assert!(end <= self.mem[region].size, "{view:?} ends outside its region of {} bytes", self.mem[region].size);
        for (id, lent, lent_for) in &self.ledger {
            let conflict = access == Access::Write || *lent_for == Access::Write;
            assert!(
                !(conflict && view.overlaps(lent)),
                "{access:?} of {view:?} while loan #{id} holds {lent:?} for {lent_for:?}: a wait is missing"
            );
        }
        self.high[region] = self.high[region].max(end);
    }

    /// All checks of one operation: `reads` may overlap each other, a write overlaps nothing.
    pub fn check(&mut self, reads: &[View], writes: &[View]) {
        for (i, w) in writes.iter().enumerate() {
            for other in reads.iter().chain(&writes[i + 1..]) {
                assert!(!w.overlaps(other), "aliasing inside one operation: {w:?} and {other:?}");
            }
            self.admit(*w, Access::Write);
        }
        for r in reads {
            self.admit(*r, Access::Read);
        }
    }

    /// Slices for one operation. An in-place operation names its view once, as a write.
    pub fn resolve<const R: usize, const W: usize>(
        &mut self,
        reads: [View; R],
        writes: [View; W],
    ) -> ([In<'_>; R], [Out<'_>; W]) {
        self.check(&reads, &writes);
        let at = |v: View| {
            let mem = &self.mem[v.region as usize];
            assert!(matches!(mem.keeper, Keeper::Pages(_)), "only memory of the host has slices");
            mem.base.as_ptr().wrapping_add(v.offset)
        };
        (reads.map(|v| In(at(v), v, PhantomData)), writes.map(|v| Out(at(v), v, PhantomData)))
    }

    pub fn lend(&mut self, view: View, access: Access) -> Loan {
        self.admit(view, access);
        self.last_id += 1;
        self.ledger.push((self.last_id, view, access));
        let span = Span { mem: self.mem[view.region as usize].clone(), view, _end: None };
        Loan { view, access, span, ready: Mark::default(), compute: None, id: self.last_id }
    }

    pub fn settle(&mut self, loan: Loan) {
        let at = self.ledger.iter().position(|(id, ..)| *id == loan.id).expect("a loan is settled where it was issued");
        self.ledger.swap_remove(at);
    }
}

/// A view that an operation reads; typed on use.
pub struct In<'a>(*const u8, View, PhantomData<&'a u8>);
/// A view that an operation writes; typed on use.
pub struct Out<'a>(*mut u8, View, PhantomData<&'a mut u8>);

impl<'a> In<'a> {
    pub fn dtype(&self) -> DType {
        self.1.dtype
    }
    pub fn bytes(self) -> &'a [u8] {
        // SAFETY: as for `of`; every type can be read as bytes.
        unsafe { std::slice::from_raw_parts(self.0, self.1.bytes()) }
    }
    pub fn of<E: Element>(self) -> &'a [E] {
        assert_eq!(self.1.dtype, E::DTYPE, "{:?}", self.1);
        // SAFETY: in bounds, aligned and free of writers by `check`; 'a borrows the arena mutably, so neither
        // `resolve` nor `lend` can run while the slice lives; the dtype matches.
        unsafe { std::slice::from_raw_parts(self.0.cast(), self.1.len) }
    }
}
impl<'a> Out<'a> {
    pub fn dtype(&self) -> DType {
        self.1.dtype
    }
    pub fn bytes(self) -> &'a mut [u8] {
        // SAFETY: as for `of`; every bit pattern is a valid element.
        unsafe { std::slice::from_raw_parts_mut(self.0, self.1.bytes()) }
    }
    pub fn of<E: Element>(self) -> &'a mut [E] {
        assert_eq!(self.1.dtype, E::DTYPE, "{:?}", self.1);
        // SAFETY: as for `In`, and free of any other view by `check`.
        unsafe { std::slice::from_raw_parts_mut(self.0.cast(), self.1.len) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn view(offset: usize, len: usize) -> View {
        View { region: Region::Act, dtype: DType::F32, offset, len }
    }
    fn arena() -> Arena {
        Arena::new([0, 0, 0, 64, 0, 0])
    }

    #[test]
    #[should_panic(expected = "aliasing inside one operation")]
    fn overlap_is_refused() {
        arena().resolve([view(0, 5)], [view(16, 2)]);
    }
    #[test]
    #[should_panic(expected = "a wait is missing")]
    fn a_lent_view_is_locked() {
        let mut a = arena();
        let _loan = a.lend(view(0, 4), Access::Read);
        a.resolve([], [view(12, 1)]);
    }
    #[test]
    #[should_panic(expected = "outside its region")]
    fn one_element_beyond_the_region_is_refused() {
        arena().resolve([view(0, 17)], []);
    }
    #[test]
    fn a_settled_loan_unlocks_its_view() {
        let mut a = arena();
        let loan = a.lend(view(0, 4), Access::Write);
        a.settle(loan);
        let ([], [y]) = a.resolve([], [view(0, 4)]);
        y.of::<f32>().fill(1.0);
        let ([x], []) = a.resolve([view(4, 2)], []);
        assert_eq!(x.of::<f32>(), [1.0, 1.0]);
        assert_eq!(a.high_water(Region::Act), 16);
    }
}
