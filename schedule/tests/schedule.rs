//! Programs of many layouts: printed, read back, proved, and refused when an action is dropped, doubled or swapped.
use backend::{DType, Heads};
use expect_test::{Expect, expect};
use model::{Decoder, Phase, Unit};
use plan::{Mesh, ParallelConfig, PipelineConfig, PipelineSchedule, Plan, RankId, Recompute, Selective, StepShape};
use schedule::{Action, Program, RankPrograms, lower, passes, pipeline, text, validate::check_world};

fn plan(data: usize, pipeline: usize, leaves: usize, tied: bool) -> Plan {
    let heads = Heads { n: 2, kv: 1, dim: 2 };
    let model = Decoder { tied, max_positions: 8, ..Decoder::llama(11, 4, 4, heads, 6) };
    let mesh = Mesh { data, pipeline, zero: data, ..Mesh::SOLO };
    Plan::new(model, mesh, DType::F32, 8, leaves)
}

fn shape(micros: usize) -> StepShape {
    StepShape { phase: Phase::Train, t: 8, micros }
}

fn actions(p: &Plan, s: StepShape, policy: PipelineSchedule) -> Vec<Vec<Action>> {
    p.mesh.ranks().map(|r| lower(p, r, s, policy)).collect()
}

fn prove(p: &Plan, s: StepShape, actions: &[Vec<Action>]) -> Result<(), String> {
    let program = |(r, a): (usize, &Vec<Action>)| {
        RankPrograms::from_actions(p, RankId(r), vec![(s, a.clone())]).map(|mut p| p.programs.remove(0))
    };
    let programs: Vec<Program> = actions.iter().enumerate().map(program).collect::<Result<_, _>>()?;
    check_world(p, &programs)
}

/// (data, ranks of a sharding group, pipeline, micro-batches a rank, leaves, tied)
const LAYOUTS: [(usize, usize, usize, usize, usize, bool); 22] = [
    (1, 1, 1, 1, 0, false),
    (1, 1, 1, 4, 0, true),
    (1, 1, 1, 8, 8, false),
    (1, 1, 1, 8, 4, true),
    (2, 2, 1, 1, 0, false),
    (2, 2, 1, 4, 8, false),
    (2, 2, 1, 4, 4, true),
    (4, 4, 1, 2, 4, false),
    (1, 1, 2, 1, 0, false),
    (1, 1, 2, 5, 0, false),
    (1, 1, 4, 2, 0, false),
    (1, 1, 3, 4, 4, false),
    (2, 2, 2, 4, 8, false),
    (3, 3, 2, 2, 0, false),
    (2, 1, 1, 2, 0, false),
    (4, 2, 1, 2, 4, true),
    (4, 1, 2, 2, 0, false),
    (4, 2, 2, 3, 0, false),
    (6, 3, 1, 1, 0, false),
    (1, 1, 2, 3, 0, true),
    (2, 2, 3, 4, 8, true),
    (4, 2, 2, 2, 0, true),
];

/// Each of them keeping everything, and recomputing in every way.
fn layouts() -> impl Iterator<Item = (Plan, StepShape)> {
    let ways =
        [Recompute::NONE, Recompute::Layers(0.5), Recompute::Layers(1.0), Recompute::Named(Selective::Selective)];
    LAYOUTS.into_iter().flat_map(move |(data, zero, stages, micros, leaves, tied)| {
        ways.map(|recompute| {
            let mut p = plan(data, stages, leaves, tied);
            p.mesh.zero = zero;
            p.recompute = recompute;
            (p, shape(micros))
        })
    })
}

