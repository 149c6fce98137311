//! `internevo schedule --html`: a page of a simulated step, and of a measured one.
mod common;
use common::Desk;
use serde_json::Value;
use std::collections::BTreeMap;

/// The data of a page.
fn data(page: &str) -> Value {
    let json = page.split("type=\"application/json\">").nth(1).unwrap().split("</script>").next().unwrap();
    serde_json::from_str(json).unwrap()
}

/// By rank and lane, the names of actions in the order of time.
fn actions(data: &Value) -> BTreeMap<(u64, String), Vec<String>> {
    let mut out: BTreeMap<_, Vec<(f64, String)>> = BTreeMap::new();
    for rank in data["ranks"].as_array().unwrap() {
        for span in rank["spans"].as_array().unwrap() {
            let number = |i: usize| span[i].as_u64().unwrap() as usize;
            let lane = data["lanes"][number(0)].as_str().unwrap().to_string();
            let name = data["names"][number(3)].as_str().unwrap().to_string();
            let lane = (rank["rank"].as_u64().unwrap(), lane);
            out.entry(lane).or_default().push((span[1].as_f64().unwrap(), name));
        }
    }
    let in_time = |mut spans: Vec<(f64, String)>| {
        spans.sort_by(|a, b| a.0.total_cmp(&b.0));
        spans.into_iter().map(|(_, name)| name).collect()
    };
    out.into_iter().map(|(lane, spans)| (lane, in_time(spans))).collect()
}

/// What `schedule` prints, what it draws, and what a run measured are the same actions, lane by lane in the same order.
#[test]
fn the_printed_the_simulated_and_the_measured_step_are_one() {
    let desk = Desk::golden("llama_gqa_tied");
    let layout = "--ranks 4 --set parallel.pipeline.size=2 --set train.micro_batches=2 --set train.steps=4";
    let printed = desk.ok(&format!("schedule run.toml {layout}"));
    let said = desk.ok(&format!("schedule run.toml {layout} --html simulated.html --profile cpu"));
    assert!(
        said.contains("data 2 x pipeline 2, sharding groups of 2; 2 micro-batches")
            && said.contains("% exposed communication"),
        "{said}"
    );
    let simulated = actions(&data(&desk.text("simulated.html")));

    desk.ok(&format!("train run.toml {layout} --set metrics.trace_steps=[2]"));
    desk.ok("schedule --html measured.html --trace runs/golden/trace/step_2.json");
    assert_eq!(actions(&data(&desk.text("measured.html"))), simulated);

    let mut drawn: Vec<&String> = simulated.values().flatten().collect();
    let mut lines: Vec<&str> = printed.lines().filter(|l| !l.starts_with('#') && !l.starts_with("rank ")).collect();
    drawn.sort();
    lines.sort();
    assert_eq!(drawn, lines);
}

/// One rank of each stage is shown for many.
#[test]
fn large_layouts_are_simulated_by_their_stages() {
    let desk = Desk::golden("llama_mha");
    desk.ok("schedule run.toml --ranks 128 --set parallel.pipeline.size=2 --set parallel.zero.size=8 --html page.html");
    let data = data(&desk.text("page.html"));
    let ranks: Vec<u64> = data["ranks"].as_array().unwrap().iter().map(|r| r["rank"].as_u64().unwrap()).collect();
    assert_eq!(ranks, [0, 64]);
    assert!(data["note"].as_str().unwrap().contains("One rank of each stage"));
}

#[test]
fn mistakes_are_refused() {
    let desk = Desk::golden("llama_mha");
    desk.write("bad.toml", "name = 1");
    desk.write("bad.json", "{}");
    let refused = |command: &str, words: &str| desk.run(command).refused(&[words]);
    refused("schedule", "give its file");
    refused("schedule run.toml --html a.html --trace bad.json", "needs no run file");
    refused("schedule --html a.html --trace bad.json", "bad.json is no trace");
    refused("schedule --html a.html --trace none.json", "cannot read none.json");
    refused("schedule run.toml --html a.html --profile b100", "neither one of h100, h200, cpu nor a file");
    refused("schedule run.toml --html a.html --profile bad.toml", "bad.toml: ");
    refused("schedule run.toml --html none/a.html", "cannot write none/a.html");
    refused("schedule run.toml --trace bad.json", "--html");
}
