//! `[parallel]` of a run. Data parallelism is what the other axes leave over.
use crate::{Mesh, Placement};
use model::{Tensor, TensorMode};
use serde::{Deserialize, Serialize};

#[derive(Clone, Debug, PartialEq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ParallelConfig {
    pub tensor: TensorConfig,
    pub pipeline: PipelineConfig,
    pub weight: SizeConfig,
    pub expert: SizeConfig,
    pub zero: ZeroConfig,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct TensorConfig {
    pub size: usize,
    pub mode: TensorMode,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum PipelineSchedule {
    #[serde(rename = "gpipe")]
    GPipe,
    #[serde(rename = "1f1b")]
    OneFOneB,
    #[serde(rename = "interleaved")]
    Interleaved,
    #[serde(rename = "zb-h1")]
    ZbH1,
    #[serde(rename = "zbv")]
    Zbv,
}

impl PipelineSchedule {
    /// Makes the backward in two halves.
    pub fn splits_backward(self) -> bool {
        matches!(self, PipelineSchedule::ZbH1 | PipelineSchedule::Zbv)
    }
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct PipelineConfig {
    pub size: usize,
    pub schedule: PipelineSchedule,
    /// Stages of a rank, in an interleaved schedule. A V has two, and says so itself.
    pub chunks: usize,
    /// Layers of each stage, in stage order; left out: split evenly.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub layers: Option<Vec<usize>>,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct SizeConfig {
    pub size: usize,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ZeroConfig {
    /// 1: the optimizer state is cut over a sharding group; 2: gradients too; 3: parameters too. 0: nothing is.
    pub stage: usize,
    /// Ranks of a sharding group, neighbours; divides the data-parallel size, in `isp` the ranks with the same part of the
    /// weights. -1: all of them.
    pub size: isize,
}

impl Default for TensorConfig {
    fn default() -> Self {
        TensorConfig { size: 1, mode: TensorMode::Mtp }
    }
}
impl Default for PipelineConfig {
    fn default() -> Self {
        PipelineConfig { size: 1, schedule: PipelineSchedule::OneFOneB, chunks: 1, layers: None }
    }
}
impl Default for SizeConfig {
    fn default() -> Self {
        SizeConfig { size: 1 }
    }
}
impl Default for ZeroConfig {
    fn default() -> Self {
        ZeroConfig { stage: 1, size: -1 }
    }
}

impl ParallelConfig {
    /// The mesh of `world` ranks, or every reason why there is none.
    pub fn mesh(&self, world: usize) -> Result<Mesh, Vec<String>> {
        let mut problems = vec![];
        let isp = self.tensor.mode == TensorMode::Isp;
        let axes = [
            ("tensor", self.tensor.size),
            ("pipeline", self.pipeline.size),
            ("weight", self.weight.size),
            ("expert", self.expert.size),
        ];
        for (axis, size) in axes {
            if size == 0 {
                problems.push(format!("parallel.{axis}.size = 0: must be at least 1; 1 means off"));
            }
        }
        let [tensor, pipeline, weight, expert] = axes.map(|(_, size)| size.max(1));
        if expert > 1 {
            problems.push(format!("parallel.expert.size = {expert}: expert parallelism is not supported yet; use 1"));
        }
        if !world.is_multiple_of(pipeline) {
            problems.push(format!(
                "parallel.pipeline.size = {pipeline} does not divide the {world} ranks; try one of {}, or --ranks {}",
                divisors(world),
                world.next_multiple_of(pipeline)
            ));
        } else if !(world / pipeline).is_multiple_of(tensor) {
            problems.push(format!(
                "parallel.tensor.size = {tensor} does not divide the {} ranks at a place of the pipeline ({world} ranks over {pipeline}); try one of {}, or --ranks {}",
                world / pipeline,
                divisors(world / pipeline),
                world.next_multiple_of(pipeline * tensor)
            ));
        }
        problems.extend(self.pipeline.problems());
        let (plane, data) = ((world / pipeline).max(1), (world / pipeline / tensor).max(1));
        let weight_fits = plane.is_multiple_of(weight);
        if weight > 1 && !isp {
            problems.push(format!(
                "parallel.weight.size = {weight} with parallel.tensor.mode = \"{}\": only isp cuts weights over a group of their own; use mode = \"isp\", or parallel.zero.stage = 3",
                self.tensor.mode.name()
            ));
        } else if !weight_fits {
            problems.push(format!(
                "parallel.weight.size = {weight} does not divide the {plane} ranks at a place of the pipeline; try one of {}",
                divisors(plane)
            ));
        }
        if isp && self.zero.stage > 1 {
            problems.push(format!(
                "parallel.zero.stage = {} with parallel.tensor.mode = \"isp\", where parallel.weight.size already cuts parameters and gradients; use stage = 1 and a larger weight.size",
                self.zero.stage
            ));
        }
        let (sharers, of) = match isp {
            true if weight_fits => (plane / weight, "ranks with the same part of the weights"),
            true => (1, "ranks with the same part of the weights"),
            false => (data, "data-parallel ranks"),
        };
        let group = self.zero.group(sharers, of).unwrap_or_else(|problem| {
            problems.push(problem);
            1
        });
        let [weight, zero] = match self.zero.stage {
            _ if isp => [weight, group],
            0 | 1 => [1, group],
            _ => [group, 1],
        };
        let mesh = Mesh {
            tensor: Tensor { mode: self.tensor.mode, size: tensor },
            data,
            pipeline,
            chunks: self.pipeline.stages_of_a_rank(),
            placement: match self.pipeline.schedule {
                PipelineSchedule::Zbv => Placement::V,
                _ => Placement::Loop,
            },
            weight,
            whole_params: self.zero.stage == 2,
            zero,
            zero_ends: if self.zero.stage == 0 { 1 } else { data },
        };
        if problems.is_empty() { Ok(mesh) } else { Err(problems) }
    }
}

impl PipelineConfig {
    fn stages_of_a_rank(&self) -> usize {
        if self.schedule == PipelineSchedule::Zbv { 2 } else { self.chunks.max(1) }
    }

    fn problems(&self) -> Vec<String> {
        let (size, chunks) = (self.size.max(1), self.chunks.max(1));
        let interleaved = self.schedule == PipelineSchedule::Interleaved;
        let mut out = vec![];
        if interleaved && (chunks < 2 || size < 2) {
            out.push(format!(
                "parallel.pipeline.schedule = \"interleaved\" with size = {size}, chunks = {}: both must be at least 2; try chunks = 2, or \"1f1b\"",
                self.chunks
            ));
        }
        if self.schedule == PipelineSchedule::Zbv && size < 2 {
            out.push("parallel.pipeline.schedule = \"zbv\" with size = 1: a V needs at least 2 ranks; try size = 2, or \"1f1b\"".into());
        }
        let several = interleaved || self.schedule == PipelineSchedule::ZbH1;
        let fits = several || (self.schedule == PipelineSchedule::Zbv && self.chunks == 2);
        if !fits && self.chunks != 1 {
            out.push(format!(
                "parallel.pipeline.chunks = {}: only an interleaved schedule has chunks; use 1, or schedule = \"interleaved\"",
                self.chunks
            ));
        }
        out
    }
}

impl ZeroConfig {
    /// Ranks of a sharding group, of `sharers`.
    fn group(&self, sharers: usize, of: &str) -> Result<usize, String> {
        match (self.stage, self.size) {
            (4.., _) => Err(format!("parallel.zero.stage = {}: there are stages 0 to 3", self.stage)),
            (0, -1 | 1) => Ok(1),
            (0, size) => Err(format!(
                "parallel.zero.size = {size} with parallel.zero.stage = 0, which shards nothing; use stage = 1, or size = -1"
            )),
            (_, -1) => Ok(sharers),
            (_, size) => {
                let fits = usize::try_from(size).ok().filter(|&size| size > 0 && sharers.is_multiple_of(size));
                fits.ok_or_else(|| {
                    format!(
                        "parallel.zero.size = {size} does not divide the {sharers} {of}; try one of {}, or -1 for all",
                        divisors(sharers)
                    )
                })
            }
        }
    }
}

fn divisors(n: usize) -> String {
    let fits: Vec<String> = (1..=n).filter(|size| n.is_multiple_of(*size)).map(|size| size.to_string()).collect();
    fits.join(", ")
}
