//! The processes of a job, from their start until the last has ended.
use super::output;
use rustix::process::{Pid, Signal, kill_process_group};
use signal_hook::consts::{SIGCHLD, SIGHUP, SIGINT, SIGTERM, SIGTSTP};
use signal_hook::iterator::Signals;
use signal_hook::low_level::{emulate_default_handler, signal_name};
use std::fmt;
use std::io;
use std::os::unix::process::ExitStatusExt;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::thread;
use std::time::{Duration, Instant};

/// For the last lines of a rank that has ended; a process that it left behind may keep its output open.
const LAST_LINES: Duration = Duration::from_secs(1);
/// So many signals of the user, and nobody is asked any more.
const INSIST: usize = 3;

pub struct Ranks {
    /// None: it has ended.
    children: Vec<Option<Child>>,
    signals: Receiver<i32>,
    /// Ends when all output has been handed on.
    output: Receiver<()>,
}

/// The first rank that failed, and how.
#[derive(Clone, Copy, Debug)]
pub struct Failed {
    rank: usize,
    status: ExitStatus,
}

impl Failed {
    /// As a shell tells it.
    pub fn code(&self) -> u8 {
        let code = self.status.code().or_else(|| Some(128 + self.status.signal()?)).unwrap_or(1);
        code.try_into().unwrap_or(1)
    }
}

impl fmt::Display for Failed {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        let Failed { rank, status } = self;
        match (status.code(), status.signal()) {
            (Some(code), _) => write!(f, "rank {rank} ended with exit code {code}"),
            (None, Some(signal)) => {
                write!(f, "rank {rank} was ended by signal {signal}")?;
                signal_name(signal).map_or(Ok(()), |name| write!(f, " ({name})"))
            }
            (None, None) => write!(f, "rank {rank} ended with {status}"),
        }
    }
}

impl std::error::Error for Failed {}

impl Ranks {
    /// Each in a process group of its own, as its command says.
    pub fn start(commands: impl Iterator<Item = Command>) -> io::Result<Ranks> {
        let signals = listen()?;
        let (open, output) = channel();
        let mut ranks = Ranks { children: vec![], signals, output };
        for (rank, mut command) in commands.enumerate() {
            if rank > 0 {
                command.stdout(Stdio::piped()).stderr(Stdio::piped());
            }
            let mut child = command.spawn()?;
            if let (Some(out), Some(err)) = (child.stdout.take(), child.stderr.take()) {
                output::prefixed(rank, out, io::stdout(), open.clone());
                output::prefixed(rank, err, io::stderr(), open.clone());
            }
            ranks.children.push(Some(child));
        }
        Ok(ranks)
    }

    /// Until all have ended.
    pub fn watch(mut self, grace: Duration) -> Result<(), Failed> {
        let (mut first, mut until, mut asked) = (None, None, 0);
        loop {
            for failed in self.ended() {
                if first.is_none() {
                    first = Some(failed);
                    until = Some(Instant::now() + grace);
                    if !self.running().is_empty() {
                        eprintln!("{failed}: ending {}", list(&self.running()));
                    }
                    self.signal(Signal::TERM);
                }
            }
            if self.running().is_empty() {
                break;
            }
            match self.next(until) {
                Some(SIGCHLD) => {}
                Some(SIGTSTP) => self.rest(),
                Some(signal) => {
                    asked += 1;
                    let signal = Signal::from_named_raw(signal).expect("we listen to named signals");
                    self.signal(if asked < INSIST { signal } else { Signal::KILL });
                }
                None => {
                    eprintln!("{} did not end within {grace:?}: killing", list(&self.running()));
                    self.signal(Signal::KILL);
                    until = None;
                }
            }
        }
        // Nothing is sent: the channel closes with the last reader.
        let _ = self.output.recv_timeout(LAST_LINES);
        first.map_or(Ok(()), Err)
    }

    /// Takes leave of those that have ended by now, and returns those that failed.
    fn ended(&mut self) -> Vec<Failed> {
        let mut failed = vec![];
        for (rank, slot) in self.children.iter_mut().enumerate() {
            let Some(child) = slot else { continue };
            let Some(status) = child.try_wait().expect("a child is there until it is waited for") else { continue };
            *slot = None;
            if !status.success() {
                failed.push(Failed { rank, status });
            }
        }
        failed
    }

    fn running(&self) -> Vec<usize> {
        (0..self.children.len()).filter(|&rank| self.children[rank].is_some()).collect()
    }

    /// To what a rank has started as well.
    fn signal(&self, signal: Signal) {
        for child in self.children.iter().flatten() {
            // A child that we have not waited for keeps its number, so this reaches it or a group that has ended.
            let _ = kill_process_group(Pid::from_child(child), signal);
        }
    }

    /// Ctrl-Z stops all, and who goes on with the launcher goes on with all.
    fn rest(&self) {
        self.signal(Signal::STOP);
        emulate_default_handler(SIGTSTP).expect("SIGTSTP has a default");
        self.signal(Signal::CONT);
    }

    /// The next signal; none if there is none until then.
    fn next(&self, until: Option<Instant>) -> Option<i32> {
        let Some(until) = until else {
            return Some(self.signals.recv().expect("the listener lives as long as the process"));
        };
        match self.signals.recv_timeout(until.saturating_duration_since(Instant::now())) {
            Ok(signal) => Some(signal),
            Err(RecvTimeoutError::Timeout) => None,
            Err(RecvTimeoutError::Disconnected) => panic!("the listener lives as long as the process"),
        }
    }
}

/// If one cannot be started the others do not stay.
impl Drop for Ranks {
    fn drop(&mut self) {
        self.signal(Signal::KILL);
        for child in self.children.iter_mut().flatten() {
            let _ = child.wait();
        }
    }
}

fn listen() -> io::Result<Receiver<i32>> {
    let mut signals = Signals::new([SIGINT, SIGTERM, SIGHUP, SIGTSTP, SIGCHLD])?;
    let (send, receive): (Sender<i32>, _) = channel();
    thread::spawn(move || {
        for signal in signals.forever() {
            if send.send(signal).is_err() {
                return;
            }
        }
    });
    Ok(receive)
}

fn list(ranks: &[usize]) -> String {
    match ranks {
        [rank] => format!("rank {rank}"),
        ranks => format!("ranks {ranks:?}"),
    }
}
