//! `cargo xtask suites`: the tests that need more than Cargo, where it is there.
use crate::faults::{self, Kind};
use crate::python::{Python, TRANSFORMERS};
use crate::{emulated, families, fuzz, kernels, mpi, real_model, schedules};
use anyhow::{Result, bail, ensure};
use std::path::Path;
use std::time::Instant;

struct Suite {
    name: &'static str,
    /// Why it cannot run here, if so.
    skipped: fn(&Path, &Python) -> Option<String>,
    run: fn(&Path, &Python) -> Result<()>,
}

const SUITES: &[Suite] = &[
    Suite { name: "families", skipped: |_, python| python.lacks(families::NEEDS), run: families::main },
    Suite { name: "schedules", skipped: |_, python| python.lacks(schedules::NEEDS), run: schedules::compare },
    Suite {
        name: "trained-checkpoint",
        skipped: |_, python| python.lacks(TRANSFORMERS),
        run: |root, python| real_model::trained_checkpoint(&real_model::build(root)?, root, python),
    },
    Suite {
        name: "real-model",
        skipped: |root, _| {
            let absent = !real_model::is_converted(&real_model::default_folder(root));
            absent.then(|| "SmolLM2 is not on this machine; `cargo xtask real-model` downloads it".into())
        },
        run: |root, _| real_model::smollm2(&real_model::build(root)?, root, &real_model::default_folder(root)),
    },
    Suite { name: "mpi", skipped: |_, _| mpi::skipped(), run: |root, _| mpi::main(root) },
    Suite { name: "mpi-training", skipped: |_, _| mpi::skipped(), run: |root, _| mpi::training(root) },
    Suite { name: "faults-kill", skipped: |_, _| Kind::Kill.skipped(), run: |root, _| faults::suite(root, Kind::Kill) },
    Suite {
        name: "faults-crash-points",
        skipped: |_, _| Kind::CrashPoints.skipped(),
        run: |root, _| faults::suite(root, Kind::CrashPoints),
    },
    Suite {
        name: "faults-power",
        skipped: |_, _| Kind::Power.skipped(),
        run: |root, _| faults::suite(root, Kind::Power),
    },
    Suite { name: "faults-disk", skipped: |_, _| Kind::Disk.skipped(), run: |root, _| faults::suite(root, Kind::Disk) },
    Suite { name: "fuzz", skipped: |_, _| fuzz::skipped(), run: |root, _| fuzz::suite(root) },
    Suite { name: "kernels", skipped: |root, _| kernels::skipped(root), run: |root, _| kernels::main(root) },
    Suite { name: "emulator", skipped: |_, _| emulated::skipped(), run: |root, _| emulated::emulator(root) },
    Suite { name: "card-operations", skipped: |_, _| emulated::skipped(), run: |root, _| emulated::operations(root) },
    Suite { name: "card-training", skipped: |_, _| emulated::skipped(), run: |root, _| emulated::training(root) },
    Suite { name: "card-layouts", skipped: |_, _| emulated::skipped(), run: |root, _| emulated::layouts(root) },
    Suite { name: ALL_KERNELS, skipped: |root, _| kernels::skipped(root), run: |root, _| kernels::all(root) },
    Suite { name: ALL_MODELS, skipped: |_, _| emulated::skipped(), run: |root, _| emulated::training_of_all(root) },
];

/// Minutes, and a quarter of an hour: only by their names.
const ALL_KERNELS: &str = "kernels-of-all-architectures";
const ALL_MODELS: &str = "card-training-of-all-models";

pub fn main(root: &Path, names: &[String]) -> Result<()> {
    let known: Vec<&str> = SUITES.iter().map(|suite| suite.name).collect();
    let unknown = names.iter().find(|name| !known.contains(&name.as_str()));
    ensure!(unknown.is_none(), "there is no suite {}; there are {}", unknown.map_or("", |name| name), known.join(", "));
    let asked = |suite: &&Suite| match names.is_empty() {
        true => ![ALL_KERNELS, ALL_MODELS].contains(&suite.name),
        false => names.iter().any(|name| name == suite.name),
    };

    let python = Python::find(None);
    let mut lines = vec![];
    let mut failed = 0;
    for suite in SUITES.iter().filter(asked) {
        if let Some(reason) = (suite.skipped)(root, &python) {
            lines.push(format!("{}: skipped: {reason}", suite.name));
            continue;
        }
        let began = Instant::now();
        match (suite.run)(root, &python) {
            Ok(()) => lines.push(format!("{}: ran, {:.0} s", suite.name, began.elapsed().as_secs_f64())),
            Err(error) => {
                failed += 1;
                lines.push(format!("{}: ran and FAILED: {error:#}", suite.name));
            }
        }
    }
    println!("{}", lines.join("\n"));
    match failed {
        0 => Ok(()),
        n => bail!("{n} of {} optional suites failed", lines.len()),
    }
}
