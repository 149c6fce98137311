//! The timeline of a step for Chrome's `about:tracing` or Perfetto: the trace event format, one process a rank, one
//! thread a lane.
use crate::control::Control;
use anyhow::{Context, Result};
use exec::Rank;
use plan::{LANES, Lane};
use serde_json::{Value, json};
use std::fs;
use std::path::Path;

/// Called by every rank after the same step of program number `index`; rank 0 writes the file.
pub fn bring(control: &mut Control, rank: &Rank, index: usize, path: &Path) -> Result<()> {
    let all: Vec<Value> = control.gather(events(rank, index))?.into_iter().flatten().collect();
    if !control.leads() {
        return Ok(());
    }
    let text = json!({ "traceEvents": all, "displayTimeUnit": "ms" }).to_string();
    let dir = path.parent().expect("it is in a folder");
    fs::create_dir_all(dir)
        .and_then(|()| fs::write(path, text))
        .with_context(|| format!("cannot write {}", path.display()))
}

fn events(rank: &Rank, index: usize) -> Vec<Value> {
    let (pid, actions) = (rank.id.0, &rank.programs()[index].actions);
    let mut out =
        vec![json!({ "name": "process_name", "ph": "M", "pid": pid, "args": { "name": format!("rank {pid}") } })];
    let used = |lane: &Lane| actions.iter().any(|a| a.lane(&rank.plan) == *lane);
    for lane in LANES.into_iter().filter(used) {
        let name = lane.name();
        out.push(
            json!({ "name": "thread_name", "ph": "M", "pid": pid, "tid": lane as usize, "args": { "name": name } }),
        );
    }
    for (action, [began, ended]) in actions.iter().zip(rank.spans()) {
        let micros = |t: std::time::Duration| t.as_secs_f64() * 1e6;
        let name = action.show(&rank.plan);
        let kind = name.split(' ').next().unwrap_or_default().to_string();
        out.push(json!({
            "name": name, "cat": kind, "ph": "X", "pid": pid, "tid": action.lane(&rank.plan) as usize,
            "ts": micros(*began), "dur": micros(ended.saturating_sub(*began)),
        }));
    }
    out
}
