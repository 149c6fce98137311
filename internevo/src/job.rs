//! From a config and a decoder to a plan and its programs: everything that is known before anything runs.
use crate::config::{RunConfig, listed};
use crate::course::Course;
use crate::device::On;
use crate::state::shard::copied_bytes;
use anyhow::{Context, Result, anyhow, bail};
use backend::{REGIONS, Region};
use exec::{Lanes, StepConfig, World};
use model::{Decoder, Phase, Tensor};
use plan::{Mesh, PipelineSchedule, Plan, RankId, StepShape};
use schedule::{Action, RankPrograms, text, validate};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

/// After which a rank that does not come is an error.
pub const TIMEOUT: Duration = Duration::from_secs(600);

/// What a GEMM may pack and threads may stack, beside the plan; for a rank.
pub const WORKSPACE: usize = 64 << 20;

#[derive(Clone)]
pub struct Job {
    pub plan: Arc<Plan>,
    pub policy: PipelineSchedule,
    /// One for each number of micro-batches that a step takes, in growing order: programs 0, 1, ...
    pub train: Vec<StepShape>,
    /// The program after those.
    pub eval: StepShape,
    pub course: Course,
}

impl Job {
    /// All reasons at once why the config cannot be laid out on so many ranks. Losses are summed by `types` of tokens.
    pub fn new(config: &RunConfig, decoder: Decoder, types: usize, ranks: usize) -> Result<Job> {
        let mut problems = decoder.problems();
        let mesh = config.parallel.mesh(ranks).map_err(|p| problems.extend(p)).unwrap_or(Mesh::SOLO);
        let micros = config.micro_batches(mesh.data).map_err(|p| problems.push(p)).unwrap_or(1);
        let seq_len = config.data.seq_len;
        // What follows from sizes is looked at when the sizes are sound.
        if !problems.is_empty() {
            bail!("{}", listed(&problems));
        }
        let mut problems = decoder.cannot_be_cut(mesh.tensor);
        // What else there is to say does not depend on how a group cuts the model.
        let mesh = if problems.is_empty() { mesh } else { Mesh { tensor: Tensor::ALONE, ..mesh } };
        let dtype = config.precision.params.dtype();
        let mut plan = Plan::new(decoder, mesh, dtype, seq_len, config.train.reproducible);
        plan.grads = config.precision.grads();
        plan.recompute = config.memory.recompute;
        plan.split = config.parallel.pipeline.layers.clone();
        plan.split_backward = config.parallel.pipeline.schedule.splits_backward();
        plan.types = types;
        let course = config.course(micros);
        let sizes = course.sizes(config.train.steps);
        let t = seq_len * config.data.micro_batch_size;
        let train: Vec<StepShape> =
            sizes.into_iter().map(|micros| StepShape { phase: Phase::Train, t, micros }).collect();
        problems.extend(train.iter().flat_map(|shape| plan.problems(*shape)));
        problems.dedup();
        if !problems.is_empty() {
            bail!("{}", listed(&problems));
        }
        let eval = StepShape { phase: Phase::Eval, t, micros: 1 };
        Ok(Job { plan: Arc::new(plan), policy: config.parallel.pipeline.schedule, train, eval, course })
    }

    /// Number of the evaluation program.
    pub fn eval_program(&self) -> usize {
        self.train.len()
    }

    /// Number of the program that does step `index`.
    pub fn step_program(&self, index: u64) -> usize {
        let micros = self.course.micros(index);
        self.train.iter().position(|s| s.micros == micros).expect("the course has told its sizes")
    }

    /// Of a full step; of the largest one where the ramp-up does not end.
    pub fn full(&self) -> StepShape {
        *self.train.last().expect("a run has a step")
    }

    /// Micro-batches of all ranks before step `index`.
    pub fn first_micro(&self, index: u64) -> u64 {
        self.course.micros_before(index) * self.plan.mesh.data as u64
    }

