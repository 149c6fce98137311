//! The price of every action of a program, in seconds: the program is run, by the interpreter that trains, on a device that
//! computes nothing and communicators that move nothing. Each of their operations only moves one clock on by what it costs, so
//! an action has cost what lies between its beginning and that of the next.
use crate::Profile;
use crate::profile::Link;
use backend::{Access, Backend, Loan, Mark, Meta, Op, Region, View};
use comm::{Aborter, Call, Coll, CommError, Communicator, Ticket};
use exec::{Comms, Hyper, Rank, StepConfig};
use plan::{LANES, Lane, Plan, Res};
use schedule::RankPrograms;
use std::sync::{Arc, Mutex};
use std::time::Duration;

/// Seconds of each action of program `number`: on its device, or between its members once all are there.
pub fn price(
    plan: &Arc<Plan>,
    programs: RankPrograms,
    number: usize,
    step: &StepConfig,
    profile: &Profile,
) -> Vec<f64> {
    let program = programs.programs[number].clone();
    let id = program.rank;
    let spent = Spent::default();
    let mut comms = Comms::default();
    for lane in LANES.into_iter().filter(|lane| *lane != Lane::Compute) {
        let group = plan.group(id, lane);
        if group.len() > 1 {
            let place = group.iter().position(|rank| *rank == id).expect("a rank is in its groups");
            let inner = comm::Meta::new(place, group.len());
            comms.set(lane, Box::new(PricedLane { inner, link: profile.link(&group), spent: spent.clone() }));
        }
    }
    let dev = PricedDevice { inner: Meta::new(programs.sizes()), profile: profile.clone(), spent: spent.clone() };
    let mut rank = Rank::new(id, plan.clone(), Arc::new(programs.programs), Box::new(dev), comms, step.clone());
    let clock = spent.clone();
    rank.clock = Some(Arc::new(move || clock.now()));
    let hyper = Hyper { lr: 0.0, step: 1 };
    exec::run(&mut rank, number, hyper, &mut |m| vec![0; program.memory.view(Res::Batch(m)).len])
        .expect("what moves nothing meets no error");
    let begins = rank.spans().iter().map(|[begin, _]| *begin).chain([spent.now()]);
    begins.collect::<Vec<_>>().windows(2).map(|pair| (pair[1] - pair[0]).as_secs_f64()).collect()
}

/// What everything so far has cost, for all that a rank is made of.
#[derive(Clone, Default)]
struct Spent(Arc<Mutex<Duration>>);

impl Spent {
    fn now(&self) -> Duration {
        *self.0.lock().expect("nothing panics with the lock")
    }
    fn spend(&self, seconds: f64) {
        *self.0.lock().expect("nothing panics with the lock") += Duration::from_secs_f64(seconds);
    }
}

struct PricedDevice {
    inner: Meta,
    profile: Profile,
    spent: Spent,
}

impl Backend for PricedDevice {
    fn run(&mut self, op: Op) {
        self.spent.spend(self.profile.operation(&op));
        self.inner.run(op);
    }
    fn upload(&mut self, src: &[u8], dst: View) {
        self.spent.spend(self.profile.operation_latency_s + self.profile.memory_s(src.len()));
        self.inner.upload(src, dst);
    }
    fn download(&mut self, src: View, dst: &mut [u8]) {
        self.spent.spend(self.profile.operation_latency_s + self.profile.memory_s(dst.len()));
        self.inner.download(src, dst);
    }
    fn synchronize(&mut self) {
        self.inner.synchronize();
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

struct PricedLane {
    inner: comm::Meta,
    link: Link,
    spent: Spent,
}

impl Communicator for PricedLane {
    fn rank(&self) -> usize {
        self.inner.rank()
    }
    fn size(&self) -> usize {
        self.inner.size()
    }
    fn start(&mut self, after: Mark, op: Coll, src: Option<Loan>, dst: Option<Loan>) -> Result<Ticket, CommError> {
        let member = [self.rank(), self.size()];
        let call = Call::new(member, after, op, &src, &dst);
        self.spent.spend(transfer(call, member, self.link));
        self.inner.start(after, op, src, dst)
    }
    fn wait(&mut self, ticket: Ticket) -> Result<[Option<Loan>; 2], CommError> {
        self.inner.wait(ticket)
    }
    fn finish(&mut self) -> Result<(), CommError> {
        self.inner.finish()
    }
    fn aborter(&self) -> Aborter {
        self.inner.aborter()
    }
}

/// Seconds of an operation for one of its members: what it sends. Of a transfer that only one sends the clock takes the longer.
fn transfer(call: Call, member: [usize; 2], link: Link) -> f64 {
    let bytes = call.op.sent(member, call.len) * call.dtype.bytes() as f64;
    link.latency_s + bytes / link.bytes_per_s
}
