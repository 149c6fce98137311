//! One log file a rank, logs/rank_N.log, with the fields of the original's line, so that what reads those reads these.
use anyhow::{Context, Result};
use exec::{StepResult, TypeSums};
use std::collections::VecDeque;
use std::fmt::Write as _;
use std::fs::{self, File, OpenOptions};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

pub struct RankLog {
    file: File,
    path: PathBuf,
    speed: Speed,
}

/// What a rank took in of one step.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Intake {
    pub micros: usize,
    /// Segments.
    pub samples: usize,
    pub largest_length: usize,
    /// Most and fewest segments of a micro-batch.
    pub largest_batch: usize,
    pub smallest_batch: usize,
}

impl Intake {
    pub fn add(&mut self, cu_seqlens: &[u32]) {
        let segments = cu_seqlens.len() - 1;
        let longest = cu_seqlens.windows(2).map(|ends| ends[1] - ends[0]).max().unwrap_or(0) as usize;
        self.smallest_batch = if self.micros == 0 { segments } else { self.smallest_batch.min(segments) };
        self.largest_batch = self.largest_batch.max(segments);
        self.largest_length = self.largest_length.max(longest);
        self.samples += segments;
        self.micros += 1;
    }
}

/// A step, as its line wants it.
pub struct StepLine<'a> {
    /// Counted from 0, as the original's.
    pub batch: u64,
    pub result: &'a StepResult,
    pub types: &'a [String],
    pub lr: f64,
    pub beta2: f64,
    pub took: Duration,
    pub forward_backward: Duration,
    pub intake: Intake,
    /// Of this step and rank, padding and masked labels included.
    pub rank_tokens: f64,
    pub consumed_tokens: u64,
    pub skipped: u64,
    /// Useful ones, of the global step.
    pub flops: f64,
    pub ranks: usize,
}

impl RankLog {
    /// Appends: a resumed run goes on in the same file.
    pub fn open(dir: &Path, rank: usize) -> Result<RankLog> {
        fs::create_dir_all(dir).with_context(|| format!("cannot create {}", dir.display()))?;
        let path = dir.join(format!("rank_{rank}.log"));
        let file = OpenOptions::new().create(true).append(true).open(&path);
        let file = file.with_context(|| format!("cannot open {}", path.display()))?;
        Ok(RankLog { file, path, speed: Speed::default() })
    }

    pub fn line(&mut self, level: &str, text: &str) -> Result<()> {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).expect("the clock is past 1970");
        writeln!(self.file, "{}\t{level} {text}", date(now))
            .with_context(|| format!("cannot write {}; check the space on its disk", self.path.display()))
    }

    pub fn step(&mut self, step: &StepLine) -> Result<()> {
        let speed = self.speed.add(step.rank_tokens, step.took.as_secs_f64());
        let fields = fields(step, &speed);
        let line = fields.iter().fold(String::new(), |mut line, (key, value)| {
            let _ = write!(line, "{key}={value} ");
            line
        });
        self.line("INFO", line.trim_end())
    }
}

