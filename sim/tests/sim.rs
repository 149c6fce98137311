//! What is simulated is what the schedule promises, and what is executed.
use backend::{DType, Heads};
use exec::{Hyper, Lanes, StepConfig, World};
use model::block::Half;
use model::{Decoder, Inputs, Phase};
use plan::{Lane, Mesh, PipelineSchedule, Placement, Plan, Stage, StepShape};
use schedule::{Action, Program, RankPrograms};
use sim::{Profile, Timeline, clock, page, price, trace};
use std::sync::Arc;
use std::time::{Duration, Instant};

const T: usize = 16;

#[derive(Clone, Copy, Debug)]
struct Layout {
    data: usize,
    pipeline: usize,
    chunks: usize,
    micros: usize,
    policy: PipelineSchedule,
}

impl Layout {
    fn plan(self) -> Arc<Plan> {
        let heads = Heads { n: 2, kv: 1, dim: 4 };
        let stages = self.pipeline * self.chunks;
        let model = Decoder { max_positions: T, ..Decoder::llama(31, 8, 2 * stages, heads, 12) };
        let placement = if self.policy == PipelineSchedule::Zbv { Placement::V } else { Placement::Loop };
        let Layout { data, pipeline, chunks, .. } = self;
        let mesh = Mesh { data, pipeline, chunks, placement, zero: data, zero_ends: data, ..Mesh::SOLO };
        let mut plan = Plan::new(model, mesh, DType::F32, T, 0);
        plan.split_backward = self.policy.splits_backward();
        Arc::new(plan)
    }
    fn shape(self) -> StepShape {
        StepShape { phase: Phase::Train, t: T, micros: self.micros }
    }
    fn programs(self) -> Vec<RankPrograms> {
        let plan = self.plan();
        plan.mesh.ranks().map(|rank| RankPrograms::new(&plan, rank, &[self.shape()], self.policy)).collect()
    }
    fn simulate(self, prices: impl Fn(&RankPrograms) -> Vec<f64>) -> Timeline {
        let programs = self.programs();
        let prices: Vec<Vec<f64>> = programs.iter().map(prices).collect();
        let programs: Vec<Program> = programs.into_iter().map(|of| of.programs[0].clone()).collect();
        clock::run(&self.plan(), &programs, &prices)
    }
    fn on(self, profile: &str) -> Timeline {
        let profile = Profile::known(profile).expect("it is in profiles/");
        self.simulate(|programs| price(&self.plan(), programs.clone(), 0, &StepConfig::default(), &profile))
    }
}

/// A stage's forward takes 1, and either half of its backward 1, cut evenly over its units; nothing else takes time.
fn unit_prices(plan: &Plan, program: &Program) -> Vec<f64> {
    let halves = |stage: Stage, half: Half| {
        let of =
            |a: &&Action| matches!(a, Action::Backward { u, half: h, .. } if *h == half && plan.stage_of(*u) == stage);
        program.actions.iter().filter(of).count() as f64 / program.shape.micros as f64
    };
    let price = |action: &Action| match *action {
        Action::Forward { u, .. } => 1.0 / plan.units(plan.stage_of(u)).len() as f64,
        // Embedding and head are not split: beside layers that are, they are free here.
        Action::Backward { u, half: Half::Both, .. } if halves(plan.stage_of(u), Half::Input) > 0.0 => 0.0,
        Action::Backward { u, half: Half::Both, .. } => 2.0 / halves(plan.stage_of(u), Half::Both),
        Action::Backward { u, half, .. } => 1.0 / halves(plan.stage_of(u), half),
        _ => 0.0,
    };
    program.actions.iter().map(price).collect()
}

/// With free transfers a step of real programs has the bubble of its policy: (p - 1)(F + I + W) of a stage, or less with a split backward.
#[test]
fn simulated_bubbles_are_the_published_ones() {
    let cases = [
        (PipelineSchedule::GPipe, 1, vec![(2, 3), (4, 4), (4, 7), (3, 1)]),
        (PipelineSchedule::OneFOneB, 1, vec![(2, 3), (4, 2), (4, 8), (5, 7), (3, 1)]),
        (PipelineSchedule::Interleaved, 2, vec![(2, 4), (3, 6), (4, 4)]),
        (PipelineSchedule::Interleaved, 3, vec![(2, 4), (3, 3)]),
        (PipelineSchedule::ZbH1, 1, vec![(2, 2), (3, 7), (4, 4), (4, 9)]),
        (PipelineSchedule::ZbH1, 2, vec![(2, 4), (3, 3)]),
        (PipelineSchedule::Zbv, 2, vec![(2, 4), (3, 5), (3, 8), (4, 8)]),
    ];
    for (policy, chunks, sizes) in cases {
        for (data, (pipeline, micros)) in
            [1, 2].into_iter().flat_map(|data| sizes.iter().map(move |size| (data, *size)))
        {
            let layout = Layout { data, pipeline, chunks, micros, policy };
            let timeline = layout.simulate(|programs| unit_prices(&layout.plan(), &programs.programs[0]));
            // F + I - W is 1 here, and what ZB-V begins later on each rank is F.
            let each = if policy.splits_backward() { 1.0 } else { 3.0 };
            let (work, bubble) = (3.0 * (chunks * micros) as f64, each * (pipeline - 1) as f64);
            assert!(
                (timeline.step - work - bubble).abs() < 1e-6,
                "{layout:?}: {} for {work} + {bubble}",
                timeline.step
            );
            for rank in &timeline.ranks {
                let near = |a: f64, b: f64| (a - b).abs() < 1e-6;
                assert!(near(rank.busy, work) && near(rank.idle, bubble) && near(rank.exposed, 0.0), "{layout:?}");
            }
            assert!((timeline.bubble() - bubble / (work + bubble)).abs() < 1e-6);
        }
    }
}

