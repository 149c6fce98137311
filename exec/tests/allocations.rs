//! A steady step allocates nothing: memory is planned, and scratch comes back. Only the `gemm` crate packs into memory of
//! its own.
mod common;

use backend::{Meta, Op, Sizes, Watched};
use common::ONE;
use exec::Hyper;
use std::alloc::{GlobalAlloc, Layout as Block, System};
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, Mutex};

struct Counting;
static CALLS: AtomicUsize = AtomicUsize::new(0);
#[global_allocator]
static COUNTING: Counting = Counting;

// SAFETY: the system's allocator does it.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, block: Block) -> *mut u8 {
        CALLS.fetch_add(1, Relaxed);
        // SAFETY: by the contract of this function.
        unsafe { System.alloc(block) }
    }
    unsafe fn dealloc(&self, at: *mut u8, block: Block) {
        // SAFETY: by the contract of this function.
        unsafe { System.dealloc(at, block) }
    }
}

fn calls_of(work: impl FnOnce()) -> usize {
    let before = CALLS.load(Relaxed);
    work();
    CALLS.load(Relaxed) - before
}

#[test]
fn a_steady_step_allocates_nothing_but_what_products_pack() {
    let (world, shape) = (ONE.world(), ONE.shape());
    let mut rank = world.solo(ONE.programs(&ONE.actions()).remove(0));
    common::init(&mut rank);
    let ops = Arc::new(Mutex::new(Vec::with_capacity(1 << 16)));
    let inner = std::mem::replace(&mut rank.dev, Box::new(Meta::new(Sizes::default())));
    let noted = ops.clone();
    rank.dev = Box::new(Watched::new(inner, move |op: Op| {
        // Without an allocation of its own.
        let mut ops = noted.lock().unwrap();
        assert!(ops.len() < ops.capacity());
        ops.push(op);
    }));

    let mut of_step = |step| {
        // The caller's own, made before.
        let mut batches: Vec<Vec<u32>> = (0..shape.micros as u64).map(common::slab).collect();
        ops.lock().unwrap().clear();
        calls_of(|| {
            exec::run(&mut rank, 0, Hyper { lr: 1e-2, step }, &mut |m| std::mem::take(&mut batches[m.0])).unwrap()
        })
    };
    let calls: Vec<usize> = (1..=5).map(&mut of_step).collect();
    let is_product = |op: &Op| matches!(op.name(), "linear" | "linear_backward_input" | "linear_backward_weight");
    let products: Vec<Op> = ops.lock().unwrap().iter().copied().filter(is_product).collect();
    assert!(products.len() > 100);
    ops.lock().unwrap().clear();
    let packing = calls_of(|| products.iter().for_each(|op| rank.dev.run(*op)));
    assert_eq!(calls[2..], [packing; 3], "allocations of each step: {calls:?}");
}
