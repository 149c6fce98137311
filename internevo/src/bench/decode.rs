//! `internevo bench decode`: generation of one token after the other, beside the memory it has to read.
use super::median;
use crate::device::DeviceArg;
use crate::generate::Generator;
use crate::job;
use crate::solo::Ranks;
use anyhow::{Result, bail};
use checkpoint::HfDir;
use serde_json::json;
use std::path::PathBuf;
use std::time::{Duration, Instant};

/// Time generation, one token at a time.
///
/// Every weight of a matrix product is read for every token, so memory bandwidth is the limit. It is measured in
/// between, by threads that read memory as large as the weights and do nothing else.
#[derive(clap::Args)]
pub struct Args {
    /// A checkpoint: any Hugging Face directory of a supported family
    checkpoint: PathBuf,
    /// Tokens that count
    #[arg(long, default_value_t = 64, value_parser = clap::value_parser!(u32).range(1..))]
    tokens: u32,
    #[command(flatten)]
    on: DeviceArg,
    /// Compute threads; by default one a core
    #[arg(long, value_parser = clap::value_parser!(u16).range(1..=4096))]
    threads: Option<u16>,
    /// One JSON object
    #[arg(long)]
    json: bool,
}

const WARM_UP: usize = 4;

pub fn main(args: &Args) -> Result<()> {
    let dir = HfDir::open(&args.checkpoint)?;
    let threads = args.threads.map_or_else(job::cores, usize::from);
    let tokens = args.tokens as usize + WARM_UP;
    let decoder = dir.decoder();
    if decoder.max_positions < tokens + 1 {
        bail!("--tokens {}: the model has {} positions", args.tokens, decoder.max_positions);
    }
    let bytes = decoder.flops_per_token(0) / 6.0 * size_of::<f32>() as f64;
    let memory = vec![1u64; (bytes / 8.0) as usize];

    let (times, reads) =
        Generator::run(&dir, tokens + 1, Ranks { ranks: 1, threads, on: &args.on.open()? }, |generator| {
            let (mut times, mut reads, mut logits) = (vec![], vec![], generator.feed(&[0])?);
            for i in 0..tokens {
                let id = (0..logits.len()).max_by(|a, b| logits[*a].total_cmp(&logits[*b])).expect("a vocabulary");
                let began = Instant::now();
                logits = generator.feed(&[id as u32])?;
                let took = began.elapsed();
                if i >= WARM_UP {
                    times.push(took);
                    if i % 4 == 0 {
                        reads.push(read(&memory, threads));
                    }
                }
            }
            Ok((times, reads))
        })?;
    let (token, bandwidth) = (median(&times), bytes / median(&reads).as_secs_f64());
    let rate = 1.0 / token.as_secs_f64();
    let fraction = rate * bytes / bandwidth;
    if args.json {
        println!(
            "{}",
            json!({ "tokens_per_s": rate, "token_ms": token.as_secs_f64() * 1e3, "weight_bytes": bytes,
                "read_gb_per_s": bandwidth / 1e9, "of_bandwidth": fraction, "threads": threads })
        );
        return Ok(());
    }
    println!("decode     {rate:>8.1} tokens/s  ({:.2} ms a token, {threads} threads)", token.as_secs_f64() * 1e3);
    println!("weights    {:>8.1} MB read for each token", bytes / 1e6);
    println!("bandwidth  {:>8.1} GB/s, of which decoding uses {:.0} %", bandwidth / 1e9, 100.0 * fraction);
    Ok(())
}

/// How long the threads need to read all of it once.
fn read(memory: &[u64], threads: usize) -> Duration {
    let sum = |part: &[u64]| part.iter().fold(0u64, |a, b| a.wrapping_add(*b));
    let began = Instant::now();
    let total = std::thread::scope(|scope| {
        let parts: Vec<_> =
            memory.chunks(memory.len().div_ceil(threads)).map(|part| scope.spawn(move || sum(part))).collect();
        parts.into_iter().map(|p| p.join().expect("a sum does not panic")).fold(0u64, u64::wrapping_add)
    });
    std::hint::black_box(total);
    began.elapsed()
}
