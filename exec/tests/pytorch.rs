//! Whole trainings against PyTorch in f64 (`xtask/py/goldens.py` made the files): a model or more of every family, and
//! what no family has, from a Hugging Face directory to the weights after ten steps, in f32 to the tolerances of the
//! numerics contract and in f64 to rounding.
#[path = "common/on.rs"]
mod on;

use backend::{DType, Pairs};
use checkpoint::HfDir;
use exec::{Hyper, Lanes, OptimizerConfig, State, StepConfig, World};
use model::models::{self, FileTensor};
use model::{Decoder, Family, Inputs, ParamSpec, Phase, Position, Rope, Tensor, TensorMode};
use plan::{Mesh, Micro, PipelineSchedule, Plan, Recompute, Selective, StepShape};
use safetensors::{Dtype, SafeTensors};
use schedule::RankPrograms;
use serde_json::Value;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

struct Tolerance {
    /// Relative.
    loss: f64,
    /// Relative, of the gradient.
    norm: f64,
    /// Of the largest element of a tensor.
    grad: f64,
    weight: f64,
}
const F32: Tolerance = Tolerance { loss: 2e-6, norm: 2e-6, grad: 1e-5, weight: 1e-3 };
/// Gradients are read as f32; the rest is exact to rounding.
const F64: Tolerance = Tolerance { loss: 1e-11, norm: 1e-11, grad: 1e-7, weight: 1e-6 };

/// Weights and activations have three digits; gradients and master weights are f32. PyTorch in bf16 strays by up to 0.007,
/// 0.04, 0.15 and 0.6 on the same models: a small gradient is a difference of large ones, and Adam's step is of one size however
/// small it is.
const BF16: Tolerance = Tolerance { loss: 0.01, norm: 0.08, grad: 0.15, weight: 0.6 };

/// A test for each model of the goldens.
macro_rules! models {
    ($($name:ident),*) => { $(
        #[test]
        fn $name() {
            check(stringify!($name));
        }
    )* };
}
models!(llama_mha, llama_gqa_tied, internlm, internlm2_gqa, internlm2_mqa, mistral, qwen2, qwen3, baichuan2);
models!(baichuan_alibi, gemma, gemma2, layernorm_gelu, many_variants);

fn check(name: &str) {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("../internevo/tests/goldens").join(name);
    let whole = Run { mesh: Mesh::SOLO, dtype: DType::F64, recompute: Recompute::NONE, pairs: None };
    run(&dir, Run { dtype: DType::F32, ..whole }, &F32);
    run(&dir, whole, &F64);
    run(&dir, Run { dtype: DType::BF16, ..whole }, &BF16);
    for recompute in [Recompute::Layers(1.0), Recompute::Named(Selective::Selective)] {
        run(&dir, Run { recompute, ..whole }, &F64);
    }
    run(&dir, Run { mesh: Mesh { data: 2, zero: 2, ..Mesh::SOLO }, ..whole }, &F64);
    let decoder = HfDir::open(&dir).unwrap().decoder().clone();
    run(&dir, Run { mesh: Mesh { pipeline: 2, ..Mesh::SOLO }, ..whole }, &F64);
    run(&dir, Run { mesh: Mesh { data: 2, weight: 2, ..Mesh::SOLO }, ..whole }, &F64);
    let mut cut = vec![];
    for mode in [TensorMode::Mtp, TensorMode::Msp, TensorMode::Fsp, TensorMode::Isp] {
        for size in [2, 3, 4] {
            let tensor = Tensor { mode, size };
            // Some have a ffn that no size divides, or odd tokens.
            let fits = decoder.cannot_be_cut(tensor).is_empty() && tokens_of_a_micro_batch(&dir).is_multiple_of(size);
            if fits {
                let weight = if mode == TensorMode::Isp { size } else { 1 };
                run(&dir, Run { mesh: Mesh { tensor, weight, ..Mesh::SOLO }, ..whole }, &F64);
                cut.push(mode);
            }
        }
    }
    assert!(!cut.is_empty(), "{name} is cut in some mode");
    if matches!(decoder.position, Position::Rope(_)) {
        for pairs in [Pairs::Half, Pairs::Interleaved] {
            run(&dir, Run { pairs: Some(pairs), ..whole }, &F64);
        }
    }
    logits(&dir);
}

fn tokens_of_a_micro_batch(dir: &Path) -> usize {
    let golden: Value = serde_json::from_slice(&reader(dir)("golden.json")).unwrap();
    ["seq_len", "micro_batch_size"].map(|key| golden[key].as_u64().unwrap() as usize).iter().product()
}

/// How a training is run.
#[derive(Clone, Copy)]
struct Run {
    mesh: Mesh,
    dtype: DType,
    recompute: Recompute,
    /// Another order of RoPE's pairs in memory than the directory asks for.
    pairs: Option<Pairs>,
}

