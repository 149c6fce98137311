//! `[parallel]` of a run. Data parallelism is what the other axes leave over.
use crate::Mesh;
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

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum TensorMode {
    /// Megatron.
    Mtp,
    /// Megatron with sequence parallelism.
    Msp,
    /// Sequence parallelism, gathered again in backward.
    Fsp,
    /// Ulysses and weight shards.
    Isp,
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
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct PipelineConfig {
    pub size: usize,
    pub schedule: PipelineSchedule,
    /// Stages of a rank, in an interleaved schedule.
    pub chunks: usize,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct SizeConfig {
    pub size: usize,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ZeroConfig {
    pub stage: usize,
    /// Ranks of a sharding group, neighbours; divides the data-parallel size. -1: all of data parallel.
    pub size: isize,
}

impl Default for TensorConfig {
    fn default() -> Self {
        TensorConfig { size: 1, mode: TensorMode::Mtp }
    }
}
impl Default for PipelineConfig {
    fn default() -> Self {
        PipelineConfig { size: 1, schedule: PipelineSchedule::OneFOneB, chunks: 1 }
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
        let axes = [
            ("tensor", self.tensor.size),
            ("pipeline", self.pipeline.size),
            ("weight", self.weight.size),
            ("expert", self.expert.size),
        ];
        for (axis, size) in axes {
            if size == 0 {
                problems.push(format!("parallel.{axis}.size = 0: must be at least 1; 1 means off"));
            } else if axis != "pipeline" && size > 1 {
                problems.push(format!("parallel.{axis}.size = {size}: {axis} parallelism is not supported yet; use 1"));
            }
        }
        let pipeline = self.pipeline.size.max(1);
        if !world.is_multiple_of(pipeline) {
            let fits: Vec<String> = (1..=world).filter(|p| world.is_multiple_of(*p)).map(|p| p.to_string()).collect();
            problems.push(format!(
                "parallel.pipeline.size = {pipeline} does not divide the {world} ranks; try one of {}, or --ranks {}",
                fits.join(", "),
                world.next_multiple_of(pipeline)
            ));
        }
        let chunks = self.pipeline.chunks.max(1);
        let interleaved = self.pipeline.schedule == PipelineSchedule::Interleaved;
        if interleaved && (chunks < 2 || pipeline < 2) {
            problems.push(format!(
                "parallel.pipeline.schedule = \"interleaved\" with size = {pipeline}, chunks = {}: both must be at least 2; try chunks = 2, or \"1f1b\"",
                self.pipeline.chunks
            ));
        }
        if !interleaved && self.pipeline.chunks != 1 {
            problems.push(format!(
                "parallel.pipeline.chunks = {}: only an interleaved schedule has chunks; use 1, or schedule = \"interleaved\"",
                self.pipeline.chunks
            ));
        }
        let data = world / pipeline;
        if self.zero.stage > 1 {
            problems.push(format!("parallel.zero.stage = {}: not supported yet; use 0 or 1", self.zero.stage));
        }
        let zero = match (self.zero.stage, self.zero.size) {
            (0, -1 | 1) => 1,
            (0, size) => {
                problems.push(format!(
                    "parallel.zero.size = {size} with parallel.zero.stage = 0, which shards nothing; use stage = 1, or size = -1"
                ));
                1
            }
            (_, -1) => data.max(1),
            (_, size) => match usize::try_from(size).ok().filter(|&size| size > 0 && data.is_multiple_of(size)) {
                Some(size) => size,
                None => {
                    let fits: Vec<String> =
                        (1..=data).filter(|s| data.is_multiple_of(*s)).map(|s| s.to_string()).collect();
                    problems.push(format!(
                        "parallel.zero.size = {size} does not divide the {data} data-parallel ranks; try one of {}, or -1 for all",
                        fits.join(", ")
                    ));
                    1
                }
            },
        };
        let mesh = Mesh { data, pipeline, chunks, zero };
        if problems.is_empty() { Ok(mesh) } else { Err(problems) }
    }
}