/// In the original's order and spelling (inventory 6.2), with our definition of FLOPs: useful ones only.
fn fields(s: &StepLine, speed: &[(&'static str, f64); 7]) -> Vec<(String, String)> {
    let mut out: Vec<(String, String)> = vec![];
    let mut put = |key: &str, value: String| out.push((key.into(), value));
    let tflops = s.flops / s.took.as_secs_f64() / s.ranks as f64 / 1e12;
    put("tflops", tflops.to_string());
    put("step", s.batch.to_string());
    put("loss", s.result.losses.all.mean().to_string());
    for (key, value) in speed {
        put(key, format!("{value:.2}"));
    }
    put("lr", s.lr.to_string());
    put("loss_scale", s.result.loss_scale.to_string());
    put("grad_norm", format!("{{'0_default': {}}}", s.result.grad_norm));
    put("micro_num", s.intake.micros.to_string());
    put("num_consumed_tokens", s.consumed_tokens.to_string());
    put("inf_nan_skip_batches", s.skipped.to_string());
    put("num_samples_in_batch", s.intake.samples.to_string());
    put("largest_length", s.intake.largest_length.to_string());
    put("largest_batch", s.intake.largest_batch.to_string());
    put("smallest_batch", s.intake.smallest_batch.to_string());
    put("adam_beta2", s.beta2.to_string());
    put("fwd_bwd_time", format!("{:.2}", s.forward_backward.as_secs_f64()));
    let all = total(&s.result.losses.types);
    put("acc", format!("{:.4}", accuracy(&all)));
    put("perplexity", format!("{:.4}", (all.loss / all.tokens).exp()));
    let named = || s.types.iter().zip(&s.result.losses.types);
    for (name, sums) in named() {
        put(&format!("acc/{name}"), format!("{:.4}", accuracy(sums)));
    }
    for (name, sums) in named() {
        put(&format!("tokens/{name}"), sums.tokens.to_string());
    }
    put("loss_from_metric", format!("{:.4}", all.loss / all.tokens));
    for (name, sums) in named() {
        put(&format!("loss/{name}"), format!("{:.4}", sums.loss / sums.tokens));
    }
    out
}

pub fn total(types: &[TypeSums]) -> TypeSums {
    types.iter().fold(TypeSums::default(), |mut all, one| {
        all.add(*one);
        all
    })
}

/// Part of the labels that had the largest logit.
pub fn accuracy(sums: &TypeSums) -> f64 {
    sums.hits / sums.tokens
}

/// Tokens per second and rank, over several stretches of steps.
#[derive(Default)]
struct Speed {
    steps: u64,
    tokens: f64,
    seconds: f64,
    rates: f64,
    last: VecDeque<(f64, f64)>,
    blocks: [(f64, f64, f64); 2],
}

impl Speed {
    const BLOCKS: [u64; 2] = [10, 50];

    fn add(&mut self, tokens: f64, seconds: f64) -> [(&'static str, f64); 7] {
        let rate = tokens / seconds;
        self.steps += 1;
        self.tokens += tokens;
        self.seconds += seconds;
        self.rates += rate;
        self.last.push_back((tokens, seconds));
        if self.last.len() > 50 {
            self.last.pop_front();
        }
        for (block, size) in self.blocks.iter_mut().zip(Self::BLOCKS) {
            block.0 += tokens;
            block.1 += seconds;
            if self.steps.is_multiple_of(size) {
                *block = (0.0, 0.0, block.0 / block.1);
            }
        }
        let (tokens, seconds) = self.last.iter().fold((0.0, 0.0), |a, b| (a.0 + b.0, a.1 + b.1));
        [
            ("tgs (tokens/gpu/second)", rate),
            ("tgs/last_tgs_1", rate),
            ("tgs/tgs_all", self.tokens / self.seconds),
            ("tgs/tgs_avg", self.rates / self.steps as f64),
            ("tgs/tgs_SMA", tokens / seconds),
            ("tgs/last_tgs_10", self.blocks[0].2),
            ("tgs/last_tgs_50", self.blocks[1].2),
        ]
    }
}

/// "2026-11-23 20:05:09,123", in UTC. Days to a date by Howard Hinnant's `civil_from_days`.
fn date(since_1970: Duration) -> String {
    let (seconds, ms) = (since_1970.as_secs() as i64, since_1970.subsec_millis());
    let (days, time) = (seconds.div_euclid(86_400), seconds.rem_euclid(86_400));
    let z = days + 719_468;
    let era = z.div_euclid(146_097);
    let day_of_era = z.rem_euclid(146_097);
    let year_of_era = (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * month + 2) / 5 + 1;
    let month = if month < 10 { month + 3 } else { month - 9 };
    let year = year_of_era + era * 400 + i64::from(month <= 2);
    let (h, m, s) = (time / 3600, time / 60 % 60, time % 60);
    format!("{year:04}-{month:02}-{day:02} {h:02}:{m:02}:{s:02},{ms:03}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dates() {
        let at = |s| date(Duration::from_secs(s));
        assert_eq!(at(0), "1970-01-01 00:00:00,000");
        assert_eq!(at(951_782_399), "2000-02-28 23:59:59,000");
        assert_eq!(at(951_782_400), "2000-02-29 00:00:00,000");
        assert_eq!(at(1_709_251_199), "2024-02-29 23:59:59,000");
        assert_eq!(at(4_107_542_400), "2100-03-01 00:00:00,000");
    }

    #[test]
    fn what_a_rank_took_in() {
        let mut intake = Intake::default();
        intake.add(&[0, 3, 10]);
        intake.add(&[0, 2, 4, 6, 10]);
        let want = Intake { micros: 2, samples: 6, largest_length: 7, largest_batch: 4, smallest_batch: 2 };
        assert_eq!(intake, want);
    }

    #[test]
    fn speeds() {
        let mut speed = Speed::default();
        let all: Vec<_> = (1..=20).map(|i| speed.add(100.0, if i <= 10 { 1.0 } else { 2.0 })).collect();
        let of = |step: usize| all[step - 1].map(|(_, value)| value);
        assert_eq!(of(1), [100.0, 100.0, 100.0, 100.0, 100.0, 0.0, 0.0]);
        assert_eq!(of(10)[5], 100.0);
        assert_eq!(of(11)[..2], [50.0, 50.0]);
        let last = of(20);
        assert!((last[2] - 2000.0 / 30.0).abs() < 1e-9 && (last[3] - 75.0).abs() < 1e-9 && last[5] == 50.0);
    }
}
