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

/// Warps and blocks run in an order that nobody can rely on, and what is on a stream comes late by chance, so that a barrier or a
/// wait that is missing shows.
const AT_RANDOM: (&str, &str) = ("CUDA_EMULATOR_DELAYS", "1");

/// Every operation against PyTorch and the CPU.
pub fn operations(root: &Path) -> Result<()> {
    test(root, &["-p", "cuda", "--test", "ops", "--test", "attention"], &[AT_RANDOM])
}

const EMULATED: (&str, &str) = ("INTERNEVO_TEST_CARD", "emulator");

/// Whole trainings against PyTorch, of models that have between them what others have.
pub fn training(root: &Path) -> Result<()> {
    let models = ["llama_gqa_tied", "gemma2", "baichuan_alibi", "layernorm_gelu"];
    test(root, &[&["-p", "exec", "--test", "pytorch", "--"][..], &models].concat(), &[EMULATED])
}

/// The same of all models.
pub fn training_of_all(root: &Path) -> Result<()> {
    test(root, &["-p", "exec", "--test", "pytorch"], &[EMULATED])
}

/// Ranks that share a card, each with several streams.
pub fn layouts(root: &Path) -> Result<()> {
    test(root, &["-p", "exec", "--test", "table", "every_layout"], &[EMULATED, AT_RANDOM])
}
