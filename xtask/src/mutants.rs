//! `cargo xtask mutants`: the kernels of the CPU with one mistake at a time, to see that a test notices each.
use crate::cargo;
use crate::python::quietly;
use anyhow::{Context, Result, ensure};
use std::fs;
use std::path::Path;
use std::time::Instant;

/// One mistake: in a file of `backend/src/cpu` a text, there once, becomes another.
struct Mutant {
    file: &'static str,
    text: &'static str,
    becomes: &'static str,
    breaks: &'static str,
}

const fn mutant(file: &'static str, text: &'static str, becomes: &'static str, breaks: &'static str) -> Mutant {
    Mutant { file, text, becomes, breaks }
}

#[rustfmt::skip]
const MUTANTS: &[Mutant] = &[
    mutant("activation", "ds[i] * up[i] * slope", "ds[i] * slope", "the gradient of a gate forgets what it gates"),
    mutant("adamw", "rest2 * g * g", "rest2 * g", "the second moment is one of the first"),
    mutant("adamw", "norm[1]), norm[2] != 0.0", "norm[1]), true", "a step is taken that must not be"),
    mutant("attention/backward", "pack::dot::<E, L>(o, d_o);", "E::ZERO;", "the softmax has no second term"),
    mutant("attention/backward", "scaled(&keys.dk[i * shape.padded..], E::of(LN_2)", "scaled(&keys.dk[i * shape.padded..], E::ONE", "the gradient of keys is to base 2"),
    mutant("attention/backward", "p.mul(L::load(ds)) } else", "p } else", "the cap of scores has no slope"),
    mutant("attention/cached", "&mut x[start * width..][..n * width]", "&mut x[..n * width]", "keys enter the cache where the first ones are"),
    mutant("attention/mod", "token + 1].map(|end|", "token + 2].map(|end|", "the next token is seen"),
    mutant("attention/mod", "(i + 1).saturating_sub(self.window)", "i.saturating_sub(self.window)", "the window is one wider"),
    mutant("attention/mod", "self.heads.n + self.heads.kv + kv]", "self.heads.n + self.heads.kv]", "all groups have the values of the first"),
    mutant("attention/scores", "(l as isize - distance) as f64", "(distance - l as isize) as f64", "ALiBi prefers what is far"),
    mutant("attention/scores", "2 * (head - power) + 1)", "2 * (head - power) + 2)", "slopes between powers of two are those of the wrong heads"),
    mutant("bias", "pieces(dy, TILE * f)", "pieces(dy, dy.len().div_ceil(pool.threads() * f) * f)", "a sum depends on the number of threads"),
    mutant("cross_entropy", "E::of(scale * (1.0 - smoothing))", "E::of(scale)", "smoothing leaves all of the target on the label"),
    mutant("cross_entropy", "*z *= E::ONE - tanh * tanh;", "*z *= E::ONE - tanh;", "the cap of logits has a wrong slope"),
    mutant("cross_entropy", "[loss, nll, 1.0, f64::from(picked >= max)]", "[loss, nll, 1.0, 1.0]", "every label is a hit"),
    mutant("cross_entropy", "smoothing * (log_total + max.f64() - mean)", "smoothing * (log_total - mean)", "the loss that is spread over all forgets the largest logit"),
    mutant("elementwise", "*y += x", "*y = x", "an addition overwrites"),
    mutant("embedding", "dw[i] += scale * dy[i];", "dw[i] += dy[i];", "the gradient of an embedding is not scaled"),
    mutant("exp", "n * LN2[1]", "n * 0.0", "the second part of ln 2 is missing"),
    mutant("grad_norm", "[length, factor / scale[0], 1.0]", "[length, factor, 1.0]", "the loss scale is not undone"),
    mutant("grad_norm", "(*good, *overflows) = (0.0, 0.0);", "*good = 0.0;", "overflows are never forgotten"),
    mutant("head_norm", "head >= heads.n)", "head > heads.n)", "the first key has the weight of queries"),
    mutant("layernorm", "- mean_dy - x_hat * along", "- x_hat * along", "the mean has no gradient"),
    mutant("linear", "[t, d, f], E::of(scale), acc)", "[t, d, f], E::ONE, acc)", "the gradient of a weight is not scaled"),
    mutant("matmul", "            E::ONE,\n            scale,", "            scale,\n            scale,", "what is added to is scaled too"),
    mutant("nonlinearity", "x * (E::ONE - sig)", "x * sig", "SiLU has a wrong slope"),
    mutant("nonlinearity", "(x * E::of(FRAC_1_SQRT_2)).erf()", "x.erf()", "GELU is too steep"),
    mutant("one_row", "for i in whole..k {", "for i in whole + 1..k {", "a product leaves one out"),
    mutant("outer", "self.acc || block > 0", "self.acc", "only the last tokens have gradients"),
    mutant("outer", "col..(col + COLS).min", "0..COLS.min", "all tiles are the first"),
    mutant("outer", "x[0].store(copy);", "", "half of the copy of x is missing"),
    mutant("reduce", "for l in 0..len % LANES {", "for l in 1..len % LANES {", "a sum leaves one out"),
    mutant("rmsnorm", "rstd * (w[i] + offset);", "rstd * w[i];", "the offset of the weight is forgotten"),
    mutant("rmsnorm", "* dy[i] - x_hat * mean", "* dy[i]", "rstd has no gradient"),
    mutant("rope", "*pair = [a * c - b * s, b * c + a * s]", "*pair = [a * c + b * s, b * c - a * s]", "interleaved pairs turn the other way"),
    mutant("rope", "self.by(token, heads, -E::ONE);", "self.by(token, heads, E::ONE);", "gradients turn the same way as what they are of"),
    mutant("storage", "Narrow::Bf16(narrow) => rounded(pool, wide, narrow)", "Narrow::Bf16(narrow) => narrow.iter_mut().zip(wide).for_each(|(y, x)| *y = bf16::from_bits((x.to_bits() >> 16) as u16))", "bf16 is cut off and not rounded"),
    mutant("storage", "Write::Widened(widened(pool, narrow), Narrow::F16(narrow), pool)", "Write::Widened(pool.scratch(narrow.len()), Narrow::F16(narrow), pool)", "what is added to is lost in f16"),
    mutant("unit_rows", "dy[i] - y[i] * along", "dy[i]", "a row may change its length"),
];