/// Cut models, weight groups, ZeRO stages and zero-bubble schedules: what follows each comma is a key of `[parallel]`.
const MORE: [(usize, &str, usize); 21] = [
    (2, "tensor.size = 2", 2),
    (2, "tensor.size = 2, tensor.mode = 'msp'", 2),
    (8, "tensor.size = 2, tensor.mode = 'fsp', pipeline.size = 2", 2),
    (4, "tensor.size = 4, tensor.mode = 'mtp'", 1),
    (2, "tensor.size = 2, tensor.mode = 'isp', weight.size = 2", 2),
    (4, "tensor.size = 2, tensor.mode = 'isp', weight.size = 4", 1),
    (4, "tensor.size = 4, tensor.mode = 'isp', weight.size = 2, zero.size = 1", 2),
    (8, "tensor.size = 2, tensor.mode = 'isp', weight.size = 2, pipeline.size = 2", 2),
    (2, "tensor.mode = 'isp', weight.size = 2, zero.stage = 0", 2),
    (2, "zero.stage = 2", 2),
    (2, "zero.stage = 3", 2),
    (4, "zero.stage = 2, zero.size = 2", 2),
    (4, "zero.stage = 3, zero.size = 2, pipeline.size = 1", 3),
    (4, "zero.stage = 3, pipeline.size = 2", 2),
    (4, "zero.stage = 3, tensor.size = 2, tensor.mode = 'msp'", 2),
    (3, "pipeline.size = 3, pipeline.schedule = 'zb-h1'", 4),
    (2, "pipeline.size = 2, pipeline.schedule = 'zbv'", 3),
    (4, "pipeline.size = 2, pipeline.schedule = 'zbv', zero.stage = 3", 3),
    (4, "pipeline.size = 2, pipeline.schedule = 'zb-h1', zero.stage = 2", 2),
    (4, "pipeline.size = 2, pipeline.schedule = 'zbv', tensor.size = 2, tensor.mode = 'fsp'", 2),
    (4, "pipeline.size = 2, pipeline.schedule = 'interleaved', pipeline.chunks = 2, zero.stage = 3", 2),
];

fn more() -> impl Iterator<Item = (Plan, StepShape, PipelineSchedule)> {
    let ways = [(Recompute::NONE, false), (Recompute::NONE, true), (Recompute::Layers(0.5), false)];
    MORE.into_iter().flat_map(move |(ranks, keys, micros)| {
        let parallel: ParallelConfig = toml::from_str(&keys.replace(", ", "\n")).unwrap();
        let policy = parallel.pipeline.schedule;
        let mesh = parallel.mesh(ranks).unwrap();
        ways.map(|(recompute, tied)| {
            let heads = Heads { n: 4, kv: 2, dim: 2 };
            let model = Decoder { tied, max_positions: 8, ..Decoder::llama(11, 4, 4, heads, 8) };
            let mut p = Plan::new(model, mesh, DType::F32, 8, 0);
            (p.recompute, p.split_backward) = (recompute, policy.splits_backward());
            (p, shape(micros), policy)
        })
    })
}

fn all_layouts() -> impl Iterator<Item = (Plan, StepShape, PipelineSchedule)> {
    layouts().map(|(p, s)| (p, s, PipelineSchedule::OneFOneB)).chain(more())
}

/// As many places at a time as there are cores.
fn for_each(
    layouts: impl Iterator<Item = (Plan, StepShape, PipelineSchedule)>,
    check: impl Fn(&Plan, StepShape, PipelineSchedule) + Sync,
) {
    let layouts: Vec<_> = layouts.collect();
    let next = std::sync::atomic::AtomicUsize::new(0);
    std::thread::scope(|scope| {
        for _ in 0..std::thread::available_parallelism().map_or(1, |n| n.get()) {
            scope.spawn(|| {
                while let Some((p, s, policy)) = layouts.get(next.fetch_add(1, std::sync::atomic::Ordering::Relaxed)) {
                    check(p, *s, *policy);
                }
            });
        }
    });
}

#[test]
fn what_more_is_lowered_is_valid() {
    for_each(more(), |p, s, policy| {
        for s in [s, StepShape { phase: Phase::Eval, ..s }] {
            let all = actions(p, s, policy);
            prove(p, s, &all).unwrap_or_else(|e| panic!("{} {policy:?} {s:?} {:?}: {e}", p.mesh, p.recompute));
            assert_eq!(text::parse(&text::print(p, &all), p).unwrap(), all, "printed and read back");
            let poisoned: Vec<_> = all.iter().map(|a| passes::poison(p, s, a)).collect();
            prove(p, s, &poisoned).unwrap();
        }
    });
}