impl Run {
    fn decoder(&self, hf: &HfDir) -> Decoder {
        let m = hf.decoder().clone();
        match (m.position, self.pairs) {
            (Position::Rope(rope), Some(pairs)) => Decoder { position: Position::Rope(Rope { pairs, ..rope }), ..m },
            _ => m,
        }
    }
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
    let mut rank = on::solo(&world(plan, StepConfig::default()), programs);
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

/// Ten steps against the golden curve; gradients of the first step and final weights on one rank.
fn run(dir: &Path, how: Run, tolerance: &Tolerance) {
    let Run { mesh, dtype, recompute, .. } = how;
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
    let decoder = how.decoder(&hf);
    let hf = hf.for_run(&decoder);
    let mut plan = Plan::new(decoder.clone(), mesh, dtype, s, 0);
    plan.recompute = recompute;
    let shape = StepShape { phase: Phase::Train, t: s * b, micros: micros / mesh.data };
    assert_eq!(plan.problems(shape), [""; 0]);
    let programs = mesh.ranks().map(|r| RankPrograms::new(&plan, r, &[shape], PipelineSchedule::OneFOneB)).collect();
    let optimizer = OptimizerConfig {
        lr: 0.0,
        beta1: number("adam", "beta1"),
        beta2: number("adam", "beta2"),
        eps: number("adam", "eps"),
        weight_decay: number("adam", "weight_decay"),
        decay_all: false,
        beta2_c: 0.0,
    };
    let (max_norm, label_smoothing) = (golden["clip"].as_f64().unwrap(), golden["label_smoothing"].as_f64());
    let step =
        StepConfig { optimizer, max_norm, label_smoothing: label_smoothing.unwrap_or(0.0), ..Default::default() };
    let world = world(plan, step);
    let (lrs, losses, norms) = (list("lrs"), list("losses"), list("grad_norms"));
    let ranks = on::launch(&world, programs, |rank| {
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
            let near = |what: &str, got: f64, want: f64, tolerance: f64| {
                let error = ((got - want) / want).abs();
                assert!(
                    error <= tolerance,
                    "{} {what} of step {step}: {got} against {want}, {error:e}",
                    show(dir, dtype)
                );
            };
            near("loss", result.losses.all.mean(), losses[step], tolerance.loss);
            near("norm", result.grad_norm, norms[step], tolerance.norm);
            if step == 0 && mesh.world() == 1 {
                rank.params().iter().for_each(|spec| {
                    let got = as_stored(&decoder, spec, rank.get(State::Grad, spec, 0..spec.len()));
                    compare(dir, dtype, &tensors, &format!("grad.{}", spec.name), &got, tolerance.grad);
                });
            }
        }
        rank.finish().unwrap();
        let mut held = vec![];
        for (part, whole) in rank.parts() {
            let range = if rank.plan.has_master() { rank.stepped(&part) } else { rank.kept(&part) };
            for (here, there, len) in rank.plan.stretches(id, &part, &whole, range) {
                held.push((whole.clone(), there, rank.get(State::Param, &part, here..here + len)));
            }
        }
        held
    });
    let mut whole: BTreeMap<String, (ParamSpec, Vec<f32>)> = BTreeMap::new();
    for (spec, at, values) in ranks.into_iter().flatten() {
        let (_, all) = whole.entry(spec.name.clone()).or_insert_with(|| (spec.clone(), vec![f32::NAN; spec.len()]));
        all[at..at + values.len()].copy_from_slice(&values);
    }
    for (name, (spec, values)) in whole {
        let got = as_stored(&decoder, &spec, values);
        compare(dir, dtype, &tensors, &format!("final.{name}"), &got, tolerance.weight);
    }
}

/// A parameter's rows in the order in which a directory has them.
fn as_stored(decoder: &Decoder, spec: &ParamSpec, values: Vec<f32>) -> Vec<f32> {
    let tensors = models::tensors(decoder, Family::Internevo);
    let FileTensor { pieces, .. } = tensors.iter().find(|t| t.name == spec.name).unwrap();
    let width = spec.len() / spec.shape[0];
    pieces.iter().flat_map(|p| &values[p.start * width..(p.start + p.rows) * width]).copied().collect()
}

/// Rows of `s` tokens, each its own segment; `ids` has one token more.
fn slab(ids: &[u32], s: usize) -> Vec<u32> {
    let t = ids.len() - 1;
    let positions: Vec<u32> = (0..t).map(|i| (i % s) as u32).collect();
    let cu: Vec<u32> = (0..=t / s).map(|i| (i * s) as u32).collect();
    Inputs::packed(&ids[..t], &positions, &ids[1..], &cu, &vec![0; t])
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

fn world(plan: Plan, step: StepConfig) -> World {
    let (plan, timeout) = (Arc::new(plan), Duration::from_secs(60));
    World { plan, step, lanes: Lanes::Direct, threads: 1, timeout, record: false, clock: None }
}

fn put_weights(rank: &mut exec::Rank, hf: &HfDir) {
    for (part, whole) in rank.parts() {
        let mut values = vec![0.0; part.len()];
        for (here, there, len) in rank.plan.stretches(rank.id, &part, &whole, 0..part.len()) {
            hf.read(&whole.name, there, &mut values[here..here + len]).unwrap();
        }
        rank.set(State::Param, &part, 0, &values);
    }
}

fn show(dir: &Path, dtype: DType) -> String {
    format!("{} in {dtype:?}", PathBuf::from(dir.file_name().unwrap()).display())
}