pub fn main(root: &Path, only: &str) -> Result<()> {
    let began = Instant::now();
    let mutants: Vec<&Mutant> = MUTANTS.iter().filter(|m| m.file.starts_with(only)).collect();
    ensure!(!mutants.is_empty(), "no mistake is in a file that begins with {only:?}");
    let copy = root.join("target/mutants");
    copy_tree(root, &copy)?;
    println!("without a mistake");
    ensure!(test(&copy)?.is_none(), "a test fails without any mistake: cargo test --release -p backend");

    let (mut survivors, mut files) = (0, std::collections::BTreeSet::new());
    for Mutant { file, text, becomes, breaks } in &mutants {
        let place = format!("backend/src/cpu/{file}.rs");
        let source = fs::read_to_string(root.join(&place)).with_context(|| format!("cannot read {place}"))?;
        let found = source.matches(text).count();
        ensure!(found == 1, "{place} has {text:?} {found} times: change its row in xtask/src/mutants.rs");
        fs::write(copy.join(&place), source.replace(text, becomes))?;
        let caught = test(&copy).with_context(|| format!("{place}, {breaks}"))?;
        fs::write(copy.join(&place), &source)?;
        survivors += usize::from(caught.is_none());
        files.insert(file);
        let verdict = caught.map_or("SURVIVED".into(), |test| format!("caught by {test}"));
        println!("{file:<14} {breaks}: {verdict}");
    }
    println!("{} mistakes in {} files, {:.0} s", mutants.len(), files.len(), began.elapsed().as_secs_f64());
    ensure!(survivors == 0, "{survivors} of {} mistakes are seen by no test", mutants.len());
    Ok(())
}

/// Runs the tests of `backend`: the first that fails, and how many more do.
fn test(copy: &Path) -> Result<Option<String>> {
    let command = || {
        let mut command = cargo(copy);
        // The build folder of the repository itself may be another by its environment.
        command.env("CARGO_TARGET_DIR", copy.join("target")).env("RUST_BACKTRACE", "0");
        command.args(["test", "--quiet", "--release", "--package", "backend"]);
        command
    };
    // What does not compile is not caught by a test.
    quietly(command().arg("--no-run"))?;
    let out = command().output().context("cargo does not start")?;
    if out.status.success() {
        return Ok(None);
    }
    let text = String::from_utf8_lossy(&out.stdout);
    let failed: std::collections::BTreeSet<&str> =
        text.lines().filter_map(|line| line.strip_prefix("---- ")?.strip_suffix(" stdout ----")).collect();
    let first =
        failed.first().with_context(|| format!("no test failed, but: {}", String::from_utf8_lossy(&out.stderr)))?;
    Ok(Some(match failed.len() {
        1 => (*first).into(),
        n => format!("{first} and {} more", n - 1),
    }))
}

/// All that the tests are built from. What is the same already is left alone: Cargo goes by the time of writing.
fn copy_tree(from: &Path, to: &Path) -> Result<()> {
    fs::create_dir_all(to).with_context(|| format!("cannot make {}", to.display()))?;
    for entry in fs::read_dir(from).with_context(|| format!("cannot list {}", from.display()))? {
        let entry = entry?;
        let (source, copy) = (entry.path(), to.join(entry.file_name()));
        if entry.file_type()?.is_dir() {
            if !["target", ".git", "runs"].iter().any(|name| entry.file_name() == *name) {
                copy_tree(&source, &copy)?;
            }
        } else {
            let bytes = fs::read(&source).with_context(|| format!("cannot read {}", source.display()))?;
            if fs::read(&copy).ok().as_ref() != Some(&bytes) {
                fs::write(&copy, bytes).with_context(|| format!("cannot write {}", copy.display()))?;
            }
        }
    }
    Ok(())
}

/// The command takes minutes; a row that went stale shows at once.
#[test]
fn every_text_is_found_once() {
    let cpu = Path::new(env!("CARGO_MANIFEST_DIR")).join("../backend/src/cpu");
    let files: std::collections::BTreeSet<&str> = MUTANTS.iter().map(|m| m.file).collect();
    assert!(MUTANTS.len() >= 16 && files.len() >= 12, "{} in {} files", MUTANTS.len(), files.len());
    for Mutant { file, text, .. } in MUTANTS {
        let source = fs::read_to_string(cpu.join(format!("{file}.rs"))).expect(file);
        assert_eq!(source.matches(text).count(), 1, "{file}: {text}");
    }
}
