//! Lanes of ranks that are threads and share a card. Each lane of a rank is a stream. When all members of a group have come,
//! one of them issues the operation on its stream, behind what each has said; each goes on behind an event.
use crate::compute::Compute;
use crate::driver::{Event, Stream};
use crate::kernels::Kernels;
use crate::ops::collectives;
use backend::{Mark, Span};
use comm::{Call, Move, Mover, Post};
use std::sync::{Arc, Mutex};

pub struct Lane {
    stream: Stream,
    compute: Arc<Compute>,
    kernels: Arc<Kernels>,
}

impl Lane {
    /// Of the rank whose computation is `compute`.
    pub fn new(compute: &Arc<Compute>, kernels: &Arc<Kernels>) -> Result<Lane, String> {
        let stream = Stream::new(&compute.stream.card, true)?;
        Ok(Lane { stream, compute: compute.clone(), kernels: kernels.clone() })
    }
}

pub struct Transfer {
    call: Call,
    /// Of the members that take part: their memory, and from when on it may be touched.
    posts: Vec<Option<(Post, Arc<Event>)>>,
    /// Behind it, once somebody has issued it.
    over: Mutex<Option<Arc<Event>>>,
}

impl Transfer {
    fn over(&self) -> Arc<Event> {
        let over = self.over.lock().expect("nothing panics with the lock");
        over.clone().expect("somebody has made an end of it")
    }

    /// Address of `part` of what a member gives or takes, in a whole buffer or in one that is this part alone.
    fn place(&self, span: Option<&Span>, part: usize, part_len: usize) -> u64 {
        let span = span.expect("the call wants the loans of the operation");
        let first = self.call.start(part, part_len, span.len());
        span.ptr() as u64 + (first * self.call.dtype.bytes()) as u64
    }
}

impl Mover for Lane {
    type Ready = Arc<Event>;
    type Job = Transfer;
    const AT_ONCE: bool = true;

    fn ready(&mut self, after: Mark) -> Arc<Event> {
        self.compute.behind(after, &self.stream);
        let ready = Event::new(&self.stream.card);
        self.stream.record(&ready);
        Arc::new(ready)
    }

    fn job(call: Call, posts: Vec<Option<(Post, Arc<Event>)>>) -> Transfer {
        Transfer { call, posts, over: Mutex::default() }
    }

    fn work(&mut self, job: &Transfer) -> bool {
        let mut over = job.over.lock().expect("nothing panics with the lock");
        if over.is_some() {
            return false;
        }
        job.posts.iter().flatten().for_each(|(_, ready)| self.stream.wait(ready));
        self.issue(job);
        let event = Event::new(&self.stream.card);
        self.stream.record(&event);
        *over = Some(Arc::new(event));
        true
    }

    fn done(&mut self, job: &Transfer) {
        self.compute.stream.wait(&job.over());
    }

    fn end(&mut self, job: &Transfer) {
        job.over().synchronize();
    }
}

impl Lane {
    fn issue(&self, job: &Transfer) {
        let (call, members) = (job.call, job.posts.len());
        let parts = call.parts(members);
        let n = call.len / parts;
        for part in 0..parts {
            call.moves(part, members, |what| match what {
                Move::Sum { part, targets } => self.sum(job, part, n, targets),
                Move::Copy { members, parts } => self.copy(job, members, parts, n),
            });
        }
    }

    /// A part of n elements, summed over all members, to `targets`.
    fn sum(&self, job: &Transfer, part: usize, n: usize, targets: std::ops::Range<usize>) {
        let posts: Vec<&Post> = job.posts.iter().flatten().map(|(post, _)| post).collect();
        let terms: Vec<u64> =
            posts.iter().map(|[src, dst]| job.place(src.as_ref().or(dst.as_ref()), part, n)).collect();
        let targets: Vec<u64> = targets.map(|to| job.place(posts[to][1].as_ref(), part, n)).collect();
        if n > 0 {
            let nowhere = |place| unreachable!("{place:?}: a sum knows its addresses");
            let launch = collectives::tree_sum(job.call.dtype, &terms, &targets, n);
            self.kernels.launch(&launch, &nowhere, &self.stream);
        }
    }

    /// Part `give` of member `from` to part `take` of member `to`.
    fn copy(&self, job: &Transfer, [from, to]: [usize; 2], [give, take]: [usize; 2], n: usize) {
        let post = |member: usize| &job.posts[member].as_ref().expect("it takes part").0;
        let [src, dst] = post(from);
        let source = job.place(src.as_ref().or(dst.as_ref()), give, n);
        let target = job.place(post(to)[1].as_ref(), take, n);
        // In place, a member has its own part already.
        if source != target && n > 0 {
            self.stream.copy(source, target, n * job.call.dtype.bytes());
        }
    }
}
