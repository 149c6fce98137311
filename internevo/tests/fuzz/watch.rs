//! What an input may take: an own process of bounded memory, in which a second of work for one input is the end.
use rustix::process::{Resource, Rlimit, setrlimit};
use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::thread;
use std::time::{Duration, Instant};

/// Beyond what the process has when its good inputs are read.
const MOST_MEMORY: u64 = 256 << 20;
const MOST_WORK: Duration = Duration::from_secs(1);
/// Of an input that sleeps; a machine with other work to do is no reason to fail.
const MOST_TIME: Duration = Duration::from_secs(30);

pub struct Watch {
    number: Arc<AtomicU64>,
    file: File,
}

impl Watch {
    /// From here on. The number of the input at hand lies in `file`, where it outlives the process.
    pub fn begin(file: &Path) -> Watch {
        let most = bytes_mapped() + MOST_MEMORY;
        setrlimit(Resource::As, Rlimit { current: Some(most), maximum: Some(most) }).expect("a limit can be lowered");
        let number = Arc::new(AtomicU64::new(u64::MAX));
        let seen = number.clone();
        thread::spawn(move || end_if_stuck(&seen));
        Watch { number, file: File::create(file).expect("the desk can be written") }
    }

    pub fn next(&self, number: u64) {
        self.file.write_all_at(&number.to_le_bytes(), 0).expect("the desk can be written");
        self.number.store(number, Relaxed);
    }
}

/// The number that a process was at.
pub fn last(file: &Path) -> Option<u64> {
    Some(u64::from_le_bytes(fs::read(file).ok()?.try_into().ok()?))
}

fn end_if_stuck(number: &AtomicU64) {
    let (mut at, mut work, mut began) = (u64::MAX, worked(), Instant::now());
    loop {
        thread::sleep(Duration::from_millis(20));
        let now = number.load(Relaxed);
        if now != at || now == u64::MAX {
            (at, work, began) = (now, worked(), Instant::now());
        } else if worked() - work > MOST_WORK || began.elapsed() > MOST_TIME {
            eprintln!("no end after {MOST_WORK:?} of work or {MOST_TIME:?}");
            std::process::exit(1);
        }
    }
}

/// Time that the threads of this process have computed.
fn worked() -> Duration {
    // Fields 14 and 15, counted behind the name, which may hold spaces; in hundredths of a second.
    let stat = fs::read_to_string("/proc/self/stat").expect("Linux tells");
    let (_, fields) = stat.rsplit_once(')').expect("the name is in brackets");
    let ticks: u64 = fields.split_whitespace().skip(11).take(2).map(|n| n.parse::<u64>().expect("a number")).sum();
    Duration::from_millis(10 * ticks)
}

fn bytes_mapped() -> u64 {
    let status = fs::read_to_string("/proc/self/status").expect("Linux tells");
    let line = status.lines().find_map(|line| line.strip_prefix("VmSize:")).expect("it has this line");
    let kilobytes: u64 = line.trim().trim_end_matches(" kB").parse().expect("a number");
    kilobytes << 10
}