const LAYOUTS: [Layout; 4] = [
    Layout { data: 1, pipeline: 1, chunks: 1, micros: 2, policy: PipelineSchedule::OneFOneB },
    Layout { data: 2, pipeline: 1, chunks: 1, micros: 2, policy: PipelineSchedule::OneFOneB },
    Layout { data: 2, pipeline: 2, chunks: 1, micros: 4, policy: PipelineSchedule::OneFOneB },
    Layout { data: 1, pipeline: 2, chunks: 2, micros: 4, policy: PipelineSchedule::Zbv },
];

/// Names by lane, in the order of time.
fn by_lane(mut spans: Vec<(Lane, f64, String)>) -> Vec<(Lane, String)> {
    spans.sort_by(|a, b| (a.0, a.1).partial_cmp(&(b.0, b.1)).expect("times are numbers"));
    spans.into_iter().map(|(lane, _, name)| (lane, name)).collect()
}

/// On every lane the same actions in the same order, in time as they are simulated and as they were executed.
#[test]
fn what_is_simulated_is_what_is_executed() {
    for layout in LAYOUTS {
        let (plan, shape) = (layout.plan(), layout.shape());
        let began = Instant::now();
        let world = World {
            plan: plan.clone(),
            step: StepConfig::default(),
            lanes: Lanes::Direct,
            threads: 1,
            timeout: Duration::from_secs(60),
            record: false,
            clock: Some(Arc::new(move || began.elapsed())),
        };
        let executed = world.launch(layout.programs(), |rank| {
            let ids: Vec<u32> = (0..T as u32).collect();
            let slab = Inputs::packed(&ids, &ids, &ids, &[0, T as u32], &[0; T]);
            exec::run(rank, 0, Hyper { lr: 1e-3, step: 1 }, &mut |_| slab.clone()).unwrap();
            rank.finish().unwrap();
            let actions = rank.programs()[0].actions.iter().zip(rank.spans());
            by_lane(
                actions.map(|(a, [begin, _])| (a.lane(&rank.plan), begin.as_secs_f64(), a.show(&rank.plan))).collect(),
            )
        });
        assert_eq!(shape.micros, layout.micros);
        let simulated = layout.on("cpu");
        for ((rank, executed), programs) in simulated.ranks.iter().zip(executed).zip(layout.programs()) {
            let lanes = programs.programs[0].actions.iter().map(|a| a.lane(&plan));
            let spans = rank.spans.iter().zip(lanes).map(|(span, lane)| (lane, span.begin, span.name.clone()));
            assert_eq!(by_lane(spans.collect()), executed, "{layout:?}, rank {}", rank.rank);
        }
    }
}

/// No transfer begins before what its program waits for, and no lane does two things at once.
#[test]
fn simulated_lanes_work_in_order() {
    for layout in LAYOUTS {
        let timeline = layout.on("h100");
        for rank in &timeline.ranks {
            for (i, span) in rank.spans.iter().enumerate() {
                assert!(span.end >= span.begin && span.begin >= 0.0);
                let earlier = rank.spans[..i].iter().rfind(|other| other.lane == span.lane);
                assert!(earlier.is_none_or(|other| other.end <= span.begin), "{} {}", rank.rank, span.name);
                let waits = span.waits.iter().filter(|wait| **wait < i);
                let after = waits.map(|wait| rank.spans[*wait].end).fold(0.0, f64::max);
                assert!(after <= span.begin, "{} does not wait", span.name);
            }
            let parts = rank.busy + rank.exposed + rank.idle;
            assert!((parts - timeline.step).abs() < 1e-9, "{parts} of a step of {}", timeline.step);
        }
    }
}

