//! A small model on made-up tokens, trained in any layout.
#![allow(dead_code)] // each test file uses a part
pub mod on;

use backend::{DType, Heads};
use exec::{Hyper, Lanes, OptimizerConfig, Rank, State, StepConfig, StepResult, TypeSums, World};
use model::{AttentionBias, Decoder, Inputs, Mlp, NormKind, Phase, Position, Tensor, Window, WindowLayers};
use plan::{
    Mesh, Micro, ParallelConfig, PipelineConfig, PipelineSchedule, Plan, Recompute, SizeConfig, StepShape,
    TensorConfig, ZeroConfig,
};
use schedule::{Action, RankPrograms, lower};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

pub const T: usize = 24;
pub const VOCAB: usize = 61;
pub const TYPES: usize = 2;

/// A layout, and how it is run.
#[derive(Clone, Copy, Debug)]
pub struct Layout {
    pub data: usize,
    pub tensor: Tensor,
    /// Ranks of a weight group, in isp.
    pub weight: usize,
    pub pipeline: usize,
    pub chunks: usize,
    pub layers: usize,
    /// Ranks of a sharding group, and the stage: 1 where it is not said.
    pub zero: usize,
    pub stage: usize,
    pub policy: PipelineSchedule,
    /// `train.reproducible`
    pub leaves: usize,
    /// Micro-batches of the global step.
    pub micros: usize,
    pub tied: bool,
    /// With everything that a decoder may have: ALiBi, biases, norms of heads and behind blocks, unit rows, caps.
    pub rich: bool,
    /// Query heads and key/value heads.
    pub heads: (usize, usize),
    pub vocab: usize,
    pub ffn: usize,
    pub recompute: Recompute,
    /// Of parameters and activations.
    pub dtype: DType,
    /// Gradients in the type of parameters.
    pub narrow_grads: bool,
    pub lanes: Lanes,
    pub threads: usize,
    /// On the engine of processes, over shared memory, instead of that of threads.
    pub shared: bool,
}

pub const ONE: Layout = Layout {
    data: 1,
    tensor: Tensor::ALONE,
    weight: 1,
    pipeline: 1,
    chunks: 1,
    layers: 3,
    zero: 1,
    stage: 1,
    policy: PipelineSchedule::OneFOneB,
    leaves: 0,
    micros: 8,
    tied: false,
    rich: false,
    heads: (4, 2),
    vocab: VOCAB,
    ffn: 28,
    recompute: Recompute::NONE,
    dtype: DType::F32,
    narrow_grads: false,
    lanes: Lanes::Direct,
    threads: 1,
    shared: false,
};

impl Layout {
    pub fn plan(&self) -> Plan {
        let heads = Heads { n: self.heads.0, kv: self.heads.1, dim: 6 };
        let model = Decoder {
            tied: self.tied,
            max_positions: T,
            init_std: 0.1,
            ..Decoder::llama(self.vocab, 20, self.layers, heads, self.ffn)
        };
        let model = if self.rich { rich(model) } else { model };
        let mut plan = Plan::new(model, self.mesh(), self.dtype, T, self.leaves);
        plan.recompute = self.recompute;
        if self.narrow_grads {
            plan.grads = self.dtype;
        }
        plan.split_backward = self.policy.splits_backward();
        plan.types = TYPES;
        plan
    }

    /// As a run file would say it.
    pub fn mesh(&self) -> Mesh {
        let config = ParallelConfig {
            tensor: TensorConfig { size: self.tensor.size, mode: self.tensor.mode },
            pipeline: PipelineConfig { size: self.pipeline, schedule: self.policy, chunks: self.chunks, layers: None },
            weight: SizeConfig { size: self.weight },
            expert: SizeConfig { size: 1 },
            zero: ZeroConfig { stage: self.stage, size: self.zero as isize },
        };
        let mesh = config.mesh(self.data * self.tensor.size * self.pipeline).unwrap();
        assert_eq!(mesh.data, self.data);
        mesh
    }

