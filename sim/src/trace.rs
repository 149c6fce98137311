//! A measured timeline: the trace of a step that `metrics.trace_steps` wrote, in the trace event format of Chrome.
use crate::timeline::{RankLine, Span, Timeline, loads};
use serde::Deserialize;
use std::collections::BTreeMap;

#[derive(Deserialize)]
struct File {
    #[serde(rename = "traceEvents")]
    events: Vec<Event>,
}

/// A process is a rank, a thread a lane. `X` is a span, `M` a name; times are in microseconds.
#[derive(Deserialize)]
struct Event {
    name: String,
    ph: String,
    pid: usize,
    #[serde(default)]
    tid: usize,
    #[serde(default)]
    ts: f64,
    #[serde(default)]
    dur: f64,
    #[serde(default)]
    args: Args,
}

#[derive(Deserialize, Default)]
struct Args {
    #[serde(default)]
    name: String,
}

/// A step as it was. A transfer lasts from when it was issued to when it was waited for, so waiting counts as exposed.
pub fn read(text: &str) -> Result<Timeline, String> {
    let file: File = serde_json::from_str(text).map_err(|e| format!("is no trace: {e}"))?;
    let mut names: BTreeMap<usize, String> = BTreeMap::new();
    let mut ranks: BTreeMap<usize, Vec<&Event>> = BTreeMap::new();
    for event in &file.events {
        match (event.ph.as_str(), event.name.as_str()) {
            ("X", _) => ranks.entry(event.pid).or_default().push(event),
            ("M", "thread_name") => {
                names.insert(event.tid, event.args.name.clone());
            }
            _ => {}
        }
    }
    let compute = *names.iter().find(|(_, name)| *name == "compute").ok_or("has no lane named compute")?.0;
    // Compute first, then as they are numbered.
    let tids: Vec<usize> = [compute].into_iter().chain(names.keys().copied().filter(|tid| *tid != compute)).collect();
    let spans = || ranks.values().flatten();
    let zero = spans().map(|e| e.ts).fold(f64::INFINITY, f64::min);
    let step = (spans().map(|e| e.ts + e.dur).fold(zero, f64::max) - zero) / 1e6;
    let span = |event: &&Event| -> Result<Span, String> {
        let lane = tids.iter().position(|tid| *tid == event.tid);
        let lane = lane.ok_or_else(|| format!("has a lane without a name, thread {}", event.tid))?;
        let begin = (event.ts - zero) / 1e6;
        Ok(Span { name: event.name.clone(), lane, begin, end: begin + event.dur / 1e6, waits: vec![] })
    };
    let rank = |(rank, events): (&usize, &Vec<&Event>)| {
        let spans: Vec<Span> = events.iter().map(span).collect::<Result<_, _>>()?;
        let of = |compute: bool| {
            let lane = spans.iter().filter(|span| (span.lane == 0) == compute);
            let mut times: Vec<[f64; 2]> = lane.map(|span| [span.begin, span.end]).collect();
            times.sort_by(|a, b| a[0].total_cmp(&b[0]));
            times
        };
        let [busy, exposed, idle] = loads([0.0, step], &of(true), &of(false));
        Ok(RankLine { rank: *rank, spans, busy, exposed, idle })
    };
    let ranks: Vec<RankLine> = ranks.iter().map(rank).collect::<Result<_, String>>()?;
    if ranks.is_empty() {
        return Err("has no spans".into());
    }
    let lanes = tids.iter().map(|tid| names[tid].clone()).collect();
    Ok(Timeline { step, lanes, ranks })
}
