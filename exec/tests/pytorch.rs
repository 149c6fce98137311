//! Whole trainings against PyTorch in f64 (`xtask/py/goldens.py` made the files): four differently shaped models, from a
//! Hugging Face directory to the weights after ten steps, in f32 to the tolerances of the numerics contract and in f64
//! to rounding.
use backend::DType;
use checkpoint::HfDir;
use exec::{Hyper, Lanes, OptimizerConfig, State, World};
use model::{Inputs, Phase};
use plan::{Mesh, Micro, PipelineSchedule, Plan, StepShape};
use safetensors::{Dtype, SafeTensors};
use schedule::RankPrograms;
use serde_json::Value;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

struct Tolerance {
    /// Relative, losses and norms.
    loss: f64,
    /// Of the largest element of a tensor.
    grad: f64,
    weight: f64,
}
const F32: Tolerance = Tolerance { loss: 2e-6, grad: 1e-5, weight: 1e-3 };
/// Gradients are read as f32; the rest is exact to rounding.
const F64: Tolerance = Tolerance { loss: 1e-11, grad: 1e-7, weight: 1e-6 };

#[test]
fn llama_mha() {
    check("llama_mha");
}
#[test]
fn llama_gqa_tied() {
    check("llama_gqa_tied");
}
#[test]
fn internlm2_gqa() {
    check("internlm2_gqa");
}
#[test]
fn internlm2_mqa() {
    check("internlm2_mqa");
}

fn check(name: &str) {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("../internevo/tests/goldens").join(name);
    let one = Mesh::SOLO;
    run(&dir, one, DType::F32, &F32);
    run(&dir, one, DType::F64, &F64);
    run(&dir, Mesh { data: 2, shard_optimizer: true, ..one }, DType::F64, &F64);
    let tied = HfDir::open(&dir).unwrap().decoder().tied;
    if !tied {
        run(&dir, Mesh { pipeline: 2, ..one }, DType::F64, &F64);
    }
    logits(&dir);
}

/// Logits after every prefix of the first row, through the cache: the prefix as one prompt, then token by token.
fn logits(dir: &Path) {
    let (read, hf) = (reader(dir), HfDir::open(dir).unwrap());
    let tensors = read("golden.safetensors");
    let tensors = SafeTensors::deserialize(&tensors).unwrap();
    let want = numbers(&tensors, "logits");
    let (v, ids) = (hf.decoder().vocab, tokens(&read));
    let s = want.len() / v;
    let [prefill, decode] =
        [(Phase::Prefill, s), (Phase::Decode, 1)].map(|(phase, t)| StepShape { phase, t, micros: 1 });
    let plan = Plan::new(hf.decoder().clone(), Mesh::SOLO, DType::F32, s, 0);
    let programs = RankPrograms::new(&plan, plan::RankId(0), &[prefill, decode], PipelineSchedule::OneFOneB);
    let mut rank = world(plan, OptimizerConfig::default(), 0.0).solo(programs);
    put_weights(&mut rank, &hf);
    let largest = want.iter().fold(0.0f64, |a, b| a.max(b.abs()));
    let compare = |rank: &mut exec::Rank, program: usize, ids: &[u32], start: usize| {
        let slab = Inputs::cached(ids, start, if program == 0 { s } else { 1 });
        exec::run(rank, program, Hyper { lr: 0.0, step: 1 }, &mut |_| slab.clone()).unwrap();
        let row = start + ids.len() - 1;
        let pairs = rank.logits(program).into_iter().zip(&want[row * v..]);
        let error = pairs.fold(0.0f64, |a, (x, y)| a.max((x as f64 - y).abs()));
        assert!(
            error <= 1e-5 * largest,
            "{} logits of row {row}: {:e} of the largest",
            show(dir, DType::F32),
            error / largest
        );
    };
    (1..=s).for_each(|n| compare(&mut rank, 0, &ids[..n], 0));
    (0..s).for_each(|n| compare(&mut rank, 1, &ids[n..n + 1], n));
}

