//! A small model on made-up tokens, trained in any layout.
#![allow(dead_code)] // each test file uses a part
use backend::{DType, Heads};
use exec::{Hyper, Lanes, OptimizerConfig, Rank, State, StepConfig, TypeSums, World};
use model::{Decoder, Inputs, Phase};
use plan::{Mesh, Micro, PipelineSchedule, Plan, Recompute, StepShape};
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
    pub pipeline: usize,
    pub chunks: usize,
    pub layers: usize,
    /// Ranks of a sharding group.
    pub zero: usize,
    pub policy: PipelineSchedule,
    /// `train.reproducible`
    pub leaves: usize,
    /// Micro-batches of the global step.
    pub micros: usize,
    pub tied: bool,
    pub recompute: Recompute,
    /// Of parameters and activations.
    pub dtype: DType,
    pub lanes: Lanes,
    pub threads: usize,
    /// On the engine of processes, over shared memory, instead of that of threads.
    pub shared: bool,
}

pub const ONE: Layout = Layout {
    data: 1,
    pipeline: 1,
    chunks: 1,
    layers: 3,
    zero: 1,
    policy: PipelineSchedule::OneFOneB,
    leaves: 0,
    micros: 8,
    tied: false,
    recompute: Recompute::NONE,
    dtype: DType::F32,
    lanes: Lanes::Direct,
    threads: 1,
    shared: false,
};

impl Layout {
    pub fn plan(&self) -> Plan {
        let heads = Heads { n: 4, kv: 2, dim: 6 };
        let model = Decoder {
            tied: self.tied,
            max_positions: T,
            init_std: 0.1,
            ..Decoder::llama(VOCAB, 20, self.layers, heads, 28)
        };
        let mesh = Mesh { data: self.data, pipeline: self.pipeline, chunks: self.chunks, zero: self.zero };
        let mut plan = Plan::new(model, mesh, self.dtype, T, self.leaves);
        plan.recompute = self.recompute;
        plan.types = TYPES;
        plan
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
    for spec in rank.params() {
        let mut w = vec![0.0; spec.len()];
        model::initial(&spec, 7, 0, &mut w);
        rank.set(State::Param, &spec, 0, &w);
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
        let mut state = vec![];
        for spec in rank.params() {
            for (name, part, range) in [
                ("param", State::Param, if rank.plan.has_master() { rank.stepped(&spec) } else { 0..spec.len() }),
                ("exp_avg", State::ExpAvg, rank.stepped(&spec)),
                ("exp_avg_sq", State::ExpAvgSq, rank.stepped(&spec)),
            ] {
                let at = range.start;
                let bits: Vec<u32> = rank.get(part, &spec, range).into_iter().map(f32::to_bits).collect();
                state.push((format!("{name} {}", spec.name), at, spec.len(), bits));
            }
        }
        (results, state)
    };
    let programs = layout.programs(actions);
    let ranks = match layout.shared {
        false => world.launch(programs, body),
        true => world.launch_on(processes(programs.len(), world.timeout), programs, body),
    };
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
