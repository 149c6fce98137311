//! The CUDA back-end where there is no card: on the crate `emulator`, which the system's C++ compiler builds.
use crate::cargo;
use crate::python::succeed;
use anyhow::Result;
use std::path::Path;
use std::process::Command;

pub fn skipped() -> Option<String> {
    if !cfg!(all(target_arch = "x86_64", target_os = "linux")) {
        return Some("the emulator of cards runs on x86-64 Linux".into());
    }
    let compiler = std::env::var("CXX").ok().filter(|name| !name.is_empty()).unwrap_or("g++".into());
    let answers = Command::new(&compiler).arg("--version").output().is_ok_and(|out| out.status.success());
    (!answers).then(|| format!("no C++ compiler: {compiler} does not start"))
}

fn test(root: &Path, what: &[&str], variables: &[(&str, &str)]) -> Result<()> {
    let mut cargo = cargo(root);
    cargo.args(["test", "--release", "--locked"]).args(what).envs(variables.iter().copied());
    succeed(&mut cargo)
}

/// The emulator's own tests.
pub fn emulator(root: &Path) -> Result<()> {
    test(root, &["-p", "emulator"], &[])
}

/// Every operation against PyTorch and the CPU.
pub fn operations(root: &Path) -> Result<()> {
    test(root, &["-p", "cuda", "--test", "ops", "--test", "attention"], &[])
}

const EMULATED: (&str, &str) = ("INTERNEVO_TEST_CARD", "emulator");

/// Whole trainings against PyTorch, of models that have between them what others have.
pub fn training(root: &Path) -> Result<()> {
    let models = ["llama_gqa_tied", "gemma2", "baichuan_alibi", "many_variants"];
    test(root, &[&["-p", "exec", "--test", "pytorch", "--"][..], &models].concat(), &[EMULATED])
}

/// The same of all models.
pub fn training_of_all(root: &Path) -> Result<()> {
    test(root, &["-p", "exec", "--test", "pytorch"], &[EMULATED])
}

/// Ranks that share a card, each with several streams. They are held up at random, so that a wait that is missing shows.
pub fn layouts(root: &Path) -> Result<()> {
    let table = ["-p", "exec", "--test", "table", "every_layout"];
    test(root, &table, &[EMULATED, ("CUDA_EMULATOR_DELAYS", "1")])
}
