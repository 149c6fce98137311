//! `parallel = dict(...)` -> `[parallel]`.
use crate::report::Report;
use crate::section::{Section, shown};
use crate::value::Value;
use toml::{Table, Value as Toml};

/// `chunks`: of `model`.
pub fn parallel(top: &mut Section, chunks: i64, r: &mut Report) {
    let mut parallel = top.section(r, "parallel");
    let p = &mut parallel;
    let tensor = tensor(p, r);
    pipeline(p, chunks, r);
    weight(p, &tensor, r);
    zero(p, r);

    // Follows from the mode: on for all but mtp.
    let sequence = p.flag(r, "sequence_parallel");
    if let Some(given) = sequence.filter(|given| given.value != (tensor != "mtp")) {
        let why = format!("follows from parallel.tensor.mode = \"{tensor}\", in the original too");
        r.note(&given.key, &given.place, &why);
    }
    p.no_effect_if_off(r, "no effect: groups of heads need no ranks of their own", &["gqa"]);
    let mut two_d = p.section(r, "sequence_2D");
    two_d.only(r, "enable", Value::Bool(false), "attention over a grid of ranks is not built");
    // They say nothing while it is off.
    for key in ["head_size", "context_size", "window_size", "device_placement_strategy"] {
        two_d.take(r, key);
    }
    two_d.end(r);
    for key in ["expert", "expert_weight", "expert_zero1"] {
        if let Some(node) = p.take(r, key) {
            r.experts.push((p.key(key), node.place));
        }
    }
    parallel.end(r);
}

fn table<const N: usize>(entries: [(&str, Toml); N]) -> Table {
    entries.map(|(key, value)| (key.to_string(), value)).into_iter().collect()
}

/// The mode.
fn tensor(p: &mut Section, r: &mut Report) -> String {
    let mut tensor = p.sized(r, "tensor");
    let size = tensor.count(r, "size", 1).unwrap_or(1);
    let mut mode = "mtp".to_string();
    if let Some(given) = tensor.text(r, "mode") {
        if ["mtp", "msp", "fsp", "isp"].contains(&given.value.as_str()) {
            mode = given.value;
        } else {
            r.refuse(&given.place, format!("{} = {:?}: there are mtp, msp, fsp and isp", given.key, given.value));
        }
    }
    tensor.end(r);
    r.set("parallel.tensor", table([("size", size.into()), ("mode", mode.as_str().into())]));
    mode
}

fn pipeline(p: &mut Section, chunks: i64, r: &mut Report) {
    let mut pipeline = p.sized(r, "pipeline");
    let size = pipeline.count(r, "size", 1).unwrap_or(1);
    let why = "no effect: transfers between stages always run beside what computes";
    pipeline.no_effect_if_off(r, why, &["interleaved_overlap"]);
    let mut schedule = if chunks > 1 && size > 1 { "interleaved" } else { "1f1b" };
    if let Some(given) = pipeline.text(r, "mode") {
        match given.value.to_ascii_uppercase().as_str() {
            "1F1B" => {}
            "ZBH1" => schedule = "zb-h1",
            "ZBV" => schedule = "zbv",
            _ => r.refuse(&given.place, format!("{} = {:?}: there are 1F1B, ZBH1 and ZBV", given.key, given.value)),
        }
    }
    pipeline.end(r);
    let mut keys = table([("size", size.into()), ("schedule", schedule.into())]);
    if schedule == "interleaved" {
        keys.insert("chunks".into(), chunks.into());
    }
    r.set("parallel.pipeline", keys);
}

fn weight(p: &mut Section, mode: &str, r: &mut Report) {
    let mut weight = p.sized(r, "weight");
    let size = weight.count(r, "size", 1).unwrap_or(1);
    if size > 1 && mode != "isp" {
        let way_out = "use 1, or tensor=dict(size=..., mode=\"isp\")";
        r.refuse(&weight.place, format!("parallel.weight.size = {size} needs isp, in the original too; {way_out}"));
    }
    let why = "no effect: what runs beside what follows from the schedule, and all buffers are planned";
    let keys =
        ["overlap", "memory_pool", "launch_allgather_before", "forward_overlap_per", "early_reduce_scatter_release"];
    weight.no_effect_if_off(r, why, &keys);
    weight.end(r);
    r.set("parallel.weight", table([("size", size.into())]));
}

/// -1: over all data-parallel ranks; 1: not at all.
fn zero(p: &mut Section, r: &mut Report) {
    let mut zero = p.sized(r, "zero1");
    let whole_only_in_use = zero.flag(r, "fsdp").is_some_and(|given| given.value);
    let given = zero.whole(r, "size");
    let size = given.as_ref().map_or(-1, |given| given.value);
    if let Some(given) = given.filter(|given| given.value < -1 || given.value == 0) {
        let value = shown(&Value::Int(given.value));
        r.note(
            &given.key,
            &given.place,
            &format!("{value} is 1 (no sharding) in the original's code; only -1 is all ranks"),
        );
    }
    zero.end(r);
    let zero = match size {
        _ if whole_only_in_use => {
            table([("stage", 3.into()), ("size", if size > 0 { size.into() } else { (-1).into() })])
        }
        -1 => table([("stage", 1.into()), ("size", (-1).into())]),
        n if n > 1 => table([("stage", 1.into()), ("size", n.into())]),
        _ => table([("stage", 0.into())]),
    };
    r.set("parallel.zero", zero);
}