/// At no time are more than two blocks whole, whatever the schedule.
#[test]
fn at_most_two_blocks_are_whole() {
    let mut seen = 0;
    for (p, s, policy) in more().filter(|(p, ..)| p.unshards(Unit(1))) {
        for rank in p.mesh.ranks() {
            let program = RankPrograms::new(&p, rank, &[s], policy).programs.remove(0);
            let bytes = |unit: Unit| p.bucket(unit).padded * 4;
            let blocks = p.model.unit_range().filter(|u| !p.is_end(*u)).map(bytes).max().unwrap();
            let (mut whole, mut last): (Vec<Unit>, _) = (vec![], 0);
            for (i, action) in program.actions.iter().enumerate() {
                if let Action::Unshard { u, .. } = action {
                    whole.push(*u);
                }
                // Those that are still read.
                let read_later = |u: &Unit| {
                    let mut later = program.actions[i..].iter();
                    later.find_map(|a| match a {
                        Action::Unshard { u: v, .. } if v == u && a != action => Some(false),
                        a => a.touch(&p, s).reads.contains(&plan::Res::Unsharded(*u)).then_some(true),
                    }) == Some(true)
                };
                whole.retain(read_later);
                whole.sort();
                whole.dedup();
                let halves = whole.iter().filter(|u| !p.is_end(**u)).count();
                assert!(halves <= 4, "{} {action:?}: {whole:?} of {blocks} bytes", p.mesh);
                last = last.max(halves);
            }
            seen += last;
        }
    }
    assert!(seen > 20, "something is whole now and then");
}

/// Any number of micro-batches passes any V and any delayed second half.
#[test]
fn zero_bubble_pipelines_are_valid() {
    let heads = Heads { n: 2, kv: 1, dim: 2 };
    for (size, policy) in (2..=6).flat_map(|size| [(size, PipelineSchedule::ZbH1), (size, PipelineSchedule::Zbv)]) {
        let config = PipelineConfig { size, schedule: policy, ..Default::default() };
        let mesh = ParallelConfig { pipeline: config, ..Default::default() }.mesh(size).unwrap();
        for (micros, tied) in (1..=16).map(|m| (m, m % 2 == 0)) {
            let model = Decoder { tied, max_positions: 8, ..Decoder::llama(11, 4, 2 * size + 1, heads, 6) };
            let mut p = Plan::new(model, mesh, DType::F32, 8, 0);
            p.split_backward = true;
            for phase in [Phase::Train, Phase::Eval] {
                let s = StepShape { phase, ..shape(micros) };
                prove(&p, s, &actions(&p, s, policy)).unwrap_or_else(|e| panic!("{policy:?} {size}, {micros}: {e}"));
            }
        }
    }
}

#[test]
fn what_is_lowered_is_valid() {
    for (p, s) in layouts() {
        for policy in [PipelineSchedule::GPipe, PipelineSchedule::OneFOneB] {
            let all = actions(&p, s, policy);
            prove(&p, s, &all).unwrap_or_else(|e| panic!("{:?} {s:?} {:?}: {e}", p.mesh, p.recompute));
            assert_eq!(text::parse(&text::print(&p, &all), &p).unwrap(), all, "printed and read back");
            let poisoned: Vec<_> = all.iter().map(|a| passes::poison(&p, s, a)).collect();
            prove(&p, s, &poisoned).unwrap();
            assert_eq!(text::parse(&text::print(&p, &poisoned), &p).unwrap(), poisoned);
            let eval = StepShape { phase: Phase::Eval, ..s };
            prove(&p, eval, &actions(&p, eval, policy)).unwrap();
        }
    }
    let p = plan(1, 1, 0, true);
    for phase in [Phase::Prefill, Phase::Decode] {
        let s = StepShape { phase, t: 3, micros: 1 };
        prove(&p, s, &actions(&p, s, PipelineSchedule::OneFOneB)).unwrap();
    }
}

