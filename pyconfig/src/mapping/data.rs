//! `data = dict(...)` -> `seed`, `[data]` and the counts of `[train]`.
use super::folder;
use crate::report::Report;
use crate::section::Section;
use crate::value::Value;
use toml::{Table, Value as Toml};

/// Shuffles here and there; here it also draws the initial weights.
pub fn seed(data: &mut Section, r: &mut Report) {
    let seed = data.count(r, "seed", 0);
    r.set("seed", seed.unwrap_or(1024));
}

/// The number of steps, if it was given.
pub fn data(mut data: Section, r: &mut Report) -> Option<i64> {
    let d = &mut data;
    d.only(r, "type", Value::Str("tokenized".into()), "only tokenized folders are mapped; see docs/data.md for others");
    let train = d.text(r, "train_folder");
    let train = train.and_then(|given| folder(&given.place, &given.key, &given.value, r));
    r.set("data.kind", if train.is_some() { "internevo" } else { "random" });
    r.set_some("data.path", train.clone());
    let seq_len = required(d, r, "seq_len");
    let micro_bsz = required(d, r, "micro_bsz");
    r.set_some("data.seq_len", seq_len);
    r.set_some("data.micro_batch_size", micro_bsz);
    r.set("data.shuffle", true);
    if d.flag(r, "pack_sample_into_one").is_some_and(|given| given.value) {
        r.set("data.cross_documents", true);
    }
    lengths(d, train.is_some(), r);
    let valid_every = d.count(r, "valid_every", 0).unwrap_or(0);
    valid(d, train.is_some(), valid_every, r);

    let steps = required(d, r, "total_steps");
    let micro_num = d.count(r, "micro_num", 1).unwrap_or(1);
    r.set_some("train.steps", steps);
    r.set("train.micro_batches", micro_num);
    if valid_every > 0 {
        r.set("train.validate_every", valid_every);
    }
    ramp_up(d, r);
    let skip = d.text(r, "skip_batches").filter(|given| !given.value.trim().is_empty());
    r.set_some("train.skip_batches", skip.map(|given| given.value));

    if let Some(given) = d.whole(r, "gradient_accumulation").filter(|given| given.value != micro_num) {
        let message = format!("{} = {} is not data.micro_num = {micro_num}", given.key, given.value);
        r.refuse(&given.place, format!("{message}, which the original asks for; remove it"));
    }
    let why = "no effect: it follows from the other sizes, in the original too";
    d.no_effect(r, why, &["packed_length", "batch_size"]);
    d.only(r, "use_packed_dataset", Value::Bool(true), "rows are always packed, never padded");
    let why = "no effect: validation goes over the whole set, and its loss is the mean over all tokens";
    d.no_effect(r, why, &["valid_micro_num"]);
    let why = "no effect: loading is in step with training, and memory is planned";
    d.no_effect(r, why, &["num_worker", "empty_cache_and_diag_interval"]);
    d.no_effect(r, "no effect: metrics.slow_factor tells slow steps", &["diag_outlier_ratio"]);
    data.end(r);
    steps
}

fn required(d: &mut Section, r: &mut Report, key: &str) -> Option<i64> {
    let problems = r.problems.len();
    let given = d.count(r, key, 1);
    if given.is_none() && r.problems.len() == problems {
        let base = "a base config is imported by one that has data = dict(...)";
        r.refuse(&d.place, format!("{} is missing; it has no default ({base})", d.key(key)));
    }
    given
}

fn lengths(d: &mut Section, files: bool, r: &mut Report) {
    let of_files = "no effect: it is for files of tokens, and data.train_folder is None";
    match (files, d.whole(r, "min_length")) {
        (true, given) => r.set("data.min_length", given.map_or(0, |given| given.value.max(0))),
        (false, Some(given)) if given.value > 0 => r.note(&given.key, &given.place, of_files),
        (false, _) => {}
    }
    match d.counts(r, "min_length_dict").filter(|given| !given.value.is_empty()) {
        Some(given) if files => {
            let of: Table = given.value.into_iter().map(|(name, n)| (name, Toml::from(n.max(0)))).collect();
            r.set("data.min_length_of", of);
        }
        Some(given) => r.note(&given.key, &given.place, of_files),
        None => {}
    }
    match d.flag(r, "fixed_random_dataset_seqlen").filter(|given| given.value) {
        Some(given) if files => {
            r.note(&given.key, &given.place, "no effect: it is for random data, and data.train_folder is given");
        }
        Some(_) => r.set("data.fixed_length", true),
        None => {}
    }
}

/// Without `valid_folder` the original validates on random data; with `valid_every = 0`, never.
fn valid(d: &mut Section, files: bool, valid_every: i64, r: &mut Report) {
    let given = d.text(r, "valid_folder");
    match given {
        Some(given) if valid_every == 0 => {
            r.note(&given.key, &given.place, "no effect: data.valid_every = 0 turns validation off");
        }
        Some(given) if !files => {
            let reason = "validation data is of the same kind as the data trained on, and data.train_folder is None";
            r.refuse(&given.place, format!("{}: {reason}; give both folders, or none", given.key));
        }
        Some(given) => {
            let path = folder(&given.place, &given.key, &given.value, r);
            r.set_some("data.valid.path", path);
        }
        None if valid_every == 0 => {}
        None if files => {
            let why =
                "None: the original would validate on random data; here a run of files without it does not validate";
            r.note("data.valid_folder", &d.place, why);
        }
        None => r.set("data.valid.random", true),
    }
}

/// "start increment every", in micro-batches and steps.
fn ramp_up(d: &mut Section, r: &mut Report) {
    let Some(given) = d.text(r, "rampup_batch_size").filter(|given| !given.value.trim().is_empty()) else { return };
    let numbers: Option<Vec<i64>> = given.value.split_whitespace().map(|n| n.parse().ok().filter(|n| *n > 0)).collect();
    match numbers.as_deref() {
        Some([start, increment, every]) => {
            let ramp = [("start", *start), ("increment", *increment), ("every", *every)];
            let ramp: Table = ramp.into_iter().map(|(key, n)| (key.to_string(), Toml::from(n))).collect();
            r.set("train.ramp_up", ramp);
        }
        _ => {
            let expected =
                "must be three whole numbers, as in \"2 2 5000\": start, increment, steps between increments";
            r.refuse(&given.place, format!("{} = {:?}: {expected}", given.key, given.value));
        }
    }
}
