//! `internevo eval`: the loss of a checkpoint on a text or on tokens.
use crate::device::DeviceArg;
use crate::solo::{self, Ranks};
use crate::{job, report};
use anyhow::{Context, Result, anyhow, bail};
use checkpoint::HfDir;
use data::{IGNORE, Tokenizer};
use exec::{Hyper, Loss, Losses};
use model::{Inputs, Phase};
use plan::StepShape;
use serde_json::json;
use std::path::PathBuf;

/// Loss and perplexity of a checkpoint.
///
/// The text is cut into windows of --seq-len tokens; every token but the first of the file is predicted once, from the
/// tokens before it in its window. The loss is in nats per token.
#[derive(clap::Args)]
pub struct Args {
    /// A checkpoint: any Hugging Face directory of a supported family
    checkpoint: PathBuf,
    /// A file of UTF-8 text
    #[arg(long, required_unless_present = "tokens")]
    text: Option<PathBuf>,
    /// A file of token ids: little-endian u16, u32 if its name ends in .u32, or .npy
    #[arg(long, conflicts_with = "text")]
    tokens: Option<PathBuf>,
    /// Tokens of a window; by default the model's context, at most 1024
    #[arg(long)]
    seq_len: Option<usize>,
    /// Ranks that share the model by tensor parallelism, as threads
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..=4096))]
    ranks: u16,
    #[command(flatten)]
    on: DeviceArg,
    /// Compute threads of all ranks; by default one a core
    #[arg(long, value_parser = clap::value_parser!(u16).range(1..=4096))]
    threads: Option<u16>,
    /// One JSON object: loss, perplexity, tokens
    #[arg(long)]
    json: bool,
}

pub fn main(args: &Args) -> Result<()> {
    let dir = HfDir::open(&args.checkpoint)?;
    let model = dir.decoder().clone();
    let ids = match (&args.text, &args.tokens) {
        (Some(path), _) => {
            let bytes = std::fs::read(path).with_context(|| format!("cannot read {}", path.display()))?;
            let text = String::from_utf8(bytes)
                .map_err(|e| anyhow!("{} is not UTF-8 at byte {}", path.display(), e.utf8_error().valid_up_to()))?;
            Tokenizer::load(&args.checkpoint)?.encode(&text)?
        }
        (None, Some(path)) => data::read_ids(path, model.vocab)?,
        (None, None) => unreachable!("clap asks for one of the two"),
    };
    if ids.len() < 2 {
        bail!("{} tokens: at least 2 are needed to predict one", ids.len());
    }
    if let Some(id) = ids.iter().find(|id| **id as usize >= model.vocab) {
        bail!("token {id} is outside the model's vocabulary of {}; does the tokenizer belong to it?", model.vocab);
    }
    let seq_len = args.seq_len.unwrap_or(model.max_positions.min(1024)).min(ids.len() - 1);
    if seq_len == 0 {
        bail!("--seq-len 0: must be at least 1");
    }
    let threads = args.threads.map_or_else(job::cores, usize::from);
    let loss = evaluate(&dir, &ids, seq_len, Ranks { ranks: args.ranks.into(), threads, on: &args.on.open()? })?;
    let (mean, tokens) = (loss.mean(), loss.tokens as u64);
    if args.json {
        println!("{}", json!({ "loss": mean, "perplexity": mean.exp(), "tokens": tokens }));
    } else {
        println!("loss {mean:.4} nats per token  perplexity {:.2}  tokens {tokens}", mean.exp());
    }
    Ok(())
}

fn evaluate(dir: &HfDir, ids: &[u32], seq_len: usize, ranks: Ranks) -> Result<Loss> {
    let waiting = report::waiting(&format!("evaluating {} tokens in windows of {seq_len}", ids.len()));
    let shape = StepShape { phase: Phase::Eval, t: seq_len, micros: 1 };
    let loss = solo::run(dir, seq_len, &[shape], ranks, |rank| {
        let mut all = vec![];
        for start in (0..ids.len() - 1).step_by(seq_len) {
            let window = window(&ids[start..ids.len().min(start + seq_len + 1)], seq_len);
            exec::run(rank, 0, Hyper { lr: 0.0, step: 1 }, &mut |_| window.clone())?;
            all.extend(rank.eval_losses(0)?);
        }
        Ok(Losses::sum(all).all)
    });
    waiting.finish_and_clear();
    loss
}

/// Inputs without the last token, labels without the first; a short window is filled up without labels.
fn window(ids: &[u32], t: usize) -> Vec<u32> {
    let n = ids.len() - 1;
    let fill = |x: &[u32], with: u32| x.iter().copied().chain(std::iter::repeat_n(with, t - n)).collect::<Vec<_>>();
    let positions: Vec<u32> = (0..t as u32).collect();
    Inputs::packed(&fill(&ids[..n], 0), &positions, &fill(&ids[1..], IGNORE), &[0, t as u32], &vec![0; t])
}
