//! The workers of a device, and the scratch memory they share.
//!
//! A step is thousands of short jobs. Workers that wait for the next one spin for a while before they sleep, jobs are
//! handed over without an allocation, and scratch memory comes back to the pool. Which worker does which part is chance:
//! a kernel cuts its work by shape, so that chance has no say in its bits.
use super::isa::Isa;
pub use super::parts::{Parts, pieces, pieces_mut};
use bytemuck::Pod;
use std::any::Any;
use std::cell::UnsafeCell;
use std::ops::{Deref, DerefMut};
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::*};
use std::sync::{Arc, Mutex};
use std::thread::{self, JoinHandle};

/// Looks at the next job before a worker sleeps: some 100 microseconds.
const SPINS: usize = 500;
/// Looks at the others before a thread offers its core to those who have something to do.
const YIELD_AFTER: usize = 200;
/// In `gate`: no worker may join.
const CLOSED: usize = 1 << (usize::BITS - 1);

pub struct Pool {
    isa: Isa,
    shared: Arc<Shared>,
    workers: Vec<JoinHandle<()>>,
    scratch: Mutex<Vec<Vec<Line>>>,
}

/// A cache line.
#[derive(Clone, Copy, Default)]
#[repr(C, align(64))]
struct Line([u64; 8]);
// SAFETY: every bit pattern is one, and so is zero.
unsafe impl bytemuck::Zeroable for Line {}
// SAFETY: eight integers and no padding.
unsafe impl Pod for Line {}

/// The work of a job: index of a part, called from any thread.
type Work = *const (dyn Fn(usize) + Sync);

struct Shared {
    /// Number of the job; workers watch it.
    job: AtomicUsize,
    /// How many workers are inside of the job, or `CLOSED` and those that are about to notice.
    gate: AtomicUsize,
    /// The next part, and how many there are.
    next: AtomicUsize,
    parts: AtomicUsize,
    /// Written while the gate is closed and nobody inside.
    work: UnsafeCell<Option<Work>>,
    /// What the first panic of a worker said.
    panic: Mutex<Option<Box<dyn Any + Send>>>,
    busy: AtomicBool,
    end: AtomicBool,
    /// Which workers sleep.
    asleep: Vec<AtomicBool>,
}
// SAFETY: `work` is written by the caller of `each` alone (`Alone`), while the gate is closed and nobody is inside, and
// read by those who joined after it was opened. What it points to is `Sync`.
unsafe impl Sync for Shared {}
// SAFETY: as above.
unsafe impl Send for Shared {}

impl Pool {
    /// As many threads as are asked for, the caller of `each` among them.
    pub fn new(threads: usize, isa: Isa) -> Pool {
        let others = threads.max(1) - 1;
        let zero = || AtomicUsize::new(0);
        let shared = Arc::new(Shared {
            job: zero(),
            gate: AtomicUsize::new(CLOSED),
            next: zero(),
            parts: zero(),
            work: UnsafeCell::new(None),
            panic: Mutex::new(None),
            busy: AtomicBool::new(false),
            end: AtomicBool::new(false),
            asleep: (0..others).map(|_| AtomicBool::new(false)).collect(),
        });
        let start = |worker: usize| {
            let shared = shared.clone();
            let builder = thread::Builder::new().name(format!("worker {}", worker + 1));
            builder.spawn(move || shared.serve(worker)).expect("threads can be started")
        };
        Pool { isa, workers: (0..others).map(start).collect(), scratch: Mutex::new(vec![]), shared }
    }

    pub fn isa(&self) -> Isa {
        self.isa
    }

    pub fn threads(&self) -> usize {
        self.workers.len() + 1
    }

    /// Calls `work` once with every number below `n`, on all threads; compiled for the best instructions.
    #[inline(always)]
    pub fn each(&self, n: usize, work: impl Fn(usize) + Sync) {
        let (isa, _alone) = (self.isa, Alone::of(&self.shared.busy));
        let one = |i| {
            isa.run(
                #[inline(always)]
                || work(i),
            )
        };
        if self.workers.is_empty() || n <= 1 {
            (0..n).for_each(one);
        } else {
            self.share(n, &one);
        }
    }

    /// Calls `work` once with every part and its number, on all threads; compiled for the best instructions, where
    /// `work` is `#[inline(always)]`.
    #[inline(always)]
    pub fn over<P: Parts>(&self, parts: P, work: impl Fn(usize, P::Part) + Sync) {
        // SAFETY: `each` gives every number once.
        self.each(
            parts.count(),
            #[inline(always)]
            |i| work(i, unsafe { parts.part(i) }),
        );
    }