/// One rank of each stage stands for all of them: what the proof says of those is what it says of the world. Each action
/// is swapped with the next of its lane on all ranks of a stage, as far as each rank alone accepts it.
#[test]
fn a_rank_of_each_stage_stands_for_the_others() {
    let (mut fine, mut refused) = (0, 0);
    for (p, s) in layouts().filter(|(p, _)| p.mesh.data > 1) {
        for place in 0..p.mesh.pipeline {
            let lowered = lower(&p, p.mesh.first(place), s, PipelineSchedule::OneFOneB);
            for i in 0..lowered.len() {
                let same_lane = |a: &Action| a.lane(&p) == lowered[i].lane(&p);
                let Some(next) = lowered[i + 1..].iter().position(same_lane) else { continue };
                let actions = |rank: RankId| {
                    let mut actions = lower(&p, rank, s, PipelineSchedule::OneFOneB);
                    if p.mesh.place(rank) == place {
                        actions.swap(i, i + 1 + next);
                    }
                    RankPrograms::from_actions(&p, rank, vec![(s, actions)]).map(|mut of| of.programs.remove(0))
                };
                let Ok(all) = p.mesh.ranks().map(actions).collect::<Result<Vec<_>, _>>() else { continue };
                let firsts: Vec<Program> = all.iter().filter(|of| p.mesh.replica(of.rank) == 0).cloned().collect();
                let (all, firsts) = (check_world(&p, &all), check_world(&p, &firsts));
                assert_eq!(all.is_ok(), firsts.is_ok(), "{:?} {i}: {all:?}, {firsts:?}", p.mesh);
                *if all.is_ok() { &mut fine } else { &mut refused } += 1;
            }
        }
    }
    assert!(fine > 100 && refused > 10, "{fine} fine, {refused} refused");
}

/// Every action of a step matters: leaving it out is refused by its name or that of the action that misses it.
#[test]
fn a_dropped_action_is_refused_by_name() {
    for_each(all_layouts(), |p, s, policy| {
        let all = actions(p, s, policy);
        for (rank, program) in all.iter().enumerate() {
            for i in 0..program.len() {
                let mut bad = all.clone();
                let dropped = bad[rank].remove(i).show(p);
                let error = prove(p, s, &bad).expect_err(&format!("without `{dropped}`"));
                assert!(error.contains(&format!("rank {rank}")), "{error}");
            }
        }
    });
}

#[test]
fn a_doubled_action_is_refused_by_name() {
    for_each(all_layouts(), |p, s, policy| {
        let all = actions(p, s, policy);
        for (rank, program) in all.iter().enumerate() {
            for i in 0..program.len() {
                let mut bad = all.clone();
                bad[rank].insert(i + 1, program[i]);
                let error = prove(p, s, &bad).expect_err(&format!("`{}` twice", program[i].show(p)));
                assert!(error.contains(&format!("rank {rank}, action {}", i + 1)), "{error}");
            }
        }
    });
}