    /// Not proved: as those of the first rank at its place of the pipeline, which [`Job::stage_programs`] proves.
    pub fn rank_programs(&self, rank: RankId) -> RankPrograms {
        let shapes: Vec<StepShape> = self.train.iter().copied().chain([self.eval]).collect();
        RankPrograms::new(&self.plan, rank, &shapes, self.policy)
    }

    /// The programs of every rank, proved.
    pub fn programs(&self) -> Result<Vec<RankPrograms>> {
        self.proved(self.plan.mesh.ranks().map(|r| self.rank_programs(r)).collect())
    }

    /// Those of the first rank at each place of the pipeline, proved; the others there have the same.
    pub fn stage_programs(&self) -> Result<Vec<RankPrograms>> {
        let mesh = self.plan.mesh;
        self.proved((0..mesh.pipeline).map(|place| self.rank_programs(mesh.first(place))).collect())
    }

    /// As `programs`, with the training step of an edited file.
    pub fn programs_from(&self, file: &Path) -> Result<Vec<RankPrograms>> {
        let [train] = self.train[..] else {
            bail!(
                "--program gives the actions of one kind of step, but train.ramp_up makes {} of them",
                self.train.len()
            );
        };
        let text = std::fs::read_to_string(file).with_context(|| format!("cannot read {}", file.display()))?;
        let refused = |e: String| anyhow!("{}: {e}", file.display());
        let edited: Vec<Vec<Action>> = text::parse(&text, &self.plan).map_err(refused)?;
        let with_eval = |(rank, actions): (RankId, Vec<Action>)| {
            let eval = schedule::lower(&self.plan, rank, self.eval, self.policy);
            RankPrograms::from_actions(&self.plan, rank, vec![(train, actions), (self.eval, eval)])
        };
        let programs = self.plan.mesh.ranks().zip(edited).map(with_eval).collect::<Result<_, _>>().map_err(refused)?;
        self.proved(programs).with_context(|| file.display().to_string())
    }

    fn proved(&self, ranks: Vec<RankPrograms>) -> Result<Vec<RankPrograms>> {
        for number in 0..=self.eval_program() {
            let programs: Vec<_> = ranks.iter().map(|r| r.programs[number].clone()).collect();
            validate::check_world(&self.plan, &programs).map_err(|e| anyhow!(e))?;
        }
        Ok(ranks)
    }

    /// Bytes that a rank copies for a checkpoint that is written while training goes on.
    pub fn copy_bytes(&self, config: &RunConfig) -> usize {
        let copies = config.checkpoint.enabled && config.checkpoint.background;
        if copies { copied_bytes(&self.plan) } else { 0 }
    }

    pub fn step_config(&self, config: &RunConfig) -> StepConfig {
        let (initial_scale, loss_scale) = config.precision.scaling();
        StepConfig {
            optimizer: config.optimizer.clone(),
            max_norm: config.train.clip_grad_norm,
            label_smoothing: config.loss.label_smoothing,
            initial_scale,
            loss_scale,
        }
    }

    /// With `here` ranks on this machine; their clocks begin `after` that of rank 0.
    pub fn world(&self, config: &RunConfig, here: usize, after: Duration) -> World {
        let began = std::time::Instant::now();
        World {
            plan: self.plan.clone(),
            step: self.step_config(config),
            lanes: Lanes::Direct,
            threads: threads(config, here),
            timeout: TIMEOUT,
            record: false,
            clock: Some(Arc::new(move || after + began.elapsed())),
        }
    }

    /// Label tokens of a full global step, if none is masked.
    pub fn tokens_per_step(&self) -> usize {
        self.plan.global_micros(self.full()) * self.full().t
    }
}

/// Of a rank, where there are so many on this machine.
pub fn threads(config: &RunConfig, here: usize) -> usize {
    (config.threads.unwrap_or_else(cores) / here).max(1)
}

pub fn cores() -> usize {
    std::thread::available_parallelism().map_or(1, |n| n.get())
}

