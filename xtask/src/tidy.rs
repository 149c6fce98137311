//! `cargo xtask tidy`: the house rules that neither rustc nor clippy knows. Each is a table or a few lines below; what
//! they are for stands in ARCHITECTURE.md. What clippy can say (`clippy.toml`) is not repeated here.
use crate::cargo;
use crate::code::code;
use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;
use std::fmt;
use std::fs;
use std::path::{Component, Path, PathBuf};
use std::process::Command;

/// A crate may use those named beside it, and what these may use.
const ARROWS: &[(&str, &[&str])] = &[
    ("backend", &[]),
    ("comm", &["backend"]),
    ("cuda", &["backend", "comm"]),
    ("model", &["backend", "comm"]),
    ("plan", &["model"]),
    ("schedule", &["plan"]),
    ("exec", &["schedule", "cuda"]),
    ("sim", &["exec"]),
    ("data", &[]),
    ("emulator", &[]),
    ("pyconfig", &[]),
    ("checkpoint", &["plan"]),
    ("internevo", &["sim", "data", "checkpoint", "pyconfig"]),
    ("xtask", &[]),
];

/// Arrows that only the tests of a crate have, and why.
const TEST_ARROWS: &[(&str, &str, &str)] = &[
    ("cuda", "emulator", "runs the kernels where there is no card"),
    ("exec", "checkpoint", "reads the weights of the golden models"),
    ("exec", "emulator", "trains on a card where there is none"),
    ("internevo", "emulator", "runs the program on a card where there is none"),
];

/// Files, and folders with a slash at the end, where `unsafe` may stand, and what for.
const UNSAFE: &[(&str, &str)] = &[
    ("backend/src/arena.rs", "views into one allocation, borrowed by several threads; its ledger checks each borrow"),
    ("backend/src/queued.rs", "a queue keeps pointers to what the caller has lent until it waits"),
    ("backend/src/cpu/", "workers that take disjoint parts, vector instructions, and products by the gemm crate"),
    ("comm/src/threads/job.rs", "ranks read each other's loans between two barriers"),
    ("comm/src/processes/", "loans whose bytes are under way are known by address"),
    ("comm/src/shared.rs", "copies between loans and rings, by address"),
    ("comm/src/shared/ring.rs", "counters and frames in memory that two processes have mapped"),
    ("comm/src/mpi.rs", "hands addresses to MPI"),
    ("comm/src/mpi/library.rs", "calls a library that is found at run time"),
    ("cuda/src/libraries.rs", "loads NVIDIA's libraries and asks for their versions"),
    ("cuda/src/driver.rs", "calls the driver; handles are freed where they are dropped"),
    ("cuda/src/compile.rs", "calls NVRTC"),
    ("cuda/src/products.rs", "calls cuBLASLt"),
    ("cuda/src/cudnn/", "calls cuDNN"),
    ("cuda/src/attentions.rs", "hands addresses to cuDNN"),
    ("cuda/src/ways.rs", "asks cuBLASLt for its version"),
    ("cuda/tests/", "loads libraries as a program does"),
    ("exec/tests/allocations.rs", "an allocator that counts"),
    ("emulator/tests/", "loads the emulated libraries and calls them as a program calls NVIDIA's"),
    ("data/src/ids.rs", "maps a file of token ids"),
];

/// No code that says it is unfinished, and no test that is off without a reason.
const UNFINISHED: &[(&str, &str)] = &[
    ("todo!", "write the code, or refuse the case with an error"),
    ("unimplemented!", "write the code, or refuse the case with an error"),
    ("dbg!", "remove it"),
    ("#[ignore]", "say why: #[ignore = \"...\"]"),
];

/// Lines of a file: from the first a warning, from the second an error.
const LONG: usize = 400;
const TOO_LONG: usize = 600;

/// Folders of one machine. Tests may name /tmp.
const MACHINE: [&str; 4] = ["home", "root", "tmp", "work"];

#[derive(Debug, PartialEq)]
struct Finding {
    file: String,
    line: usize,
    rule: &'static str,
    way_out: String,
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        write!(f, "{}:{}: {}: {}", self.file, self.line, self.rule, self.way_out)
    }
}