    pub fn shape(&self) -> StepShape {
        StepShape { phase: Phase::Train, t: T, micros: self.micros / self.data }
    }

    pub fn actions(&self) -> Vec<Vec<Action>> {
        let plan = self.plan();
        plan.mesh.ranks().map(|r| lower(&plan, r, self.shape(), self.policy)).collect()
    }

    pub fn programs(&self, actions: &[Vec<Action>]) -> Vec<RankPrograms> {
        let plan = self.plan();
        let of = |(r, a): (plan::RankId, &Vec<Action>)| {
            RankPrograms::from_actions(&plan, r, vec![(self.shape(), a.clone())]).unwrap()
        };
        plan.mesh.ranks().zip(actions).map(of).collect()
    }

    pub fn world(&self) -> World {
        World {
            plan: Arc::new(self.plan()),
            step: StepConfig {
                optimizer: OptimizerConfig { lr: 1e-2, ..Default::default() },
                label_smoothing: 0.1,
                ..Default::default()
            },
            lanes: self.lanes,
            threads: self.threads,
            timeout: Duration::from_secs(60),
            record: false,
            clock: None,
        }
    }
}

fn rich(plain: Decoder) -> Decoder {
    Decoder {
        norm: NormKind::Layer,
        sandwich_norms: true,
        attention_bias: AttentionBias::All,
        qk_norm: true,
        window: Some(Window { size: 6, layers: WindowLayers::ButEvery(2) }),
        position: Position::Alibi,
        score_cap: Some(20.0),
        logit_cap: Some(15.0),
        mlp: Mlp { bias: true, ..plain.mlp },
        scaled_embedding: true,
        embed_grad_scale: 0.5,
        norm_head: !plain.tied,
        ..plain
    }
}

/// Everything a layout must agree on, as bits.
#[derive(PartialEq, Debug, Clone)]
pub struct Outcome {
    pub losses: Vec<f64>,
    pub norms: Vec<f64>,
    /// By type: loss, tokens, hits.
    pub types: Vec<Vec<TypeSums>>,
    /// Parameters and both moments by name.
    pub state: BTreeMap<String, Vec<u32>>,
}

/// Micro-batch `number` of the run: two or three packed segments, some labels masked.
pub fn slab(number: u64) -> Vec<u32> {
    let mut x = number.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1;
    let mut draw = |n: u32| {
        x = x.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        ((x >> 33) as u32) % n
    };
    let cut = 5 + draw(8);
    let cu = [0, cut, cut + 4, T as u32];
    let mut ids = vec![draw(VOCAB as u32)];
    (0..T).for_each(|i| ids.push((ids[i] * 7 + 3 + draw(3)) % VOCAB as u32));
    let positions: Vec<u32> = cu.windows(2).flat_map(|w| 0..w[1] - w[0]).collect();
    let labels: Vec<u32> = (1..=T).map(|i| if cu.contains(&(i as u32)) { u32::MAX } else { ids[i] }).collect();
    let types: Vec<u32> = (0..T as u32).map(|i| u32::from(i >= cut)).collect();
    Inputs::packed(&ids[..T], &positions, &labels, &cu, &types)
}

pub fn init(rank: &mut Rank) {
    for (part, whole) in rank.parts() {
        // Rows that fill up the vocabulary are zeros.
        let mut w = vec![0.0; part.len()];
        for (here, there, len) in rank.plan.stretches(rank.id, &part, &whole, 0..part.len()) {
            model::initial(&whole, 7, there, &mut w[here..here + len]);
        }
        rank.set(State::Param, &part, 0, &w);
    }
}