/// Bytes of a rank's memory that are not in its plan.
#[derive(Clone, Copy, Debug, Default)]
pub struct Beside {
    pub workspace: usize,
    /// Of the state, while a checkpoint of it is written.
    pub copy: usize,
}

/// Bytes by kind of one rank.
pub fn memory_by_kind(programs: &RankPrograms, beside: Beside) -> Vec<(&'static str, usize)> {
    let sizes = programs.sizes();
    let kinds = REGIONS.map(|region| {
        let name = match region {
            Region::Param => "parameters",
            Region::Optim => "optimizer",
            Region::Grad => "gradients",
            Region::Act => "activations",
            Region::Cache => "kv_cache",
            Region::Misc => "scalars",
        };
        (name, sizes[region as usize])
    });
    let beside = [("checkpoint", beside.copy), ("workspace", beside.workspace)];
    kinds.into_iter().chain(beside).filter(|(_, bytes)| *bytes > 0).collect()
}

pub fn total(kinds: &[(&'static str, usize)]) -> usize {
    kinds.iter().map(|(_, bytes)| bytes).sum()
}

/// Refuses, with the numbers, what would not fit into `memory.limit` or, without one, into this machine or card `here` times.
/// `way_out` is told what there is and what a rank needs beside the plan. Gives the bytes of the largest rank.
pub fn check_memory(
    on: &On,
    limit: Option<usize>,
    (plan, step): (&Arc<Plan>, &StepConfig),
    (ranks, copy): (&[RankPrograms], usize),
    here: usize,
    way_out: impl FnOnce(usize, usize) -> String,
) -> Result<usize> {
    let beside = |programs: &RankPrograms| match on {
        On::Cpu => Beside { workspace: WORKSPACE, copy },
        // The copy is the host's.
        On::Card(site) => Beside { workspace: exec::survey(plan, programs, step, site.facts).scratch, copy: 0 },
    };
    let kinds = ranks.iter().map(|of| memory_by_kind(of, beside(of)));
    let largest = kinds.max_by_key(|kinds| total(kinds)).expect("a world has a rank");
    let need = total(&largest);
    let available = match on {
        On::Cpu => available_memory().map(|free| (free, "this machine".to_string())),
        // Code, and memory of threads that spill, are the driver's.
        On::Card(site) => Some((site.card.free().saturating_sub(256 << 20), format!("card {}", site.card.ordinal))),
    };
    let (limit, source) = match (limit, available) {
        (Some(limit), _) => (limit, "memory.limit".to_string()),
        (None, Some((free, of))) => (free / here, format!("free memory of {of} over {here} ranks")),
        (None, None) => return Ok(need),
    };
    if need <= limit {
        return Ok(need);
    }
    let (_, workspace) = *largest.last().expect("there is a workspace");
    let table: Vec<String> = largest.iter().map(|(kind, bytes)| format!("  {kind:12} {:>10}", human(*bytes))).collect();
    let (kind, most) = largest.iter().max_by_key(|(_, bytes)| *bytes).expect("there is memory of some kind");
    bail!(
        "a rank needs {} and has {} ({source}): {} too much, and most of it is {kind}, {}\n{}\n{}",
        human(need),
        human(limit),
        human(need - limit),
        human(*most),
        table.join("\n"),
        way_out(limit, workspace)
    )
}

/// Linux says what a new program can have without swapping.
fn available_memory() -> Option<usize> {
    let text = std::fs::read_to_string("/proc/meminfo").ok()?;
    let line = text.lines().find_map(|l| l.strip_prefix("MemAvailable:"))?;
    line.trim().strip_suffix("kB")?.trim().parse::<usize>().ok().map(|kib| kib << 10)
}

/// "1.5 GiB"
pub fn human(bytes: usize) -> String {
    let mut x = bytes as f64;
    for unit in ["B", "KiB", "MiB", "GiB"] {
        if x < 1024.0 {
            return if unit == "B" { format!("{bytes} B") } else { format!("{x:.1} {unit}") };
        }
        x /= 1024.0;
    }
    format!("{x:.1} TiB")
}
