//! `cargo xtask schedules`: the orders of our pipeline policies beside PyTorch's.
use crate::cargo;
use crate::python::{Python, json};
use anyhow::{Context, Result, bail, ensure};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// Compare the orders of the pipeline policies with PyTorch's, pass by pass
///
/// On a grid of up to 8 ranks, 4 stages a rank and 20 micro-batches, wherever PyTorch accepts the numbers. Without --python
/// it installs PyTorch, in target/schedules.
#[derive(clap::Args)]
pub struct Args {
    /// An interpreter that has torch [default: a virtual environment made in target/schedules]
    #[arg(long)]
    python: Option<PathBuf>,
}

pub const NEEDS: &[&str] = &["torch"];

pub fn main(root: &Path, args: &Args) -> Result<()> {
    let python = match &args.python {
        Some(_) => Python::find(args.python.as_deref()),
        None => Python::environment(&root.join("target/schedules/venv"), NEEDS)?,
    };
    python.require(NEEDS)?;
    compare(root, &python)
}

pub fn compare(root: &Path, python: &Python) -> Result<()> {
    let run = ["run", "--release", "--quiet", "--package", "schedule", "--example", "orders"];
    let out = cargo(root).args(run).output().context("cargo does not start")?;
    ensure!(out.status.success(), "the example fails: {}", String::from_utf8_lossy(&out.stderr));
    let ours = String::from_utf8(out.stdout)?;
    let case = |line| {
        let (case, ranks): (&str, &str) = str::split_once(line, '\t').expect("a case has ranks");
        (case, ranks.split('\t').collect::<Vec<&str>>())
    };
    let cases: Vec<_> = ours.lines().map(case).collect();
    let questions: Vec<&str> = cases.iter().map(|(case, _)| *case).collect();
    let answer = json(&mut python.script(root, "schedules.py"), &questions.join("\n"))?;
    let theirs = answer["answers"].as_array().context("no answers")?;
    ensure!(theirs.len() == cases.len(), "{} answers to {} questions", theirs.len(), cases.len());

    let mut counts: BTreeMap<&str, [usize; 3]> = BTreeMap::new();
    let mut different = vec![];
    for ((case, ours), theirs) in cases.iter().zip(theirs) {
        let policy = case.split(' ').next().expect("split gives at least one");
        let [equal, other, refused] = counts.entry(policy).or_default();
        match theirs.as_array() {
            None => *refused += 1,
            Some(theirs) if theirs.iter().map(|rank| rank.as_str()).eq(ours.iter().map(|rank| Some(*rank))) => {
                *equal += 1;
            }
            Some(theirs) => {
                *other += 1;
                different.push(format!("{case}\n  ours:   {ours:?}\n  theirs: {theirs:?}"));
            }
        }
    }
    println!("PyTorch {}", answer["torch"].as_str().unwrap_or("without a version"));
    for (policy, [equal, other, refused]) in &counts {
        println!("{policy:12} {equal:4} equal {other:4} different {refused:4} refused by PyTorch");
    }
    ensure!(counts.values().all(|[equal, ..]| *equal > 0), "PyTorch refuses every case of a policy");
    match different.len() {
        0 => Ok(()),
        n => bail!("{n} orders are different; the first is {}", different[0]),
    }
}
