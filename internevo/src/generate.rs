//! `internevo generate`: text from a checkpoint, through the planned prefill and decode programs.
use crate::device::{DeviceArg, On};
use crate::job;
use crate::sampling::Sampling;
use crate::solo::{self, Ranks};
use anyhow::{Context, Result, bail};
use checkpoint::HfDir;
use data::Tokenizer;
use exec::{Hyper, Rank};
use model::{Inputs, Phase};
use plan::StepShape;
use serde_json::json;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// Write on from a prompt.
///
/// Without --temperature the most likely token is taken each time. The text ends at the end-of-text token, at
/// --max-new-tokens, or where the model's context is full.
#[derive(clap::Args)]
pub struct Args {
    /// A checkpoint: any Hugging Face directory of a supported family
    checkpoint: PathBuf,
    #[arg(long, required_unless_present = "prompt_tokens")]
    prompt: Option<String>,
    /// Token ids instead of text, as in 1,2,3
    #[arg(long, value_delimiter = ',', conflicts_with = "prompt")]
    prompt_tokens: Option<Vec<u32>>,
    #[arg(long, default_value_t = 128)]
    max_new_tokens: usize,
    /// 0 takes the most likely token; 1 samples as the model says
    #[arg(long, default_value_t = 0.0, allow_negative_numbers = true)]
    temperature: f64,
    /// Sample from the k most likely tokens only; 0: all
    #[arg(long, default_value_t = 0)]
    top_k: usize,
    /// Sample from the most likely tokens that together have this probability
    #[arg(long, default_value_t = 1.0)]
    top_p: f64,
    #[arg(long, default_value_t = 0)]
    seed: u64,
    /// Do not stop at the end-of-text token
    #[arg(long)]
    ignore_eos: bool,
    /// Ranks that share the model by tensor parallelism, as threads
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..=4096))]
    ranks: u16,
    #[command(flatten)]
    on: DeviceArg,
    /// Compute threads of all ranks; by default one a core
    #[arg(long, value_parser = clap::value_parser!(u16).range(1..=4096))]
    threads: Option<u16>,
    /// One JSON object instead of text
    #[arg(long)]
    json: bool,
    /// In the JSON object, the logits after the prompt too
    #[arg(long, requires = "json")]
    logits: bool,
}

/// Tokens of a prompt that go through the model at once.
const CHUNK: usize = 256;
const PREFILL: usize = 0;
const DECODE: usize = 1;

pub fn main(args: &Args) -> Result<()> {
    let sampling = args.sampling()?;
    let dir = HfDir::open(&args.checkpoint)?;
    let vocab = dir.decoder().vocab;
    let has_tokenizer = ["tokenizer.json", "tokenizer.model"].iter().any(|name| args.checkpoint.join(name).exists());
    let tokenizer = match Tokenizer::load(&args.checkpoint) {
        Ok(tokenizer) => Some(tokenizer),
        Err(_) if args.prompt_tokens.is_some() && !has_tokenizer => None,
        Err(e) => return Err(e).context("a prompt of text needs a tokenizer; or give --prompt-tokens"),
    };
    let prompt = match (&args.prompt, &args.prompt_tokens, &tokenizer) {
        (Some(text), _, Some(tokenizer)) => tokenizer.encode(text)?,
        (_, Some(ids), _) => ids.clone(),
        _ => unreachable!("clap asks for one of the two, and a text has a tokenizer"),
    };
    if prompt.is_empty() {
        bail!("the prompt is empty; give at least one token");
    }
    if let Some(id) = prompt.iter().find(|id| **id as usize >= vocab) {
        bail!("token {id} of the prompt is outside the vocabulary of {vocab}");
    }

    let eos = tokenizer.as_ref().filter(|_| !args.ignore_eos).map(|t| t.eos_id());
    let (on, threads) = (args.on.open()?, args.threads.map_or_else(job::cores, usize::from));
    let ranks = Ranks { ranks: args.ranks.into(), threads, on: &on };
    let wanted = prompt.len().saturating_add(args.max_new_tokens);
    // Every rank has all logits and picks the same tokens; one of them tells.
    let out = Generator::run(&dir, wanted, ranks, |generator| {
        let told = generator.is_first() && !args.json;
        let mut stream = tokenizer.as_ref().filter(|_| told).map(|t| t.stream());
        if let (Some(text), true) = (&args.prompt, told) {
            print(text)?;
        }
        let out = generator.generate(&prompt, args.max_new_tokens, &sampling, eos, &mut |id| match &mut stream {
            Some(stream) => print(&stream.push(id)?),
            None if told => print(&format!("{id} ")),
            None => Ok(()),
        })?;
        if let Some(stream) = stream {
            print(&stream.finish()?)?;
        }
        Ok(out)
    })?;
    if args.json {
        let text = tokenizer.as_ref().map(|t| t.decode(&out.ids)).transpose()?;
        let mut row = json!({ "prompt_tokens": prompt, "tokens": out.ids, "text": text, "stopped_by": out.stopped_by,
            "prefill_seconds": out.prefill.as_secs_f64(), "decode_seconds": out.decode.as_secs_f64() });
        if args.logits {
            row["logits"] = json!(out.prompt_logits);
        }
        println!("{row}");
    } else {
        println!();
        let rate = out.ids.len().saturating_sub(1) as f64 / out.decode.as_secs_f64().max(1e-9);
        eprintln!("{} tokens, {rate:.1} tokens/s, stopped by {}", out.ids.len(), out.stopped_by);
    }
    Ok(())
}

