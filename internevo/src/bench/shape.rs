//! What is benchmarked: shapes to compare with others, or that of a run file.
use crate::config::{Precision, PrecisionConfig, listed};
use anyhow::{Result, bail};
use backend::Heads;
use clap::ValueEnum;
use exec::StepConfig;
use model::{Decoder, Inputs, Phase};
use plan::{Mesh, PipelineSchedule, Plan, RankId, Recompute, StepShape};
use schedule::RankPrograms;
use std::sync::Arc;

#[derive(Clone, Copy, ValueEnum)]
pub enum Preset {
    /// 10.5 M parameters: hidden 256, 8 layers, 4 sequences of 512
    #[value(name = "15m")]
    M15,
    /// 124.7 M parameters: hidden 768, 12 layers, 2 sequences of 1024
    #[value(name = "125m")]
    M125,
    /// InternLM2 1.8B: hidden 2048, 24 layers, 1 sequence of 4096
    #[value(name = "1.8b")]
    B1,
    /// LLaMA-2 7B: hidden 4096, 32 layers, 1 sequence of 4096
    #[value(name = "7b")]
    B7,
}

impl Preset {
    pub fn shape(self) -> Shape {
        let heads = |n, kv, dim| Heads { n, kv, dim };
        let (model, seq_len, sequences) = match self {
            Preset::M15 => (Decoder::llama(8192, 256, 8, heads(8, 4, 32), 768), 512, 4),
            Preset::M125 => (Decoder::llama(32000, 768, 12, heads(12, 4, 64), 2048), 1024, 2),
            Preset::B1 => (Decoder::llama(92544, 2048, 24, heads(16, 8, 128), 8192), 4096, 1),
            Preset::B7 => (Decoder::llama(32000, 4096, 32, heads(32, 32, 128), 11008), 4096, 1),
        };
        Shape {
            model,
            seq_len,
            sequences,
            step: StepConfig::default(),
            precision: Precision::F32,
            grads: None,
            recompute: Recompute::NONE,
            micros: 1,
        }
    }
}

/// A step on one rank.
pub struct Shape {
    pub model: Decoder,
    pub seq_len: usize,
    pub sequences: usize,
    pub step: StepConfig,
    pub precision: Precision,
    /// Numbers of the gradients of parameters, if they are not f32.
    pub grads: Option<Precision>,
    pub recompute: Recompute,
    /// Micro-batches of a step.
    pub micros: usize,
}

impl Shape {
    /// Of a micro-batch.
    pub fn tokens(&self) -> usize {
        self.seq_len * self.sequences
    }
    pub fn tokens_per_step(&self) -> usize {
        self.tokens() * self.micros
    }

    /// A training step.
    pub fn programs(&self) -> Result<(Arc<Plan>, RankPrograms)> {
        let numbers = PrecisionConfig { params: self.precision, grads: self.grads, ..PrecisionConfig::default() };
        let problems = [self.model.problems(), numbers.problems()].concat();
        if !problems.is_empty() {
            bail!("{}", listed(&problems));
        }
        let mut plan = Plan::new(self.model.clone(), Mesh::SOLO, self.precision.dtype(), self.seq_len, 0);
        plan.grads = numbers.grads();
        plan.recompute = self.recompute;
        let plan = Arc::new(plan);
        let of_step = StepShape { phase: Phase::Train, t: self.tokens(), micros: self.micros };
        let programs = RankPrograms::new(&plan, RankId(0), &[of_step], PipelineSchedule::OneFOneB);
        Ok((plan, programs))
    }

    /// As many tokens as labels, drawn from the whole vocabulary.
    pub fn random_slab(&self) -> Vec<u32> {
        let (t, seq_len) = (self.tokens(), self.seq_len);
        let token = |i: usize| ((i as u64).wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 32) as u32 % self.model.vocab as u32;
        let tokens: Vec<u32> = (0..=t).map(token).collect();
        let positions: Vec<u32> = (0..t).map(|i| (i % seq_len) as u32).collect();
        let cu_seqlens: Vec<u32> = (0..=self.sequences).map(|i| (i * seq_len) as u32).collect();
        Inputs::packed(&tokens[..t], &positions, &tokens[1..], &cu_seqlens, &vec![0; t])
    }
}
