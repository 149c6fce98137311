//! Nothing outside the given folder is touched: the system calls of some inputs, as `strace` tells them.
use super::targets::TARGETS;
use super::{Inputs, child, desk};
use std::fs;
use std::path::Path;
use std::process::Command;

/// What a process opens whatever it reads.
const OWN: [&str; 8] = ["/proc/", "/sys/", "/lib/", "/lib64/", "/usr/lib/", "/usr/share/", "/etc/ld.so", "/dev/null"];

#[test]
fn no_reader_leaves_its_folder() {
    let traces = Command::new("strace").args(["-o", "/dev/null", "true"]).status().is_ok_and(|status| status.success());
    if !traces {
        println!("skipped: no strace that may look at a process");
        return;
    }
    for target in TARGETS {
        let desk = desk();
        let log = desk.path().join("calls");
        let reader = child(target, Inputs { seed: 2, first: 0, end: 200 }, desk.path());
        let mut strace = Command::new("strace");
        strace.args([
            "-f",
            "-y",
            "-qq",
            "-s",
            "8192",
            "-e",
            "trace=open,openat,unlink,unlinkat,rename,renameat,renameat2",
        ]);
        strace.arg("-o").arg(&log).arg(reader.get_program()).args(reader.get_args());
        strace.envs(reader.get_envs().map(|(key, value)| (key, value.expect("it is set"))));
        let ended = strace.output().expect("strace starts");
        assert!(ended.status.success(), "{}: {}", target.name, String::from_utf8_lossy(&ended.stderr));
        let calls = fs::read_to_string(&log).expect("strace wrote it");
        // Good inputs come from the repository. Damaged ones begin where the file with their number is made.
        let mut calls = calls.lines().skip_while(|call| !call.contains("/number\""));
        assert!(calls.next().is_some(), "{}: no input was read", target.name);
        let outside: Vec<&str> = calls.filter(|call| leaves(call, desk.path())).collect();
        assert!(outside.is_empty(), "{} leaves its folder\n{}", target.name, outside.join("\n"));
    }
}

/// Whether a call names a path that is not in the folder. The bases of a Python config may lie above it: there they are looked
/// for, and nothing that is not Python.
fn leaves(call: &str, folder: &Path) -> bool {
    let parts: Vec<&str> = call.split('"').collect();
    let paths = parts.chunks_exact(2).map(|pair| {
        // `openat(4</a/folder>, "a/file"`
        let base = pair[0].rsplit_once('>').and_then(|(before, _)| Some(before.rsplit_once('<')?.1));
        Path::new(base.unwrap_or("/")).join(pair[1])
    });
    let own = |path: &Path| OWN.iter().any(|own| path.starts_with(own)) || path.starts_with(folder);
    let base = |path: &Path| path.extension().is_some_and(|ending| ending == "py");
    paths.into_iter().any(|path| !base(&path) && (!own(&path) || path.iter().any(|part| part == "..")))
}

#[test]
fn what_leaves_a_folder_is_seen() {
    let cases = [
        ("7 openat(AT_FDCWD</x>, \"/desk/files/a\", O_RDONLY) = 3", false),
        ("7 openat(AT_FDCWD</desk>, \"files/a\", O_RDONLY) = 3", false),
        ("7 unlinkat(4</desk/cache>, \"tokens.bin\", 0) = 0", false),
        ("7 rename(\"/desk/a\", \"/desk/b\") = 0", false),
        ("7 openat(AT_FDCWD</x>, \"/proc/self/stat\", O_RDONLY) = 3", false),
        ("7 openat(AT_FDCWD</x>, \"/configs/a.py\", O_RDONLY) = -1", false),
        ("7 openat(AT_FDCWD</x>, \"/etc/passwd\", O_RDONLY) = 3", true),
        ("7 openat(AT_FDCWD</x>, \"/desk/../a\", O_RDONLY) = -1", true),
        ("7 unlinkat(4</x>, \"tokens.bin\", 0) = 0", true),
        ("7 rename(\"/desk/a\", \"/b\") = 0", true),
    ];
    for (call, expected) in cases {
        assert_eq!(leaves(call, Path::new("/desk")), expected, "{call}");
    }
}