/// One step of the only program, on made-up data.
pub fn step(rank: &mut Rank, shape: StepShape, index: u64) {
    let (plan, id) = (rank.plan.clone(), rank.id);
    let first = index * plan.global_micros(shape) as u64;
    exec::run(rank, 0, Hyper { lr: 1e-2, step: index + 1 }, &mut |m: Micro| {
        slab(first + plan.global_micro(id, m, shape) as u64)
    })
    .unwrap();
}

pub fn train(layout: &Layout, steps: u64) -> Outcome {
    train_actions(layout, &layout.actions(), steps)
}

pub fn train_actions(layout: &Layout, actions: &[Vec<Action>], steps: u64) -> Outcome {
    train_world(layout, layout.world(), actions, steps)
}

pub fn train_world(layout: &Layout, world: World, actions: &[Vec<Action>], steps: u64) -> Outcome {
    let shape = layout.shape();
    let body = |rank: &mut Rank| {
        init(rank);
        let mut results = vec![];
        for index in 0..steps {
            step(rank, shape, index);
            results.push(rank.step_result(0));
        }
        rank.finish().unwrap();
        let state = state(rank);
        (results, state)
    };
    let programs = layout.programs(actions);
    let ranks = match layout.shared {
        false => on::launch(&world, programs, body),
        true => world.launch_on(processes(programs.len(), world.timeout), programs, body),
    };
    outcome(ranks)
}

/// Name, first element, elements of the whole, bits.
pub type Held = (String, usize, usize, Vec<u32>);

/// What a rank holds of parameters and moments.
pub fn state(rank: &mut Rank) -> Vec<Held> {
    let mut state = vec![];
    for (part, whole) in rank.parts() {
        let (stepped, kept) = (rank.stepped(&part), rank.kept(&part));
        for (name, of, range) in [
            ("param", State::Param, if rank.plan.has_master() { stepped.clone() } else { kept }),
            ("exp_avg", State::ExpAvg, stepped.clone()),
            ("exp_avg_sq", State::ExpAvgSq, stepped),
        ] {
            for (here, there, len) in rank.plan.stretches(rank.id, &part, &whole, range) {
                let values = rank.get(of, &part, here..here + len);
                let bits: Vec<u32> = values.into_iter().map(f32::to_bits).collect();
                state.push((format!("{name} {}", whole.name), there, whole.len(), bits));
            }
        }
    }
    state
}

/// What all ranks have, once they agree about it.
pub fn outcome(ranks: Vec<(Vec<StepResult>, Vec<Held>)>) -> Outcome {
    let mut held: BTreeMap<(String, usize, usize), Vec<u32>> = BTreeMap::new();
    let mut out = Outcome { losses: vec![], norms: vec![], types: vec![], state: BTreeMap::new() };
    for (results, state) in ranks {
        let losses: Vec<f64> = results.iter().map(|r| r.losses.all.mean()).collect();
        let norms: Vec<f64> = results.iter().map(|r| r.grad_norm).collect();
        assert!(results.iter().all(|r| r.taken));
        assert!(out.losses.is_empty() || (&out.losses, &out.norms) == (&losses, &norms), "every rank sees the same");
        (out.losses, out.norms) = (losses, norms);
        out.types = results.into_iter().map(|r| r.losses.types).collect();
        for (name, at, len, bits) in state {
            // What several ranks hold is the same on all of them.
            let held = held.entry((name.clone(), at, bits.len())).or_insert_with(|| bits.clone());
            assert!(*held == bits, "{name} from {at} on: ranks disagree");
            let whole = out.state.entry(name).or_insert_with(|| vec![0; len]);
            whole[at..at + bits.len()].copy_from_slice(&bits);
        }
    }
    out
}

/// The engine of processes, with all ranks in this one.
fn processes(n: usize, timeout: Duration) -> Vec<comm::Processes> {
    let memory = tempfile::tempfile().unwrap();
    memory.set_len(comm::shared_bytes(n) as u64).unwrap();
    (0..n).map(|rank| comm::shared(&memory, rank, n, timeout).unwrap()).collect()
}
