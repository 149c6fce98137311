//! `ckpt = dict(...)` -> `output`, `[checkpoint]`, `model.init_from`.
use super::folder;
use crate::report::Report;
use crate::section::{Given, Section, shown};
use crate::value::{Place, Value};

/// Why state of the original is not read, and what to do.
const PICKLE: &str = "holds pickled Python objects, which are not read; convert the weights with the original's \
                      convert2hf tool, then give the directory with ckpt_type=\"hf_llama\"";

/// `output`, and whether checkpoints are written there.
pub fn output(ckpt: &mut Section, r: &mut Report) -> bool {
    let enabled = ckpt.flag(r, "enable_save_ckpt").is_none_or(|given| given.value);
    match ckpt.text(r, "save_ckpt_folder") {
        Some(given) => {
            let path = folder(&given.place, &given.key, &given.value, r);
            r.set_some("output", path);
        }
        None if enabled => {
            let way_out = "give it, or enable_save_ckpt=False";
            r.refuse(&ckpt.place, format!("ckpt.save_ckpt_folder is missing, and saving is enabled; {way_out}"));
        }
        None => {}
    }
    enabled
}

/// What `load_ckpt_info` starts from: a Hugging Face directory, or nothing.
pub fn weights(ckpt: &mut Section, r: &mut Report) -> Option<String> {
    let given_only = ckpt.flag(r, "load_given_ckpt");
    let auto = ckpt.flag(r, "auto_resume").map(|given| given.value);
    // Before there was auto_resume, load_given_ckpt said the opposite.
    let auto = auto.unwrap_or(!given_only.is_some_and(|given| given.value));
    r.set("checkpoint.auto_resume", auto);

    let info = ckpt.take(r, "load_ckpt_info");
    let absent = info.is_none();
    let from_info = match info {
        Some(node) if node.value != Value::None => load_info(ckpt, node, r),
        _ => None,
    };
    let legacy = legacy(ckpt, absent && !auto, r);
    let (place, path, kind, content) = from_info.or(legacy)?;
    if auto {
        let why =
            "no effect: auto_resume goes on from the newest checkpoint of the run, or begins anew, in the original too";
        r.note("ckpt.load_ckpt_info", &place, why);
        return None;
    }
    match kind.as_str() {
        // `hf` in later versions.
        "hf_llama" | "hf" if content == ["model"] => folder(&place, "ckpt.load_ckpt_info.path", &path, r),
        "hf_llama" | "hf" => {
            let way_out = "use content=(\"model\",)";
            r.refuse(
                &place,
                format!("ckpt.load_ckpt_info.content: a Hugging Face directory has only the model; {way_out}"),
            );
            None
        }
        "internevo" | "internlm" | "llama" => {
            r.refuse(&place, format!("ckpt.load_ckpt_info: ckpt_type {kind:?} {PICKLE}"));
            None
        }
        other => {
            r.refuse(&place, format!("ckpt.load_ckpt_info: ckpt_type {other:?} is not known; use \"hf_llama\""));
            None
        }
    }
}

/// Place, path, type, content.
type Load = (Place, String, String, Vec<String>);

fn load_info(ckpt: &Section, node: crate::value::Node, r: &mut Report) -> Option<Load> {
    let key = ckpt.key("load_ckpt_info");
    let Value::Dict(entries) = node.value else {
        r.refuse(&node.place, format!("{key} = {}: must be a dict, or None", shown(&node.value)));
        return None;
    };
    let mut info = Section::new(&key, node.place.clone(), entries);
    let path = info.text(r, "path");
    let kind = info.text(r, "ckpt_type").map_or("internevo".into(), |given| given.value);
    let content = info.take(r, "content").map_or(vec!["model".to_string()], |node| match node.value {
        Value::List(items) | Value::Tuple(items) => items.iter().map(|item| item.value.str()).collect(),
        one => vec![one.str()],
    });
    info.end(r);
    // A path of None loads nothing.
    path.map(|path| (node.place, path.value, kind, content))
}

/// Keys from before `load_ckpt_info`; they count where it is absent.
fn legacy(ckpt: &mut Section, counts: bool, r: &mut Report) -> Option<Load> {
    let model = ckpt.text(r, "load_model_only_folder");
    let all = ckpt.take(r, "load_ckpt_folder").filter(|node| node.value != Value::None);
    let why = "no effect: the original reads load_ckpt_info instead, or goes on from the newest checkpoint";
    ckpt.no_effect_if_off(r, why, &["load_optimizer"]);
    let all = all.map(|node| Given { key: ckpt.key("load_ckpt_folder"), place: node.place, value: node.value.str() });
    let (key, place, path) = model.or(all).map(|given| (given.key, given.place, given.value))?;
    if !counts {
        r.note(&key, &place, why);
        return None;
    }
    Some((place, path, "internevo".into(), vec!["all".into()]))
}

pub fn checkpoint(mut ckpt: Section, enabled: bool, steps: Option<i64>, r: &mut Report) {
    let c = &mut ckpt;
    r.set("checkpoint.enabled", enabled);
    let every = match c.take(r, "checkpoint_every") {
        // The original's way to say never.
        Some(node) if node.value == Value::Float(f64::INFINITY) || node.value == Value::None => None,
        Some(node) => match node.value {
            Value::Int(n) if n > 0 => Some(n),
            other => {
                let value = shown(&other);
                r.refuse(
                    &node.place,
                    format!("ckpt.checkpoint_every = {value}: must be a whole number of steps, at least 1"),
                );
                return;
            }
        },
        None => None,
    };
    match (enabled, every) {
        (_, Some(every)) => {
            r.set("checkpoint.every", every);
            if enabled {
                // The original deletes none.
                r.set("checkpoint.keep_last", steps.unwrap_or(1) / every + 2);
                let why = "all are kept, as in the original; lower it to save disk space";
                r.note("checkpoint.keep_last", &Place { line: 0, ..c.place.clone() }, why);
            }
        }
        (true, None) => {
            let way_out = "give it, or enable_save_ckpt=False";
            r.refuse(&c.place, format!("ckpt.checkpoint_every is missing, and saving is enabled; {way_out}"));
        }
        (false, None) => {}
    }
    // At 1 the original takes none.
    let snapshots = match c.take(r, "oss_snapshot_freq").map(|node| (node.place, node.value)) {
        None | Some((_, Value::Float(f64::INFINITY) | Value::None)) => None,
        Some((_, Value::Int(n))) if n >= 0 => Some(n).filter(|n| *n > 1),
        Some((place, other)) => {
            let value = shown(&other);
            r.refuse(&place, format!("ckpt.oss_snapshot_freq = {value}: must be a whole number of steps; 0 for none"));
            None
        }
    };
    r.set_some("checkpoint.snapshot_every", snapshots);
    if let Some(given) = c.text(r, "stop_file_path") {
        let path = folder(&given.place, &given.key, &given.value, r);
        r.set_some("checkpoint.stop_file", path);
    }
    let why = "no effect: checkpoints and the snapshots between them are written to output, in the background";
    c.no_effect_if_off(r, why, &["snapshot_ckpt_folder", "async_upload", "async_upload_tmp_folder"]);
    ckpt.end(r);
}
