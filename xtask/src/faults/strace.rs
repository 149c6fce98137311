//! System calls of a program, seen and broken by strace.
use std::collections::{HashMap, HashSet};
use std::path::Path;
use std::process::Command;

/// Why there is nothing to break system calls with, if so.
pub fn lacks() -> Option<String> {
    let works = Command::new("strace").args(["-f", "-o", "/dev/null", "true"]).output();
    (!works.is_ok_and(|out| out.status.success())).then(|| "no strace that may trace".into())
}

/// A call of a thread: its `ordinal`-th of that name, counted from 1, which is how strace counts.
#[derive(Clone, Debug, PartialEq)]
pub struct Point {
    pub syscall: String,
    pub ordinal: usize,
}

/// The program with these calls and the paths of their files written to `trace`. Not every processor has all of them.
pub fn traced(program: &Command, syscalls: &[&str], trace: &Path) -> Command {
    let known: Vec<String> = syscalls.iter().map(|name| format!("?{name}")).collect();
    let mut strace = Command::new("strace");
    strace.args(["-f", "-y", "-s", "200", "-e", &format!("trace={}", known.join(","))]).arg("-o").arg(trace);
    under(strace, program)
}

/// The program with `what` done to those of its calls that `when` says: `signal=SIGKILL`, `error=EIO`, `retval=0`.
pub fn broken(program: &Command, syscalls: &str, what: &str, when: &str) -> Command {
    let mut strace = Command::new("strace");
    // Detached (-D), so that the process that is started is the program.
    strace.args(["-D", "-f", "-o", "/dev/null", "-e", &format!("trace={syscalls}")]);
    strace.args(["-e", &format!("inject={syscalls}:{what}:when={when}")]);
    under(strace, program)
}

fn under(mut strace: Command, program: &Command) -> Command {
    strace.arg("--").arg(program.get_program()).args(program.get_args());
    if let Some(folder) = program.get_current_dir() {
        strace.current_dir(folder);
    }
    strace
}

/// The calls of saves on files of checkpoints that strace can break: the first, of all threads, with that name and number.
/// A call that several saves have is taken of one.
pub fn points(trace: &str) -> Vec<Point> {
    let begins = |line: &str| line.contains("mkdir") && line.contains(".tmp");
    let ends = |line: &str| line.contains("\"saved ");
    let (mut calls, mut calls_of_save) = (HashMap::new(), HashMap::new());
    let (mut come_to, mut broken) = (HashSet::new(), HashSet::new());
    let (mut saving, mut points) = (false, vec![]);
    for line in trace.lines() {
        let Some((thread, syscall)) = entered(line) else { continue };
        let ordinal = next(&mut calls, (thread, syscall));
        let first = come_to.insert((syscall, ordinal));
        if !saving && begins(line) {
            saving = true;
            calls_of_save.clear();
        }
        if saving {
            let place = (thread, syscall, next(&mut calls_of_save, (thread, syscall)));
            // What is told to a person names them, too.
            let on_disk = line.contains("/checkpoints") && !line.contains("(2<");
            if on_disk && first && broken.insert(place) {
                points.push(Point { syscall: syscall.into(), ordinal });
            }
            saving = !ends(line);
        }
    }
    points
}

fn next<'a>(counts: &mut HashMap<(&'a str, &'a str), usize>, of: (&'a str, &'a str)) -> usize {
    let count = counts.entry(of).or_insert(0);
    *count += 1;
    *count
}

/// Thread and name, of a line that is the beginning of a call.
fn entered(line: &str) -> Option<(&str, &str)> {
    let (thread, call) = line.split_once(' ')?;
    let (name, _) = call.trim_start().split_once('(')?;
    let is_name = name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_');
    (is_name && !name.is_empty()).then_some((thread, name))
}

#[test]
fn points_are_counted_by_thread_and_name() {
    let trace = r#"7   write(2</x.err>, "on CPU", 6) = 6
7   mkdir("run/checkpoints/step_22.tmp-1", 0777) = 0
8   write(5</run/checkpoints/step_22.tmp-1/config.json>, "x", 1 <unfinished ...>
7   write(6</run/metrics.jsonl>, "y", 1) = 1
8   <... write resumed>) = 1
8   write(5</run/checkpoints/step_22.tmp-1/config.json>, "z", 1) = 1
8   write(5</run/checkpoints/step_22.tmp-1/config.json>, "z", 1) = 1
7   fsync(6</run/checkpoints>) = 0
7   --- SIGCHLD {si_signo=SIGCHLD} ---
7   write(2</x.err>, "saved run/checkpoints/step_22 in 1 s", 18) = 18
7   fsync(6</run/checkpoints>) = 0
9   pwrite64(3</run/checkpoints/x>, "x", 1, 0) = 1
7   mkdir("run/checkpoints/step_24.tmp-2", 0777) = 0
8   pwrite64(3</run/checkpoints/x>, "x", 1, 0) = 1
8   pwrite64(3</run/checkpoints/x>, "y", 1, 0) = 1
7   write(2</x.err>, "saved run/checkpoints/step_24 in 1 s", 18) = 18
8   +++ exited with 0 +++
"#;
    let point = |syscall: &str, ordinal| Point { syscall: syscall.into(), ordinal };
    // Not the second mkdir, which is the first of a save again.
    assert_eq!(points(trace), [point("mkdir", 1), point("write", 3), point("fsync", 1), point("pwrite64", 2)]);
}