/// One edit, one message.
#[test]
fn faults_are_named() {
    let p = plan(2, 2, 0, false);
    let s = shape(2);
    let all = actions(&p, s, PipelineSchedule::OneFOneB);
    let check = |rank: usize, edit: &dyn Fn(&mut Vec<Action>), want: Expect| {
        let mut bad = all.clone();
        edit(&mut bad[rank]);
        want.assert_eq(&prove(&p, s, &bad).unwrap_err());
    };
    let find = |program: &[Action], line: &str| {
        program.iter().position(|a| a.show(&p) == line).unwrap_or_else(|| panic!("no `{line}`"))
    };
    let drop = |line: &'static str| {
        move |a: &mut Vec<Action>| {
            let at = find(a, line);
            a.remove(at);
        }
    };
    let swap = |x: &'static str, y: &'static str| {
        move |a: &mut Vec<Action>| {
            let (i, j) = (find(a, x), find(a, y));
            a.swap(i, j);
        }
    };
    check(
        0,
        &drop("reduce attn.1"),
        expect!["rank 0, action 35 (`sum_squares attn.1`): `reduce attn.1` is missing before it"],
    );
    check(
        0,
        &drop("forward mlp.0 1"),
        expect!["rank 0, action 13 (`forward attn.1 1`): `forward mlp.0 1` is missing before it"],
    );
    check(
        0,
        &drop("send x mlp.1 0 to 1"),
        expect![[r#"rank 0, end of the program: `send x mlp.1 0 to 1` is missing"#]],
    );
    check(2, &drop("grad_norm"), expect!["rank 2, action 39 (`step attn.2`): `grad_norm` is missing before it"]);
    check(
        1,
        &swap("reduce attn.1", "reduce mlp.1"),
        expect!["rank 1, action 24 (`reduce attn.1`): `backward attn.1 1` is missing before it"],
    );
    check(
        1,
        &swap("gather attn.1", "gather mlp.1"),
        expect!["rank 1, action 47 (`gather mlp.1`): `step mlp.1` is missing before it"],
    );
    check(
        3,
        &swap("backward head 0 -> grad 0", "backward head 1 +> grad 0"),
        expect!["rank 3, action 11 (`backward head 1 +> grad 0`): `forward head 1` is missing before it"],
    );
}

/// Two orders that each rank alone could accept, but not together.
#[test]
fn orders_that_do_not_meet_are_refused() {
    let p = plan(2, 1, 0, false);
    let s = shape(1);
    let mut all = actions(&p, s, PipelineSchedule::OneFOneB);
    // Both gathers after both steps on rank 1, in the other order.
    let show = |a: &Action| a.show(&p);
    let at = |lines: &[Action], line: &str| lines.iter().position(|a| show(a) == line).unwrap();
    let gather = at(&all[1], "gather embed");
    let action = all[1].remove(gather);
    let behind = at(&all[1], "gather attn.0");
    all[1].insert(behind + 1, action);
    let error = prove(&p, s, &all).unwrap_err();
    expect!["order: on the Gather lane rank 0 comes to `gather embed` while rank 1 comes to `gather attn.0`"]
        .assert_eq(&error);
}

#[test]
fn pipeline_orders() {
    let chunked = |policy, stages, chunks, micros, want: Expect| {
        let mesh = Mesh { pipeline: stages, chunks, ..Mesh::SOLO };
        let line = |rank| {
            let passes = pipeline::order(policy, mesh, rank, micros);
            passes.iter().map(|a| a.to_string()).collect::<Vec<_>>().join(" ")
        };
        want.assert_eq(&mesh.ranks().map(line).collect::<Vec<_>>().join("\n"));
    };
    let check = |policy, stages, micros, want| chunked(policy, stages, 1, micros, want);
    check(
        PipelineSchedule::OneFOneB,
        3,
        4,
        expect![[r#"
        0F0 0F1 0F2 0B0 0F3 0B1 0B2 0B3
        1F0 1F1 1B0 1F2 1B1 1F3 1B2 1B3
        2F0 2B0 2F1 2B1 2F2 2B2 2F3 2B3"#]],
    );
    check(
        PipelineSchedule::OneFOneB,
        3,
        1,
        expect![[r#"
        0F0 0B0
        1F0 1B0
        2F0 2B0"#]],
    );
    // As PyTorch's ScheduleInterleaved1F1B.
    chunked(
        PipelineSchedule::Interleaved,
        2,
        2,
        4,
        expect![[r#"
        0F0 0F1 2F0 2F1 0F2 2B0 0F3 2B1 2F2 0B0 2F3 0B1 2B2 2B3 0B2 0B3
        1F0 1F1 3F0 3B0 3F1 3B1 1F2 1B0 1F3 1B1 3F2 3B2 3F3 3B3 1B2 1B3"#]],
    );
    check(
        PipelineSchedule::GPipe,
        2,
        3,
        expect![[r#"
        0F0 0F1 0F2 0B0 0B1 0B2
        1F0 1F1 1F2 1B0 1B1 1B2"#]],
    );
}

/// Any number of stages, chunks and micro-batches is proved, in training and in evaluation.
#[test]
fn interleaved_pipelines_are_valid() {
    let heads = Heads { n: 2, kv: 1, dim: 2 };
    for (stages, chunks) in
        [(2, 2), (2, 3), (3, 2), (4, 2), (4, 3), (3, 4), (2, 5), (5, 2), (5, 3), (6, 2), (6, 3), (7, 2), (8, 2), (8, 4)]
    {
        for (micros, tied) in (1..=21).map(|m| (m, m % 2 == 0)) {
            let model = Decoder { tied, max_positions: 8, ..Decoder::llama(11, 4, stages * chunks + 1, heads, 6) };
            let mesh = Mesh { pipeline: stages, chunks, ..Mesh::SOLO };
            let p = Plan::new(model, mesh, DType::F32, 8, 0);
            for phase in [Phase::Train, Phase::Eval] {
                let s = StepShape { phase, ..shape(micros) };
                let all = actions(&p, s, PipelineSchedule::Interleaved);
                prove(&p, s, &all).unwrap_or_else(|e| panic!("{stages} x {chunks}, {micros}, {phase:?}: {e}"));
                assert_eq!(text::parse(&text::print(&p, &all), &p).unwrap(), all, "printed and read back");
            }
        }
    }
}

/// The program a newcomer sees first.
#[test]
fn a_small_program_reads_like_this() {
    let mut p = plan(2, 1, 0, false);
    p.model.layers = 1;
    let p = Plan::new(p.model, p.mesh, p.dtype, p.positions, p.leaves);
    let all = actions(&p, shape(2), PipelineSchedule::OneFOneB);
    assert_eq!(all[0], all[1], "ranks of a data-parallel group have equal programs");
    expect![[r#"
        begin
        load 0
        load 1
        reduce_count
        forward embed 0
        forward attn.0 0
        forward mlp.0 0
        forward head 0
        backward head 0 -> grad 0
        backward mlp.0 0 -> grad 0
        backward attn.0 0 -> grad 0
        backward embed 0 -> grad 0
        forward embed 1
        forward attn.0 1
        forward mlp.0 1
        forward head 1
        backward head 1 +> grad 0
        reduce head
        backward mlp.0 1 +> grad 0
        reduce mlp.0
        backward attn.0 1 +> grad 0
        reduce attn.0
        backward embed 1 +> grad 0
        reduce embed
        sum_squares embed
        sum_squares attn.0
        sum_squares mlp.0
        sum_squares head
        reduce_stats
        grad_norm
        step embed
        gather embed
        step attn.0
        gather attn.0
        step mlp.0
        gather mlp.0
        step head
        gather head"#]]
    .assert_eq(&all[0].iter().map(|a| a.show(&p)).collect::<Vec<_>>().join("\n"));
}

#[test]
fn bad_text_is_refused_with_its_line() {
    let p = plan(1, 1, 0, false);
    let check = |text: &str, want: Expect| want.assert_eq(&text::parse(text, &p).unwrap_err());
    check("begin", expect!["line 1: an action before the first `rank 0`"]);
    check("rank 1", expect!["line 1: `rank 1`: ranks come in order; expected `rank 0`"]);
    check(
        "rank 0\nforward attn.9 0",
        expect!["line 2: `attn.9` is not a unit of this model; units: embed, attn.N, mlp.N (N below 4), head"],
    );
    check(
        "rank 0\n# well\n\nforwards attn.1 0",
        expect!["line 4: `forwards attn.1 0` is not an action; `internevo schedule` prints the ones there are"],
    );
    check("rank 0\nload x", expect!["line 2: `x` is not a number"]);
    check("rank 0\nmerge embed 0", expect!["line 2: place 0 cannot be merged: it holds the sum"]);
    check("rank 0\nbegin\nrank 1", expect!["the file has programs for 2 ranks, the run has 1"]);
}

/// The planner comes close to the bound that no plan can beat, and the depth of the pipeline bounds it, not the number of
/// micro-batches.
#[test]
fn planned_memory_is_tight() {
    let act = |stages: usize, micros: usize, policy| {
        let p = plan(1, stages, 0, false);
        let programs = RankPrograms::new(&p, RankId(0), &[shape(micros)], policy);
        let m = &programs.programs[0].memory;
        assert!(m.act as f64 <= 1.1 * m.live as f64, "{} bytes for {} alive", m.act, m.live);
        m.act
    };
    let slack = 16 * 64; // the inputs of a micro-batch are loaded at the start
    assert!(act(1, 16, PipelineSchedule::OneFOneB) < act(1, 1, PipelineSchedule::OneFOneB) + 16 * slack);
    assert!(act(2, 16, PipelineSchedule::OneFOneB) < act(2, 16, PipelineSchedule::GPipe) / 3);
}
