//! The table of keys, read top down: from the original's names, defaults and units to those of a run file.
//!
//! Where a key is absent the default is the original's (v0.3.4). `docs/internevo-configs.md` says the same in words.
mod checkpoint;
mod data;
mod model;
mod parallel;
mod train;

use crate::eval::Module;
use crate::report::Report;
use crate::section::Section;
use crate::value::{Node, Place, Value};
use std::path::Path;

pub fn map(module: &Module, path: &Path) -> Report {
    let mut r = Report::default();
    let place = Place::file(path);
    let mut entries: Vec<_> =
        module.names.iter().filter_map(|(name, node)| Some((name.clone(), node.clone()?))).collect();
    entries.sort_by(|(_, a), (_, b)| a.place.cmp(&b.place));
    let mut top = Section::new("", place, entries);
    sections(&mut top, &mut r);
    // Constants (SEQ_LEN, HIDDEN_SIZE) and whatever other lines were computed from are the author's own.
    let constant = |name: &str| !name.chars().any(char::is_lowercase);
    top.retain(|name| !constant(name) && !name.starts_with('_') && !module.used.contains(name));
    top.end(&mut r);
    r
}

fn sections(top: &mut Section, r: &mut Report) {
    let name = top.text(r, "JOB_NAME").map_or("AnonymousJob".into(), |given| given.value);
    let kind = model::kind(top, r);
    let mut data = top.section(r, "data");
    let mut ckpt = top.section(r, "ckpt");

    r.set("name", name);
    data::seed(&mut data, r);
    let saves = checkpoint::output(&mut ckpt, r);
    let weights = checkpoint::weights(&mut ckpt, r);
    let model = top.section(r, "model");
    let shape = model::model(model, kind, weights, r);
    let steps = data::data(data, r);
    train::loss(top, r);
    train::optimizer(top, shape.precision, r);
    train::lr_schedule(top, steps, r);
    train::precision(top, shape.precision, r);
    r.set_some("memory.recompute", shape.recompute);
    parallel::parallel(top, shape.chunks, r);
    checkpoint::checkpoint(ckpt, saves, steps, r);
    runtime(top, r);
    experts(top, kind, shape.experts, r);
}

/// Keys of the top level that are about running, not about training.
fn runtime(top: &mut Section, r: &mut Report) {
    let tensorboard = top.flag(r, "enable_tb").map(|given| given.value);
    r.set_some("metrics.tensorboard", tensorboard);
    let why =
        "no effect: event files lie beside metrics.jsonl in the run's folder, and are flushed as they are written";
    top.no_effect_if_off(r, why, &["tensorboard_folder", "resume_tb_folder", "tensorboard"]);
    let why = "no effect: cuDNN is not used; every sum has one order, see docs/numerics.md";
    top.no_effect(r, why, &["cudnn_benchmark", "cudnn_deterministic"]);
    let why = "no effect: norms and the head have the type of precision.params, their sums are taken in f32 or better";
    top.no_effect_if_off(r, why, &["use_fp32_norm", "output_tf32"]);
    top.no_effect(r, "no effect: metrics are summed in f64", &["metric_dtype"]);
    let why = "no effect: training state of the original is not read, so nothing else would be loaded";
    top.no_effect_if_off(r, why, &["only_load_lr"]);
    top.only(r, "batch_count", Value::Int(0), "a run begins at step 0, or with --resume where it stopped");
    let why = "no effect: gradients of shared parameters are added by the schedule";
    top.no_effect_if_off(r, why, &["gradient_handler"]);
    top.no_effect(r, "no effect on training: `internevo generate` has options for them", &["generation"]);
    top.no_effect_if_off(r, "no effect: gradients are not profiled by layer", &["grad_profiling"]);

    let mut monitor = top.section(r, "monitor");
    let why = "no effect: nothing is sent; metrics.jsonl and the terminal say what an alert would";
    top.no_effect_if_off(r, why, &["alert_address"]);
    let mut alert = monitor.section(r, "alert");
    let keys = ["enable_feishu_alert", "feishu_alert_address", "light_monitor_address"];
    alert.no_effect_if_off(r, why, &keys);
    // A path for a lock that only alerts need.
    alert.take(r, "alert_file_path");
    alert.end(r);
    let mut tensorboard = monitor.section(r, "tensorboard");
    // The original reads it at the top level only.
    tensorboard.take(r, "queue_max_length");
    tensorboard.end(r);
    monitor.end(r);
}

/// A mixture of experts is refused with all that belongs to it; without one, its keys say nothing.
fn experts(top: &mut Section, kind: model::Kind, experts: bool, r: &mut Report) {
    if let Some(node) = top.take(r, "moe") {
        r.experts.push(("moe".into(), node.place));
    }
    let keys = std::mem::take(&mut r.experts);
    if experts || kind == model::Kind::Moe {
        let listed: Vec<String> = keys.iter().map(|(key, place)| format!("{key} (line {})", place.line)).collect();
        let place = keys.first().map_or(top.place.clone(), |(_, place)| place.clone());
        let way_out = "use model_type = \"INTERNLM\" and remove them for the dense model";
        r.refuse(&place, format!("a mixture of experts is not supported yet: {}; {way_out}", listed.join(", ")));
    } else {
        for (key, place) in keys {
            r.note(&key, &place, "no effect: the model has no experts");
        }
    }
}

/// `local:` is a folder; other storage is refused.
fn folder(place: &Place, key: &str, path: &str, r: &mut Report) -> Option<String> {
    let remote = ["boto3:", "volc:", "oss2:", "s3:"].into_iter().find(|prefix| path.starts_with(prefix));
    if let Some(remote) = remote {
        let way_out = "name a local folder, and copy or mount the bucket";
        r.refuse(place, format!("{key} = {path:?}: object storage ({remote}) is not supported; {way_out}"));
        return None;
    }
    let path = path.strip_prefix("local:").unwrap_or(path);
    if path.is_empty() {
        r.refuse(place, format!("{key} names no folder"));
        return None;
    }
    Some(path.into())
}

/// Asks empty configs for every key. Sections, which only hold others, are left out.
pub fn known_keys() -> Vec<String> {
    let empty = |value| Node { place: Place::file(Path::new("")), value };
    let mut keys = std::collections::BTreeSet::new();
    for kind in ["INTERNLM", "INTERNLM2_PUBLIC"] {
        let load = ("load_ckpt_info".to_string(), empty(Value::Dict(vec![])));
        let names = [("model_type", Value::Str(kind.into())), ("ckpt", Value::Dict(vec![load]))];
        let names = names.map(|(name, value)| (name.to_string(), Some(empty(value)))).into();
        keys.extend(map(&Module { names, used: Default::default() }, Path::new("")).known);
    }
    let holds_others = |key: &String| keys.iter().any(|k| k.starts_with(&format!("{key}.")));
    keys.iter().filter(|key| !holds_others(key)).cloned().collect()
}
