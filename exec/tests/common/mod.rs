//! A small model on made-up tokens, trained in any layout.
#![allow(dead_code)] // each test file uses a part
use backend::{DType, Heads};
use exec::{Hyper, Lanes, OptimizerConfig, Rank, State, World};
use model::{Decoder, Family, Inputs, Phase, Rope};
use plan::{Mesh, Micro, PipelineSchedule, Plan, StepShape};
use schedule::{Action, RankPrograms, lower};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

pub const T: usize = 24;
pub const VOCAB: usize = 61;

/// A layout, and how it is run.
#[derive(Clone, Copy, Debug)]
pub struct Layout {
    pub data: usize,
    pub pipeline: usize,
    pub shard_optimizer: bool,
    pub policy: PipelineSchedule,
    /// `train.reproducible`
    pub leaves: usize,
    /// Micro-batches of the global step.
    pub micros: usize,
    pub tied: bool,
    pub lanes: Lanes,
    pub threads: usize,
}

pub const ONE: Layout = Layout {
    data: 1,
    pipeline: 1,
    shard_optimizer: false,
    policy: PipelineSchedule::OneFOneB,
    leaves: 0,
    micros: 8,
    tied: false,
    lanes: Lanes::Direct,
    threads: 1,
};

impl Layout {
    pub fn plan(&self) -> Plan {
        let model = Decoder {
            family: Family::Llama,
            vocab: VOCAB,
            hidden: 20,
            layers: 3,
            heads: Heads { n: 4, kv: 2, dim: 6 },
            ffn: 28,
            norm_eps: 1e-5,
            rope: Rope { theta: 1e4, scaling: None },
            tied: self.tied,
            max_positions: T,
            init_std: 0.1,
        };
        let mesh = Mesh { data: self.data, pipeline: self.pipeline, shard_optimizer: self.shard_optimizer };
        Plan::new(model, mesh, DType::F32, T, self.leaves)
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
            optimizer: OptimizerConfig { lr: 1e-2, ..Default::default() },
            max_norm: 1.0,
            lanes: self.lanes,
            threads: self.threads,
            timeout: Duration::from_secs(60),
            record: false,
        }
    }
}

/// Everything a layout must agree on, as bits.
#[derive(PartialEq, Debug, Clone)]
pub struct Outcome {
    pub losses: Vec<f64>,
    pub norms: Vec<f64>,
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
    Inputs::packed(&ids[..T], &positions, &labels, &cu)
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
    let shape = layout.shape();
    let ranks = layout.world().launch(layout.programs(actions), |rank| {
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
                ("param", State::Param, 0..spec.len()),
                ("exp_avg", State::ExpAvg, rank.stepped(&spec)),
                ("exp_avg_sq", State::ExpAvgSq, rank.stepped(&spec)),
            ] {
                let at = range.start;
                let bits: Vec<u32> = rank.get(part, &spec, range).into_iter().map(f32::to_bits).collect();
                state.push((format!("{name} {}", spec.name), at, spec.len(), bits));
            }
        }
        (results, state)
    });
    let mut out = Outcome { losses: vec![], norms: vec![], state: BTreeMap::new() };
    for (results, state) in ranks {
        let losses: Vec<f64> = results.iter().map(|r| r.loss.mean()).collect();
        let norms: Vec<f64> = results.iter().map(|r| r.grad_norm).collect();
        assert!(results.iter().all(|r| r.taken));
        assert!(out.losses.is_empty() || (&out.losses, &out.norms) == (&losses, &norms), "every rank sees the same");
        (out.losses, out.norms) = (losses, norms);
        for (name, at, len, bits) in state {
            let whole = out.state.entry(name).or_insert_with(|| vec![0; len]);
            whole[at..at + bits.len()].copy_from_slice(&bits);
        }
    }
    out
}