pub fn main(root: &Path) -> Result<()> {
    let files = files(root)?;
    let mut found = arrows(&metadata(root)?, root)?;
    let mut warnings = vec![];
    for file in &files {
        // Binary files hold no words, and Cargo writes the lock file.
        let Ok(text) = String::from_utf8(fs::read(root.join(file)).with_context(|| format!("cannot read {file}"))?)
        else {
            continue;
        };
        if file.ends_with(".rs") {
            found.extend(rust(file, &text));
            warnings.extend(long(file, &text));
        }
        if file.ends_with(".md") {
            found.extend(links(file, &text, &|path| root.join(path).exists()));
        }
        // This file spells what it forbids.
        if file != "Cargo.lock" && file != "xtask/src/tidy.rs" {
            found.extend(words(file, &text));
        }
    }
    let stale = UNSAFE.iter().filter(|(place, _)| !files.iter().any(|f| f.starts_with(place)));
    found.extend(
        stale.map(|(place, _)| finding("xtask/src/tidy.rs", 1, "unsafe", format!("{place} is gone: remove its row"))),
    );

    for warning in &warnings {
        println!("warning: {warning}");
    }
    for finding in &found {
        println!("{finding}");
    }
    ensure!(found.is_empty(), "{} violations of the house rules in {} files looked at", found.len(), files.len());
    println!("tidy: {} files, no violation", files.len());
    Ok(())
}

fn finding(file: &str, line: usize, rule: &'static str, way_out: impl Into<String>) -> Finding {
    Finding { file: file.into(), line, rule, way_out: way_out.into() }
}

// ---- what is looked at ---------------------------------------------------------------------------------------------

/// The files that git has or would take; where it cannot say, all but build outputs. Relative, with slashes, sorted.
fn files(root: &Path) -> Result<Vec<String>> {
    let mut out = vec![];
    match git_files(root) {
        // One that was deleted is listed until the commit.
        Some(names) => out.extend(names.into_iter().filter(|name| root.join(name).is_file())),
        None => walk(root, "", &mut out)?,
    }
    out.sort();
    out.dedup();
    Ok(out)
}

/// Nothing outside a checkout, or where git refuses it as another user's.
fn git_files(root: &Path) -> Option<Vec<String>> {
    let list = ["ls-files", "-z", "--cached", "--others", "--exclude-standard"];
    let out = Command::new("git").args(list).current_dir(root).output().ok()?;
    let names = String::from_utf8(out.stdout).ok()?;
    let names: Vec<String> = names.split_terminator('\0').map(str::to_string).collect();
    (out.status.success() && !names.is_empty()).then_some(names)
}

fn walk(root: &Path, folder: &str, out: &mut Vec<String>) -> Result<()> {
    for entry in fs::read_dir(root.join(folder)).with_context(|| format!("cannot list {folder}"))? {
        let entry = entry?;
        let name = entry.file_name().into_string().map_err(|name| anyhow::anyhow!("{name:?} is not UTF-8"))?;
        let path = format!("{folder}{name}");
        if !entry.file_type()?.is_dir() {
            out.push(path);
        } else if ![".git", "target", "runs", "__pycache__"].contains(&name.as_str()) {
            walk(root, &format!("{path}/"), out)?;
        }
    }
    Ok(())
}

fn metadata(root: &Path) -> Result<Value> {
    let out = cargo(root).args(["metadata", "--format-version", "1", "--no-deps"]).output()?;
    if !out.status.success() {
        bail!("cargo metadata: {}", String::from_utf8_lossy(&out.stderr));
    }
    serde_json::from_slice(&out.stdout).context("cargo metadata is not JSON")
}

// ---- rules ---------------------------------------------------------------------------------------------------------