fn print(text: &str) -> Result<()> {
    let mut out = std::io::stdout().lock();
    write!(out, "{text}").and_then(|()| out.flush()).context("cannot write to standard output")
}

impl Args {
    fn sampling(&self) -> Result<Sampling> {
        if self.temperature.is_nan() || self.temperature < 0.0 {
            bail!("--temperature {}: must not be negative; 0 takes the most likely token", self.temperature);
        }
        if !(self.top_p > 0.0 && self.top_p <= 1.0) {
            bail!("--top-p {}: must be above 0 and at most 1", self.top_p);
        }
        Ok(Sampling { temperature: self.temperature, top_k: self.top_k, top_p: self.top_p, seed: self.seed })
    }
}

/// A model with its cache: tokens go in, logits come out.
pub struct Generator<'a> {
    rank: &'a mut Rank,
    shapes: [StepShape; 2],
    context: usize,
    /// Tokens in the cache.
    at: usize,
}

pub struct Generated {
    pub ids: Vec<u32>,
    pub stopped_by: &'static str,
    pub prefill: Duration,
    pub decode: Duration,
    /// (V), after the prompt.
    pub prompt_logits: Vec<f32>,
}

impl Generator<'_> {
    /// `wanted`: tokens of the prompt and of the answer. The context is that or the model's, whichever is less.
    pub fn run<T: Send>(
        dir: &HfDir,
        wanted: usize,
        ranks: Ranks,
        body: impl Fn(&mut Generator) -> Result<T> + Sync,
    ) -> Result<T> {
        let context = wanted.min(dir.decoder().max_positions);
        let prefill = StepShape { phase: Phase::Prefill, t: CHUNK.min(context), micros: 1 };
        let shapes = [prefill, StepShape { phase: Phase::Decode, t: 1, micros: 1 }];
        solo::run(dir, context, &shapes, ranks, |rank| body(&mut Generator { rank, shapes, context, at: 0 }))
    }

    /// Of the ranks that generate the same.
    pub fn is_first(&self) -> bool {
        self.rank.id.0 == 0
    }

    /// Logits (V) after the last of `ids`.
    pub fn feed(&mut self, ids: &[u32]) -> Result<Vec<f32>> {
        let mut logits = vec![];
        let mut rest = ids;
        while !rest.is_empty() {
            let program = if rest.len() == 1 { DECODE } else { PREFILL };
            let t = self.shapes[program].t;
            let (now, later) = rest.split_at(t.min(rest.len()));
            if self.at + now.len() > self.context {
                bail!("{} tokens do not fit the context of {}", self.at + rest.len(), self.context);
            }
            let slab = Inputs::cached(now, self.at, t);
            exec::run(self.rank, program, Hyper { lr: 0.0, step: 1 }, &mut |_| slab.clone())?;
            self.at += now.len();
            logits = self.rank.logits(program);
            rest = later;
        }
        Ok(logits)
    }

    pub fn generate(
        &mut self,
        prompt: &[u32],
        max_new: usize,
        sampling: &Sampling,
        eos: Option<u32>,
        each: &mut dyn FnMut(u32) -> Result<()>,
    ) -> Result<Generated> {
        let began = Instant::now();
        let mut logits = self.feed(prompt)?;
        let prefill = began.elapsed();
        let prompt_logits = logits.clone();
        let (mut ids, mut stopped_by) = (vec![], "max_new_tokens");
        let began = Instant::now();
        for index in 0..max_new {
            let id = sampling.pick(&logits, index as u64);
            if Some(id) == eos {
                stopped_by = "end of text";
                break;
            }
            ids.push(id);
            each(id)?;
            if self.at == self.context {
                stopped_by = "full context";
                break;
            }
            if index + 1 < max_new {
                logits = self.feed(&[id])?;
            }
        }
        Ok(Generated { ids, stopped_by, prefill, decode: began.elapsed(), prompt_logits })
    }
}

/// A few lines at the end of a training.
pub fn show_sample(dir: &Path, prompt: &str, threads: usize, on: &On) -> Result<()> {
    const NEW: usize = 96;
    let tokenizer = Tokenizer::load(dir)?;
    let ids = tokenizer.encode(prompt)?;
    if ids.is_empty() {
        return Ok(());
    }
    let sampling = Sampling { temperature: 0.7, top_k: 0, top_p: 0.9, seed: 0 };
    let ranks = Ranks { ranks: 1, threads, on };
    let out = Generator::run(&HfDir::open(dir)?, ids.len() + NEW, ranks, |generator| {
        generator.generate(&ids, NEW, &sampling, Some(tokenizer.eos_id()), &mut |_| Ok(()))
    })?;
    println!("\n--- a sample: prompt, then what the model writes ---\n{prompt}│{}\n---", tokenizer.decode(&out.ids)?);
    println!("more: internevo generate {} --prompt '...'", dir.display());
    Ok(())
}
