//! Real programs: a step of training in several layouts, and generation, of models as they are published. Two layers stand for
//! all of them.
use crate::noted::Notes;
use backend::DType::{BF16, F16, F32, F64};
use backend::{DType, Heads, Nonlinearity};
use exec::StepConfig;
use model::{Decoder, Family, Mlp, NormKind, Phase, Position, Tensor, TensorMode, models};
use plan::{Mesh, PipelineSchedule, Plan, RankId, Recompute, StepShape};
use schedule::RankPrograms;
use std::sync::Arc;

/// Vocabulary, width, heads, key/value heads, width of a head, width of the MLP.
fn model(family: Family, [vocab, hidden, n, kv, dim, ffn]: [usize; 6]) -> Decoder {
    let heads = Heads { n, kv, dim };
    Decoder { vocab, hidden, layers: 2, heads, ffn, max_positions: T, ..models::base(family) }
}

/// Tokens of a micro-batch.
const T: usize = 4096;

pub fn note(notes: &Notes) {
    let llama = model(Family::Llama, [32_000, 4096, 32, 32, 128, 11_008]);
    let internlm2 = model(Family::Internlm2, [92_544, 2048, 16, 8, 128, 8192]);
    let baichuan = model(Family::Baichuan, [125_696, 5120, 40, 40, 128, 13_696]);
    let qwen2 = model(Family::Qwen2, [151_936, 896, 14, 2, 64, 4864]);
    let gelu = Mlp { gated: false, by: Nonlinearity::Gelu, bias: true };
    let all: &[(Decoder, &[DType])] = &[
        (llama.clone(), &[BF16, F16, F32, F64]),
        (model(Family::Llama, [128_256, 4096, 32, 8, 128, 14_336]), &[BF16]),
        (internlm2.clone(), &[BF16, F16, F32]),
        (Decoder { norm_head: true, position: Position::Alibi, ..baichuan }, &[BF16, F32]),
        (Decoder { tied: true, ..qwen2 }, &[BF16, F32]),
        (Decoder { tied: true, ..model(Family::Qwen3, [151_936, 1024, 16, 8, 128, 3072]) }, &[BF16, F32]),
        (model(Family::Gemma, [256_000, 2048, 8, 1, 256, 16_384]), &[BF16]),
        (model(Family::Gemma2, [256_000, 2304, 8, 4, 256, 9216]), &[BF16, F32]),
        (Decoder { norm: NormKind::Layer, mlp: gelu, ..internlm2.clone() }, &[BF16]),
    ];
    for (decoder, dtypes) in all {
        for &dtype in *dtypes {
            train(notes, decoder, dtype, Mesh::SOLO, Recompute::NONE, 0.0);
            generate(notes, decoder, dtype);
        }
    }
    let cut = |mode| Mesh { tensor: Tensor { mode, size: 2 }, ..Mesh::SOLO };
    for (mesh, recompute, smoothing) in [
        (Mesh { data: 2, zero: 2, ..Mesh::SOLO }, Recompute::Layers(1.0), 0.1),
        (cut(TensorMode::Mtp), Recompute::NONE, 0.1),
        (cut(TensorMode::Msp), Recompute::NONE, 0.0),
        (cut(TensorMode::Fsp), Recompute::NONE, 0.0),
        (Mesh { weight: 2, ..cut(TensorMode::Isp) }, Recompute::NONE, 0.0),
        (Mesh { pipeline: 2, ..Mesh::SOLO }, Recompute::NONE, 0.0),
    ] {
        train(notes, &internlm2, BF16, mesh, recompute, smoothing);
    }
}

/// All ranks of a mesh, on two rows of half the tokens.
fn train(notes: &Notes, decoder: &Decoder, dtype: DType, mesh: Mesh, recompute: Recompute, label_smoothing: f64) {
    let mut plan = Plan::new(decoder.clone(), mesh, dtype, T / 2, 0);
    plan.recompute = recompute;
    plan.types = 2;
    let step = StepConfig { label_smoothing, ..StepConfig::default() };
    run(notes, plan, &[StepShape { phase: Phase::Train, t: T, micros: 2 }], step);
}

fn generate(notes: &Notes, decoder: &Decoder, dtype: DType) {
    let plan = Plan::new(decoder.clone(), Mesh::SOLO, dtype, T, 0);
    let shapes = [(Phase::Prefill, 256), (Phase::Decode, 1), (Phase::Eval, T)];
    run(notes, plan, &shapes.map(|(phase, t)| StepShape { phase, t, micros: 1 }), StepConfig::default());
}

fn run(notes: &Notes, plan: Plan, shapes: &[StepShape], step: StepConfig) {
    let plan = Arc::new(plan);
    for rank in 0..plan.mesh.world() {
        let programs = RankPrograms::new(&plan, RankId(rank), shapes, PipelineSchedule::OneFOneB);
        exec::rehearse(&plan, &programs, &step, notes.device(programs.sizes()));
    }
}