/// Products cost their FLOPs, transfers their bytes: a faster machine is faster, and a wider group is dearer.
#[test]
fn prices_follow_the_profile() {
    let layout = LAYOUTS[1];
    let programs = layout.programs().remove(0);
    let seconds = |profile: &Profile| price(&layout.plan(), programs.clone(), 0, &StepConfig::default(), profile);
    let h100 = Profile::known("h100").unwrap();
    let free = Profile { operation_latency_s: 0.0, ..h100.clone() };
    let slow = Profile { memory_bytes_per_s: 1.0, ..free.clone() };
    let actions = &programs.programs[0].actions;
    let at = |action: fn(&Action) -> bool| actions.iter().position(action).unwrap();
    let forward = at(|a| matches!(a, Action::Forward { .. }));
    // This model is so small that only starting an operation counts.
    assert!(seconds(&h100)[forward] >= h100.operation_latency_s && seconds(&free)[forward] < 1e-8);
    // At one byte a second an embedding of T rows of 8 floats takes as long as it has bytes: ids and rows in, rows out.
    assert_eq!(seconds(&slow)[forward], (4 * (T + 31 * 8 + T * 8)) as f64);
    let reduce = at(|a| matches!(a, Action::Reduce { .. }));
    let alone = Profile { ranks_per_machine: 1, ..h100.clone() };
    assert!(seconds(&alone)[reduce] > seconds(&h100)[reduce]);
}

#[test]
fn profiles_are_read_and_refused() {
    assert!(Profile::names().into_iter().all(|name| Profile::known(name).is_some()));
    assert_eq!(Profile::known("h1000"), None);
    let text = include_str!("../../profiles/h100.toml");
    let refused = |from: &str, to: &str| Profile::parse(&text.replace(from, to)).unwrap_err();
    assert_eq!(refused("= 3.35e12", "= 0.0"), "memory_bytes_per_s = 0: must be more than 0");
    assert_eq!(refused("= 20e-6", "= 20"), "between.latency_s = 20: must be seconds, at least 0 and less than 1");
    assert!(refused("bf16", "bf15").contains("unknown field `bf15`"));
}

/// Every action of every rank is in the page, and the page is one well-formed document.
#[test]
fn the_page_contains_every_action() {
    for layout in LAYOUTS {
        let timeline = layout.on("h100");
        let title = "a \"title\" </script> & more";
        let html = page::html(title, "a note", &timeline);
        well_formed(&html);
        assert!(!html.contains("http:") && !html.contains("https:") && !html.contains("{{"), "it needs something else");
        let data = html.split("type=\"application/json\">").nth(1).unwrap().split("</script>").next().unwrap();
        let data: serde_json::Value = serde_json::from_str(data).unwrap();
        assert_eq!(data["title"], title);
        for (rank, programs) in data["ranks"].as_array().unwrap().iter().zip(layout.programs()) {
            let names =
                rank["spans"].as_array().unwrap().iter().map(|span| &data["names"][span[3].as_u64().unwrap() as usize]);
            let names: Vec<&str> = names.map(|name| name.as_str().unwrap()).collect();
            let actions: Vec<String> = programs.programs[0].actions.iter().map(|a| a.show(&layout.plan())).collect();
            assert_eq!(names, actions);
        }
    }
}

/// Tags are closed in the order in which they were opened. What a script or a style says is not markup.
fn well_formed(html: &str) {
    let mut open: Vec<&str> = vec![];
    let mut rest = html;
    while let Some(at) = rest.find('<') {
        let (tag, after) = rest[at + 1..].split_once('>').expect("a tag ends");
        rest = after;
        let name = tag.trim_start_matches('/').split([' ', '/']).next().unwrap();
        match tag {
            _ if tag.starts_with('!') || tag.ends_with('/') => {}
            _ if tag.starts_with('/') => assert_eq!(open.pop(), Some(name)),
            _ => open.push(name),
        }
        if !tag.starts_with('/') && ["script", "style"].contains(&name) {
            rest = &rest[rest.find(&format!("</{name}>")).expect("it is closed")..];
        }
    }
    assert!(open.is_empty(), "{open:?} are not closed");
}

#[test]
fn a_measured_trace_is_a_timeline() {
    let lane = |tid, name: &str| {
        format!(r#"{{"name":"thread_name","ph":"M","pid":0,"tid":{tid},"args":{{"name":"{name}"}}}}"#)
    };
    let span = |name: &str, tid, ts, dur| {
        format!(r#"{{"name":"{name}","cat":"c","ph":"X","pid":0,"tid":{tid},"ts":{ts},"dur":{dur}}}"#)
    };
    let events = [
        lane(0, "compute"),
        lane(3, "gather"),
        span("begin", 0, 100, 10),
        span("gather a", 3, 110, 20),
        span("step a", 0, 120, 20),
    ];
    let timeline = trace::read(&format!(r#"{{"traceEvents":[{}]}}"#, events.join(","))).unwrap();
    assert_eq!(timeline.lanes, ["compute", "gather"]);
    let [rank] = &timeline.ranks[..] else { panic!("one rank") };
    assert_eq!(
        rank.spans.iter().map(|s| (s.name.as_str(), s.lane)).collect::<Vec<_>>(),
        [("begin", 0), ("gather a", 1), ("step a", 0)]
    );
    let micros = [timeline.step, rank.busy, rank.exposed, rank.idle].map(|s| (s * 1e6).round());
    assert_eq!(micros, [40.0, 30.0, 10.0, 0.0]);
    assert_eq!(trace::read("{\"traceEvents\":[]}").unwrap_err(), "has no lane named compute");
    assert!(trace::read("{}").unwrap_err().starts_with("is no trace"));
}