fn arrows(metadata: &Value, root: &Path) -> Result<Vec<Finding>> {
    let mut found = vec![];
    for package in metadata["packages"].as_array().context("cargo metadata has no packages")? {
        let name = package["name"].as_str().context("a package has no name")?;
        let manifest = Path::new(package["manifest_path"].as_str().context("a package has no manifest")?);
        let file = manifest.strip_prefix(root).unwrap_or(manifest).display().to_string();
        if !ARROWS.iter().any(|(from, _)| *from == name) {
            found.push(finding(
                &file,
                1,
                "arrows",
                format!("{name} is new: give it a row in ARROWS of xtask/src/tidy.rs"),
            ));
            continue;
        }
        let text = fs::read_to_string(manifest).with_context(|| format!("cannot read {file}"))?;
        // Those with a path are ours.
        let uses = package["dependencies"].as_array().into_iter().flatten().filter(|d| !d["path"].is_null());
        for dependency in uses {
            let to = dependency["name"].as_str().context("a dependency has no name")?;
            let test = dependency["kind"] == "dev" && TEST_ARROWS.iter().any(|(a, b, _)| (*a, *b) == (name, to));
            if !test && !reaches(name, to) {
                let line = text.lines().position(|l| l.starts_with(to)).map_or(1, |i| i + 1);
                found.push(finding(
                    &file,
                    line,
                    "arrows",
                    format!("{name} may not use {to}: move the code to where both may be seen"),
                ));
            }
        }
    }
    Ok(found)
}

fn reaches(from: &str, to: &str) -> bool {
    let row = ARROWS.iter().find(|(name, _)| *name == from);
    row.is_some_and(|(_, below)| below.iter().any(|next| *next == to || reaches(next, to)))
}

fn rust(file: &str, text: &str) -> Vec<Finding> {
    let mut found = vec![];
    if !text.starts_with("//!") {
        found.push(finding(file, 1, "opening", "begin with a `//!` line that says what the file is"));
    }
    let may = UNSAFE.iter().any(|(place, _)| file == *place || place.ends_with('/') && file.starts_with(place));
    for (i, line) in code(text).lines().enumerate() {
        let is_name = |c: char| c.is_alphanumeric() || c == '_';
        if !may && line.split(|c| !is_name(c)).any(|word| word == "unsafe") {
            let way_out = "use what backend::arena offers, or argue for a row in UNSAFE of xtask/src/tidy.rs";
            found.push(finding(file, i + 1, "unsafe", way_out));
        }
        for (mark, way_out) in UNFINISHED.iter().filter(|(mark, _)| line.contains(mark)) {
            found.push(finding(file, i + 1, "unfinished", format!("{mark} is here: {way_out}")));
        }
    }
    let lines = text.lines().count();
    if lines > TOO_LONG {
        found.push(finding(file, lines, "length", format!("more than {TOO_LONG} lines: find its second idea a file")));
    }
    found
}

fn long(file: &str, text: &str) -> Option<Finding> {
    let lines = text.lines().count();
    let way_out = || format!("more than {LONG} lines: is it still one idea?");
    (LONG + 1..=TOO_LONG).contains(&lines).then(|| finding(file, lines, "length", way_out()))
}

fn words(file: &str, text: &str) -> Vec<Finding> {
    let test = file.contains("/tests/");
    let mut found = vec![];
    for (i, line) in text.lines().enumerate() {
        let folders = MACHINE.iter().filter(|name| !(test && **name == "tmp"));
        for path in folders.map(|name| format!("/{name}/")).filter(|path| begins_a_path(line, path)) {
            found.push(finding(
                file,
                i + 1,
                "machine",
                format!("{path} is a folder of one machine: use a relative path"),
            ));
        }
    }
    found
}

/// `a/tmp/b` names no folder of the machine, `"/tmp/b"` does.
fn begins_a_path(line: &str, path: &str) -> bool {
    let inner = |c: char| c.is_alphanumeric() || "_-.}>)".contains(c);
    line.match_indices(path).any(|(at, _)| !line[..at].ends_with(inner))
}