    fn share(&self, n: usize, work: &(dyn Fn(usize) + Sync)) {
        let shared = &*self.shared;
        *shared.panic.lock().expect("nobody panics with the lock") = None;
        shared.parts.store(n, Relaxed);
        shared.next.store(0, Relaxed);
        let work: *const (dyn Fn(usize) + Sync + '_) = work;
        // SAFETY: the gate is closed and nobody inside. Nobody is inside either when `Finish` has dropped, at the end of
        // this function however it ends: until then the borrow of `work` lives.
        unsafe { *shared.work.get() = Some(std::mem::transmute::<*const (dyn Fn(usize) + Sync + '_), Work>(work)) };
        let finish = Finish(shared);
        shared.gate.fetch_and(!CLOSED, Release);
        shared.job.fetch_add(1, SeqCst);
        // The caller takes a part too.
        for (worker, asleep) in self.workers.iter().zip(&shared.asleep).take(n - 1) {
            if asleep.swap(false, SeqCst) {
                worker.thread().unpark();
            }
        }
        shared.take_parts();
        drop(finish);
        let panic = shared.panic.lock().expect("nobody panics with the lock").take();
        if let Some(panic) = panic {
            resume_unwind(panic);
        }
    }

    /// Scratch memory: `len` elements of any value.
    pub fn scratch<E: Pod>(&self, len: usize) -> Scratch<'_, E> {
        let lines = (len * size_of::<E>()).div_ceil(size_of::<Line>());
        let mut free = self.scratch.lock().expect("nobody panics with the lock");
        // The smallest that is large enough, else the largest grows.
        let fits = |v: &Vec<Line>| (v.len() < lines, if v.len() < lines { usize::MAX - v.len() } else { v.len() });
        let best = (0..free.len()).min_by_key(|&i| fits(&free[i]));
        let mut memory = best.map(|i| free.swap_remove(i)).unwrap_or_default();
        drop(free);
        if memory.len() < lines {
            memory.resize(lines, Line::default());
        }
        Scratch { pool: self, memory, len, of: std::marker::PhantomData }
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        self.shared.end.store(true, Relaxed);
        self.shared.job.fetch_add(1, SeqCst);
        for worker in self.workers.drain(..) {
            worker.thread().unpark();
            worker.join().expect("a worker catches what its work panics with");
        }
    }
}

/// Between two looks at what another thread does.
fn pause(looks: usize) {
    if looks < YIELD_AFTER { std::hint::spin_loop() } else { thread::yield_now() }
}

/// Ends a job: nobody joins any more, and those inside come out. After a panic of the caller they need not go on.
struct Finish<'a>(&'a Shared);
impl Drop for Finish<'_> {
    fn drop(&mut self) {
        let shared = self.0;
        shared.skip_parts();
        shared.gate.fetch_or(CLOSED, AcqRel);
        let mut looks = 0;
        while shared.gate.load(Acquire) != CLOSED {
            pause(looks);
            looks += 1;
        }
    }
}

/// The right to start a job.
struct Alone<'a>(&'a AtomicBool);
impl Alone<'_> {
    /// Also where no other thread would be asked: what is refused does not depend on the number of threads.
    fn of(busy: &AtomicBool) -> Alone<'_> {
        assert!(!busy.swap(true, Acquire), "a job inside of a job");
        Alone(busy)
    }
}
impl Drop for Alone<'_> {
    fn drop(&mut self) {
        self.0.store(false, Release);
    }
}

impl Shared {
    fn serve(&self, worker: usize) {
        let mut seen = 0;
        loop {
            self.await_job(worker, seen);
            seen = self.job.load(SeqCst);
            if self.end.load(Relaxed) {
                return;
            }
            if self.gate.fetch_add(1, Acquire) & CLOSED == 0
                && let Err(panic) = catch_unwind(AssertUnwindSafe(|| self.take_parts()))
            {
                self.skip_parts();
                self.panic.lock().expect("nobody panics with the lock").get_or_insert(panic);
            }
            self.gate.fetch_sub(1, Release);
        }
    }

    fn await_job(&self, worker: usize, seen: usize) {
        for look in 0..SPINS {
            if self.job.load(Acquire) != seen {
                return;
            }
            pause(look);
        }
        while self.job.load(SeqCst) == seen {
            self.asleep[worker].store(true, SeqCst);
            // Who brings the next job looks at `asleep` after it has changed `job`: one of the two sees the other.
            if self.job.load(SeqCst) == seen {
                thread::park();
            }
        }
        self.asleep[worker].store(false, SeqCst);
    }

    fn skip_parts(&self) {
        self.next.store(self.parts.load(Relaxed), Relaxed);
    }

    fn take_parts(&self) {
        // SAFETY: the caller of `each`, or a worker that went through the open gate: `work` is that of the job, and its
        // borrow lives until all of these have come out.
        let work = unsafe { &*(*self.work.get()).expect("an open gate has a job") };
        let parts = self.parts.load(Relaxed);
        loop {
            let i = self.next.fetch_add(1, Relaxed);
            if i >= parts {
                return;
            }
            work(i);
        }
    }
}

// ---- scratch -------------------------------------------------------------------------------------------------------

/// Memory that goes back to the pool.
pub struct Scratch<'a, E> {
    pool: &'a Pool,
    memory: Vec<Line>,
    len: usize,
    of: std::marker::PhantomData<E>,
}
impl<E: Pod> Deref for Scratch<'_, E> {
    type Target = [E];
    fn deref(&self) -> &[E] {
        &bytemuck::cast_slice(&self.memory)[..self.len]
    }
}
impl<E: Pod> DerefMut for Scratch<'_, E> {
    fn deref_mut(&mut self) -> &mut [E] {
        &mut bytemuck::cast_slice_mut(&mut self.memory)[..self.len]
    }
}
impl<E> Drop for Scratch<'_, E> {
    fn drop(&mut self) {
        let memory = std::mem::take(&mut self.memory);
        self.pool.scratch.lock().expect("nobody panics with the lock").push(memory);
    }
}

#[cfg(test)]
mod tests;
