//! Opening the kinds whose samples come tokenised and whose order is InternEvo's: `internevo` and `random`.

use std::path::{Path, PathBuf};

use crate::config::{DataConfig, HeldOut, Kind};
use crate::dataset::{Content, Dataset, Order};
use crate::epochs::Epochs;
use crate::error::{DataError, Result};
use crate::open::Splits;
use crate::packs::{Packs, Singles};
use crate::samples::{Samples, shuffled};
use crate::source::internevo::{BinFile, Line, files, folders, type_of, types};
use crate::source::random;

/// Of kind random, as InternEvo calls it.
const RANDOM_SET: &str = "val";

/// What [`Splits::types`](crate::Splits::types) will be, found without opening the data.
pub fn type_names(cfg: &DataConfig) -> Result<Vec<String>> {
    match cfg.kind {
        Kind::Internevo => types(cfg.path()),
        Kind::Random | Kind::Text | Kind::Jsonl | Kind::Tokens => Ok(Vec::new()),
    }
}

/// `kind = "internevo"`: the folders of `data.path` are types of text, those of `data.valid.path` validation sets.
pub(crate) fn open_internevo(cfg: &DataConfig, vocab_size: usize, seed: u64, step_micros: usize) -> Result<Splits> {
    let path = cfg.path();
    let types = types(path)?;
    let files = files(path)?;
    let (mut samples, mut short) = (Vec::new(), 0);
    for file in &files {
        let type_id = type_of(&types, path, file)?;
        let min_length = cfg.min_length(file).map_err(|keys| DataError::MinLength { path: file.clone(), keys })?;
        let (bin, lines) = open_file(file, vocab_size, min_length, &mut short)?;
        samples.push(Samples::of_file(bin, shuffled(&lines), type_id));
    }
    let fits = |key: &str| files.iter().any(|file| file.to_string_lossy().contains(key));
    let idle = cfg.min_length_of.keys().filter(|key| !fits(key));
    let mut notes: Vec<String> =
        idle.map(|key| format!("data.min_length_of: no file has \"{key}\" in its path")).collect();
    if short > 0 {
        notes.push(format!("{}: {short} samples shorter than data.min_length are left out", path.display()));
    }
    let tokens = cfg.seq_len * cfg.micro_batch_size;
    let (all, unused) = (samples.len(), samples.iter().filter(|file| file.tokens() < tokens as u64).count());
    if unused > 0 {
        notes.push(format!(
            "{}: {unused} of {all} files hold fewer than the {tokens} tokens of a micro-batch and are not used",
            path.display()
        ));
    }
    if unused == all {
        let largest = samples.iter().map(Samples::tokens).max().unwrap_or(0);
        return Err(DataError::NoPack { path: path.into(), tokens: largest, needed: tokens });
    }
    let train = training(cfg, samples, seed, step_micros)?;

    let mut valid = Vec::new();
    for (name, files) in validation_files(cfg)? {
        let mut samples = Vec::new();
        for file in files {
            let (bin, lines) = open_file(&file, vocab_size, cfg.valid_min_length(), &mut 0)?;
            samples.push(Samples::of_file(bin, lines, 0));
        }
        valid.extend(validation(cfg, &name, samples, &mut notes).map(|set| (name, set)));
    }
    Ok(Splits { train, valid, types, caches: Vec::new(), notes })
}

/// `kind = "random"`.
pub(crate) fn open_random(cfg: &DataConfig, vocab_size: usize, seed: u64, step_micros: usize) -> Result<Splits> {
    let make = |count| {
        let samples = random::samples(count, cfg.seq_len, cfg.fixed_length);
        let largest = random::largest_id(&samples, cfg.seq_len);
        if largest >= vocab_size as u64 {
            return Err(DataError::RandomIds { largest, vocab_size });
        }
        Ok(samples)
    };
    let train = Samples::random(shuffled(&make(random::TRAIN)?), cfg.seq_len);
    let train = training(cfg, vec![train], seed, step_micros)?;
    let mut notes = Vec::new();
    let valid = match cfg.held_out() {
        HeldOut::Random => {
            let samples = vec![Samples::random(make(random::VALID)?, cfg.seq_len)];
            validation(cfg, RANDOM_SET, samples, &mut notes).map(|set| (RANDOM_SET.into(), set)).into_iter().collect()
        }
        HeldOut::Nothing | HeldOut::Fraction(_) | HeldOut::Sets(_) | HeldOut::Folder(_) => Vec::new(),
    };
    Ok(Splits { train, valid, types: Vec::new(), caches: Vec::new(), notes })
}

fn training(cfg: &DataConfig, samples: Vec<Samples>, seed: u64, step_micros: usize) -> Result<Dataset> {
    let packs = Packs::new(samples, cfg.seq_len * cfg.micro_batch_size, cfg.seq_len, cfg.cross_documents);
    let order = if cfg.shuffle {
        let seed = u32::try_from(seed).map_err(|_| DataError::Seed { seed, kind: cfg.kind.name() })?;
        let no_step = DataError::NoStep { micro_batches: packs.len(), needed: step_micros };
        Order::Shuffled(Epochs::new(seed, packs.len(), step_micros).ok_or(no_step)?)
    } else {
        Order::Straight
    };
    Ok(dataset(cfg, Content::Packs(packs), order))
}

/// A set whose samples are rows; None with a note if they do not fill a micro-batch.
fn validation(cfg: &DataConfig, name: &str, samples: Vec<Samples>, notes: &mut Vec<String>) -> Option<Dataset> {
    let singles = Singles::new(samples, cfg.seq_len);
    if singles.len() < cfg.micro_batch_size as u64 {
        notes.push(format!(
            "validation set {name}: {} samples are fewer than data.micro_batch_size = {}, so it is left out",
            singles.len(),
            cfg.micro_batch_size
        ));
        return None;
    }
    Some(dataset(cfg, Content::Singles(singles), Order::Straight))
}

fn dataset(cfg: &DataConfig, content: Content, order: Order) -> Dataset {
    Dataset { content, order, seq_len: cfg.seq_len, micro_batch_size: cfg.micro_batch_size }
}

/// A file with its samples of `min_length` and more; the others are counted in `short`.
fn open_file(path: &Path, vocab_size: usize, min_length: usize, short: &mut usize) -> Result<(BinFile, Vec<Line>)> {
    let (file, mut lines) = BinFile::open(path, vocab_size)?;
    let all = lines.len();
    lines.retain(|line| line.tokens as usize >= min_length);
    *short += all - lines.len();
    Ok((file, lines))
}

/// The files of each validation set.
fn validation_files(cfg: &DataConfig) -> Result<Vec<(String, Vec<PathBuf>)>> {
    match cfg.held_out() {
        HeldOut::Sets(sets) => sets.into_iter().map(|(name, path)| Ok((name, files(path)?))).collect(),
        HeldOut::Folder(path) => {
            let mut sets: Vec<(String, PathBuf, Vec<PathBuf>)> = Vec::new();
            for (folder, files) in folders(path)? {
                let name = folder.file_name().unwrap_or(folder.as_os_str()).to_string_lossy().into_owned();
                if let Some((_, other, _)) = sets.iter().find(|(other, ..)| *other == name) {
                    return Err(DataError::SameName { name, paths: [other.clone(), folder] });
                }
                sets.push((name, folder, files));
            }
            Ok(sets.into_iter().map(|(name, _, files)| (name, files)).collect())
        }
        HeldOut::Nothing | HeldOut::Fraction(_) | HeldOut::Random => Ok(Vec::new()),
    }
}
