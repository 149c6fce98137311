//! A timeline as one HTML file that needs nothing else: the data as JSON, and what draws them on a canvas (`page.html`).
use crate::Timeline;
use serde_json::{Value, json};
use std::collections::HashMap;

const PAGE: &str = include_str!("page.html");

/// `title` says what is shown, `note` where the times come from.
pub fn html(title: &str, note: &str, timeline: &Timeline) -> String {
    let data = data(title, note, timeline).to_string();
    // Inside a script nothing may look like its end; JSON has another spelling for it.
    PAGE.replace("{{title}}", &escape(title)).replace("{{data}}", &data.replace('<', "\\u003c"))
}

/// Each name once; a span is [lane, begin, duration, name, waits], in microseconds.
fn data(title: &str, note: &str, timeline: &Timeline) -> Value {
    let mut names: Vec<&str> = vec![];
    let mut numbers: HashMap<&str, usize> = HashMap::new();
    let mut ranks = vec![];
    for rank in &timeline.ranks {
        let mut spans = vec![];
        for span in &rank.spans {
            let number = *numbers.entry(&span.name).or_insert_with(|| {
                names.push(&span.name);
                names.len() - 1
            });
            spans.push(json!([span.lane, micros(span.begin), micros(span.end - span.begin), number, span.waits]));
        }
        ranks.push(json!({
            "rank": rank.rank, "spans": spans,
            "busy": micros(rank.busy), "exposed": micros(rank.exposed), "idle": micros(rank.idle),
        }));
    }
    json!({
        "title": title, "note": note, "step": micros(timeline.step), "bubble": timeline.bubble(),
        "exposed": timeline.exposed(), "lanes": timeline.lanes, "names": names, "ranks": ranks,
    })
}

/// To the nanosecond: what is finer is not seen and makes a file large.
fn micros(seconds: f64) -> f64 {
    (seconds * 1e9).round() / 1e3
}

fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}
