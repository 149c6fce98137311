//! A rank's queue of computation on a card, and marks in it: what other streams wait for, and what they make it wait for.
use crate::driver::{Card, Event, Stream};
use backend::Mark;
use std::collections::VecDeque;
use std::sync::{Arc, Mutex};

/// Shared by the device, which fills it, and the lanes, which wait for it.
pub struct Compute {
    pub stream: Stream,
    marks: Mutex<Marks>,
}

#[derive(Default)]
struct Marks {
    /// What was issued so far.
    issued: u64,
    /// Points of the stream behind so much of it, the latest last.
    events: VecDeque<(u64, Event)>,
}

/// So many of the latest marks have an event of their own; who asks for an older one waits for the oldest of them.
const KEPT: usize = 1024;

impl Compute {
    pub fn new(card: &Arc<Card>) -> Result<Compute, String> {
        Ok(Compute { stream: Stream::new(card, false)?, marks: Mutex::default() })
    }

    /// Something was issued: the mark that will be behind it.
    pub fn issued(&self) -> Mark {
        let mut marks = self.marks.lock().expect("nothing panics with the lock");
        marks.issued += 1;
        Mark(marks.issued)
    }

    /// A mark behind everything so far.
    pub fn mark(&self) -> Mark {
        let mut marks = self.marks.lock().expect("nothing panics with the lock");
        let now = marks.issued;
        if marks.events.back().is_none_or(|(last, _)| *last < now) {
            let free = if marks.events.len() < KEPT { None } else { marks.events.pop_front() };
            let event = free.map_or_else(|| Event::new(&self.stream.card), |(_, event)| event);
            self.stream.record(&event);
            marks.events.push_back((now, event));
        }
        Mark(now)
    }

    /// What comes later on `stream` begins behind the mark.
    pub fn behind(&self, mark: Mark, stream: &Stream) {
        let marks = self.marks.lock().expect("nothing panics with the lock");
        if mark == Mark::default() {
            return;
        }
        let at = marks.events.partition_point(|(number, _)| *number < mark.0);
        let (_, event) = marks.events.get(at).expect("a mark is given out when its event is recorded");
        stream.wait(event);
    }
}