/// Links of a Markdown file to files; `exists` takes a path from the root of the repository.
fn links(file: &str, text: &str, exists: &dyn Fn(&Path) -> bool) -> Vec<Finding> {
    let folder = Path::new(file).parent().unwrap_or(Path::new(""));
    let mut found = vec![];
    let mut fenced = false;
    for (i, line) in text.lines().enumerate() {
        if line.trim_start().starts_with("```") {
            fenced = !fenced;
        }
        // What stands between backticks is not a link.
        let prose: String = line.split('`').step_by(2).collect();
        for link in prose.split("](").skip(1).filter(|_| !fenced) {
            let target = link.split([')', ' ', '#']).next().expect("split gives at least one");
            if target.is_empty() || target.contains(':') {
                continue;
            }
            if !plain(&folder.join(target)).is_some_and(|path| exists(&path)) {
                found.push(finding(
                    file,
                    i + 1,
                    "links",
                    format!("{target} is not there: correct the link or add the file"),
                ));
            }
        }
    }
    found
}

/// Without `.` and `..`; nothing if it leads out of the repository.
fn plain(path: &Path) -> Option<PathBuf> {
    let mut out = PathBuf::new();
    for part in path.components() {
        match part {
            Component::Normal(name) => out.push(name),
            Component::ParentDir => out.pop().then_some(())?,
            Component::CurDir => {}
            Component::RootDir | Component::Prefix(_) => return None,
        }
    }
    Some(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `LINE RULE` of each finding.
    fn short(found: Vec<Finding>) -> Vec<String> {
        found.iter().map(|f| format!("{} {}", f.line, f.rule)).collect()
    }

    #[test]
    fn arrows_point_down() {
        assert!(reaches("exec", "plan") && reaches("plan", "backend") && reaches("internevo", "comm"));
        assert!(!reaches("plan", "exec") && !reaches("data", "model") && !reaches("checkpoint", "exec"));
        for (name, _) in ARROWS {
            assert!(!reaches(name, name), "{name} would use itself");
        }
    }

    #[test]
    fn rust_files() {
        let check = |file: &str, text: &str, expected: &[&str]| assert_eq!(short(rust(file, text)), expected, "{text}");
        check("model/src/lib.rs", "//! A.\nfn f() {}\n", &[]);
        check("model/src/lib.rs", "fn f() {}\n", &["1 opening"]);
        check("model/src/lib.rs", "//! A.\n// unsafe\nfn f() { unsafe {} }\n", &["3 unsafe"]);
        check("model/src/lib.rs", "//! A.\n#![deny(unsafe_op_in_unsafe_fn)]\n", &[]);
        check("backend/src/cpu/new.rs", "//! A.\nunsafe fn f() {}\n", &[]);
        check("model/src/lib.rs", "//! A.\n#[ignore]\nfn f() { todo!(\"b\") }\n", &["2 unfinished", "3 unfinished"]);
        check("model/src/lib.rs", "//! A.\n#[ignore = \"needs a GPU\"]\nfn f() {}\n", &[]);
        check("model/src/lib.rs", &"//! A.\n".repeat(601), &["601 length"]);
        assert_eq!(long("model/src/lib.rs", &"//! A.\n".repeat(401)).map(|f| f.line), Some(401));
    }

    #[test]
    fn words_of_one_machine() {
        let check =
            |file: &str, text: &str, expected: &[&str]| assert_eq!(short(words(file, text)), expected, "{text}");
        check("docs/a.md", "see `/home/me/x` and target/tmp/y", &["1 machine"]);
        check("docs/a.md", "/tmp/x", &["1 machine"]);
        check("data/tests/it/a.rs", "\"/tmp/x\" \"/work/x\"", &["1 machine"]);
    }

    #[test]
    fn links_lead_to_files() {
        let exists = |path: &Path| [Path::new("docs/a.md"), Path::new("README.md")].contains(&path);
        let check =
            |text: &str, expected: &[&str]| assert_eq!(short(links("docs/b.md", text, &exists)), expected, "{text}");
        check("[a](a.md) [b](../README.md#top) [c](#here) [d](https://example.org/x)", &[]);
        check("[a](a.md), [b](gone.md \"title\")", &["1 links"]);
        check("[a](../../README.md)", &["1 links"]);
        check("`[a](gone.md)`\n```\n[a](gone.md)\n```\n[a](gone.md)", &["5 links"]);
    }
}
