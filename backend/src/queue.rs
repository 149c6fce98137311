//! A queue of work with a thread of its own: a stream, on a CPU.
//!
//! Jobs run one after another in the order of `push`. With a seed every job is preceded by a short random pause, so
//! that a missing wait between two queues shows in tests instead of hiding behind lucky timing.
use crate::Mark;
use std::sync::mpsc::{Sender, channel};
use std::sync::{Arc, Condvar, Mutex};
use std::time::Duration;

type Job = Box<dyn FnOnce() + Send>;

/// Counts what has finished.
#[derive(Default)]
struct Progress {
    done: Mutex<u64>,
    changed: Condvar,
}

struct Shared {
    /// The sender, and how many jobs were pushed.
    input: Mutex<(Sender<Job>, u64)>,
    progress: Arc<Progress>,
}

/// A handle; clones are handles of the same queue. The thread ends with the last handle, after the last job.
#[derive(Clone)]
pub struct Queue(Arc<Shared>);

impl Queue {
    pub fn new(delays: Option<u64>) -> Queue {
        let (input, jobs) = channel::<Job>();
        let progress = Arc::new(Progress::default());
        let seen = progress.clone();
        std::thread::spawn(move || {
            let _end = End(seen.clone());
            let mut state = delays;
            for job in jobs {
                if let Some(state) = &mut state {
                    pause(state);
                }
                job();
                *seen.done.lock().unwrap() += 1;
                seen.changed.notify_all();
            }
        });
        Queue(Arc::new(Shared { input: Mutex::new((input, 0)), progress }))
    }

    /// Returns the mark behind the job.
    pub fn push(&self, job: impl FnOnce() + Send + 'static) -> Mark {
        let mut input = self.0.input.lock().unwrap();
        input.0.send(Box::new(job)).expect("a queue outlives its handles");
        input.1 += 1;
        Mark(input.1)
    }

    /// The mark behind the last job so far.
    pub fn mark(&self) -> Mark {
        Mark(self.0.input.lock().unwrap().1)
    }

    /// Blocks until all jobs up to `mark` have run.
    pub fn wait(&self, mark: Mark) {
        let Progress { done, changed } = &*self.0.progress;
        drop(changed.wait_while(done.lock().unwrap(), |done| *done < mark.0).unwrap());
    }
}

/// However the thread ends, nobody waits for it in vain: after a panic the waiters go on and meet the poisoned device.
struct End(Arc<Progress>);
impl Drop for End {
    fn drop(&mut self) {
        *self.0.done.lock().unwrap() = u64::MAX;
        self.0.changed.notify_all();
    }
}

/// Up to a millisecond, often nothing.
fn pause(state: &mut u64) {
    *state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
    let draw = *state >> 33;
    if draw.is_multiple_of(4) {
        std::thread::sleep(Duration::from_micros(draw / 4 % 1000));
    }
}

/// A point that one thread reaches and others wait for.
#[derive(Clone, Default)]
pub struct Event(Arc<Progress>);

impl Event {
    pub fn signal(&self) {
        *self.0.done.lock().unwrap() = 1;
        self.0.changed.notify_all();
    }
    pub fn wait(&self) {
        drop(self.0.changed.wait_while(self.0.done.lock().unwrap(), |done| *done == 0).unwrap());
    }
}