/// Ten steps in a layout against the golden curve; gradients of the first step and final weights on one rank.
fn run(dir: &Path, mesh: Mesh, dtype: DType, tolerance: &Tolerance) {
    let read = reader(dir);
    let golden: Value = serde_json::from_slice(&read("golden.json")).unwrap();
    let tensors = read("golden.safetensors");
    let tensors = SafeTensors::deserialize(&tensors).unwrap();
    let size = |key: &str| golden[key].as_u64().unwrap() as usize;
    let number = |section: &str, key: &str| golden[section][key].as_f64().unwrap();
    let list = |key: &str| golden[key].as_array().unwrap().iter().map(|x| x.as_f64().unwrap()).collect::<Vec<_>>();
    let (s, b, micros) = (size("seq_len"), size("micro_batch_size"), size("micro_batches"));
    let ids = tokens(&read);

    let hf = HfDir::open(dir).unwrap();
    let plan = Plan::new(hf.decoder().clone(), mesh, dtype, s, 0);
    let shape = StepShape { phase: Phase::Train, t: s * b, micros: micros / mesh.data };
    let programs = mesh.ranks().map(|r| RankPrograms::new(&plan, r, &[shape], PipelineSchedule::OneFOneB)).collect();
    let optimizer = OptimizerConfig {
        lr: 0.0,
        beta1: number("adam", "beta1"),
        beta2: number("adam", "beta2"),
        eps: number("adam", "eps"),
        weight_decay: number("adam", "weight_decay"),
        decay_all: false,
    };
    let world = world(plan, optimizer, golden["clip"].as_f64().unwrap());
    let (lrs, losses, norms) = (list("lrs"), list("losses"), list("grad_norms"));
    world.launch(programs, |rank| {
        put_weights(rank, &hf);
        let id = rank.id;
        for step in 0..10 {
            let first_micro = step * micros;
            let plan = rank.plan.clone();
            exec::run(rank, 0, Hyper { lr: lrs[step], step: step as u64 + 1 }, &mut |m: Micro| {
                let row = (first_micro + plan.global_micro(id, m, shape)) * b;
                slab(&ids[row * s..(row + b) * s + 1], s)
            })
            .unwrap();
            let result = rank.step_result(0);
            let near = |what: &str, got: f64, want: f64| {
                let error = ((got - want) / want).abs();
                assert!(
                    error <= tolerance.loss,
                    "{} {what} of step {step}: {got} against {want}, {error:e}",
                    show(dir, dtype)
                );
            };
            near("loss", result.loss.mean(), losses[step]);
            near("norm", result.grad_norm, norms[step]);
            if step == 0 && mesh.world() == 1 {
                rank.params().iter().for_each(|spec| {
                    let got = rank.get(State::Grad, spec, 0..spec.len());
                    compare(dir, dtype, &tensors, &format!("grad.{}", spec.name), &got, tolerance.grad);
                });
            }
        }
        rank.finish().unwrap();
        for spec in rank.params() {
            let got = rank.get(State::Param, &spec, 0..spec.len());
            compare(dir, dtype, &tensors, &format!("final.{}", spec.name), &got, tolerance.weight);
        }
    });
}

/// Rows of `s` tokens, each its own segment; `ids` has one token more.
fn slab(ids: &[u32], s: usize) -> Vec<u32> {
    let t = ids.len() - 1;
    let positions: Vec<u32> = (0..t).map(|i| (i % s) as u32).collect();
    let cu: Vec<u32> = (0..=t / s).map(|i| (i * s) as u32).collect();
    Inputs::packed(&ids[..t], &positions, &ids[1..], &cu)
}

fn compare(dir: &Path, dtype: DType, tensors: &SafeTensors, name: &str, got: &[f32], tolerance: f64) {
    let want = numbers(tensors, name);
    assert_eq!(got.len(), want.len(), "{name}");
    let largest = want.iter().fold(0.0f64, |a, b| a.max(b.abs()));
    let error = got.iter().zip(&want).fold(0.0f64, |a, (x, y)| a.max((*x as f64 - y).abs()));
    assert!(
        largest > 0.0 && error <= tolerance * largest,
        "{} {name}: {:e} of the largest",
        show(dir, dtype),
        error / largest
    );
}

fn numbers(tensors: &SafeTensors, name: &str) -> Vec<f64> {
    let tensor = tensors.tensor(name).unwrap();
    match tensor.dtype() {
        Dtype::F64 => tensor.data().chunks(8).map(|b| f64::from_le_bytes(b.try_into().unwrap())).collect(),
        Dtype::F32 => tensor.data().chunks(4).map(|b| f32::from_le_bytes(b.try_into().unwrap()) as f64).collect(),
        other => panic!("{name} is {other:?}"),
    }
}

#[allow(clippy::disallowed_methods)] // a test reads its goldens
fn reader(dir: &Path) -> impl Fn(&str) -> Vec<u8> {
    let dir = dir.to_path_buf();
    move |name| std::fs::read(dir.join(name)).unwrap()
}

fn tokens(read: &impl Fn(&str) -> Vec<u8>) -> Vec<u32> {
    read("tokens.bin").chunks(2).map(|x| u16::from_le_bytes([x[0], x[1]]) as u32).collect()
}

fn world(plan: Plan, optimizer: OptimizerConfig, max_norm: f64) -> World {
    let (plan, timeout) = (Arc::new(plan), Duration::from_secs(60));
    World { plan, optimizer, max_norm, lanes: Lanes::Direct, threads: 1, timeout, record: false }
}

fn put_weights(rank: &mut exec::Rank, hf: &HfDir) {
    for spec in rank.params() {
        let mut values = vec![0.0; spec.len()];
        hf.read(&spec.name, 0, &mut values).unwrap();
        rank.set(State::Param, &spec, 0, &values);
    }
}

fn show(dir: &Path, dtype: DType) -> String {
    format!("{} in {dtype:?}", PathBuf::from(dir.file_name().unwrap()).display())
}
