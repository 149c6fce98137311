//! A training under way, as one process or several: stopped and killed from outside, all ranks at once.
use anyhow::{Context, Result, bail, ensure};
use std::fs::{self, File};
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

/// What a trial waits for takes a second, where nobody else wants the cores.
const LIMIT: Duration = Duration::from_secs(60);

pub const SIGKILL: i32 = 9;

/// Why the ranks of a training cannot be found here, if so.
pub fn lacks() -> Option<String> {
    let own = children(std::process::id());
    (!own.exists()).then(|| format!("no {}, which tells the processes of a training", own.display()))
}

/// Where Linux tells them.
fn children(pid: u32) -> PathBuf {
    format!("/proc/{pid}/task/{pid}/children").into()
}

pub struct Process {
    child: Child,
    stderr: PathBuf,
}

impl Process {
    /// What it says goes to `stderr`, at once.
    pub fn start(mut command: Command, stderr: &Path) -> Result<Process> {
        let file = File::create(stderr).with_context(|| format!("cannot write {}", stderr.display()))?;
        let what = format!("{} does not start", command.get_program().display());
        let child = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(file).spawn().context(what)?;
        Ok(Process { child, stderr: stderr.into() })
    }

    pub fn said(&self) -> Result<String> {
        said(&self.stderr)
    }

    /// Looks until `there` is so; the process must not have ended before.
    pub fn until(&mut self, what: &str, mut there: impl FnMut() -> Result<bool>) -> Result<()> {
        let began = Instant::now();
        while !there()? {
            if let Some(status) = self.child.try_wait()? {
                bail!("ended with {status} before {what}: {}", self.said()?);
            }
            ensure!(began.elapsed() < LIMIT, "no {what} within {LIMIT:?}: {}", self.said()?);
            std::thread::sleep(Duration::from_micros(100));
        }
        Ok(())
    }

    /// To its own end.
    pub fn end(mut self) -> Result<(ExitStatus, String)> {
        let began = Instant::now();
        loop {
            if let Some(status) = self.child.try_wait()? {
                return Ok((status, self.said()?));
            }
            ensure!(began.elapsed() < LIMIT, "no end within {LIMIT:?}: {}", self.said()?);
            std::thread::sleep(Duration::from_millis(1));
        }
    }

    /// Every rank is stopped when this returns.
    pub fn stop(&mut self) -> Result<()> {
        let pids = self.pids()?;
        signal("STOP", &pids)?;
        // A program under strace is stopped as `t`.
        self.until("a stop of all ranks", || Ok(pids.iter().all(|pid| threads(*pid).iter().all(|s| "Tt".contains(*s)))))
    }

    /// Every rank is gone when this returns, and its files with it.
    pub fn kill(mut self) -> Result<()> {
        let pids = self.pids()?;
        signal("KILL", &pids)?;
        let status = self.child.wait()?;
        ensure!(status.signal() == Some(SIGKILL), "ended with {status} before it was killed: {}", self.said()?);
        let (ranks, began) = (&pids[1..], Instant::now());
        while ranks.iter().any(|pid| !matches!(threads(*pid)[..], [] | ['Z'])) {
            ensure!(began.elapsed() < LIMIT, "a rank is still there after it was killed");
            std::thread::sleep(Duration::from_micros(100));
        }
        Ok(())
    }

    /// The process, and those it has started.
    fn pids(&self) -> Result<Vec<u32>> {
        let own = self.child.id();
        let path = children(own);
        let text = fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))?;
        let pids = std::iter::once(Ok(own)).chain(text.split_whitespace().map(str::parse)).collect::<Result<_, _>>();
        pids.with_context(|| format!("{} is no list of processes", path.display()))
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // A trial that failed half-way leaves no process. One that has ended needs nothing.
        if let (Ok(None), Ok(pids)) = (self.child.try_wait(), self.pids()) {
            let _ = signal("KILL", &pids);
            let _ = self.child.wait();
        }
    }
}

pub fn said(stderr: &Path) -> Result<String> {
    let bytes = fs::read(stderr).with_context(|| format!("cannot read {}", stderr.display()))?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

fn signal(name: &str, pids: &[u32]) -> Result<()> {
    let mut kill = Command::new("kill");
    kill.arg(format!("-{name}")).args(pids.iter().map(u32::to_string)).stderr(Stdio::null());
    // It says that a rank was not there any more, too; whoever sends a signal looks whether it has worked.
    kill.status().context("kill does not start")?;
    Ok(())
}

/// The states of a process's threads, R, S, D, T, Z as `ps` has them; none if there is no such process.
fn threads(pid: u32) -> Vec<char> {
    let threads = fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten().flatten();
    let state = |stat: String| stat.rsplit_once(") ")?.1.chars().next();
    threads.filter_map(|thread| state(fs::read_to_string(thread.path().join("stat")).ok()?)).collect()
}
