//! Pipeline policies as they are published, on a clock: every pass takes its time, and what travels arrives at once.
use expect_test::{Expect, expect};
use plan::{Mesh, Micro, PipelineSchedule, Placement, Stage};
use schedule::pipeline::{self, Pass, StageAction, interleaved, zb_h1, zbv};
use std::collections::HashMap;

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Policy {
    GPipe,
    OneFOneB,
    Interleaved,
    ZbH1,
    Zbv,
}
use Policy::*;

/// A policy and its numbers.
#[derive(Clone, Copy, Debug)]
struct Case {
    policy: Policy,
    pipeline: usize,
    chunks: usize,
    micros: usize,
}

impl Case {
    fn orders(self) -> Vec<Vec<StageAction>> {
        let Case { policy, pipeline, chunks, micros } = self;
        let mesh = Mesh { pipeline, chunks, ..Mesh::SOLO };
        let of = |schedule, place| pipeline::order(schedule, mesh, mesh.first(place), micros);
        let rank = |place| match policy {
            GPipe => of(PipelineSchedule::GPipe, place),
            OneFOneB => of(PipelineSchedule::OneFOneB, place),
            Interleaved => of(PipelineSchedule::Interleaved, place),
            ZbH1 => zb_h1::order(place, pipeline, chunks, micros),
            Zbv => zbv::order(place, pipeline, micros),
        };
        (0..pipeline).map(rank).collect()
    }
    fn placement(self) -> Placement {
        if self.policy == Zbv { Placement::V } else { Placement::Loop }
    }
    fn run(self, cost: Cost) -> Outcome {
        run(&self.orders(), self.pipeline * self.chunks, cost).unwrap_or_else(|e| panic!("{self:?}: {e}"))
    }
}

/// Pipelines of up to 7 ranks, 4 stages a rank and 17 micro-batches, as far as a policy has them.
fn grid() -> impl Iterator<Item = Case> {
    let policies = [(GPipe, 1..2), (OneFOneB, 1..2), (Interleaved, 2..5), (ZbH1, 1..5), (Zbv, 2..3)];
    policies.into_iter().flat_map(|(policy, chunks)| {
        chunks.flat_map(move |chunks| {
            let case = move |pipeline, micros| Case { policy, pipeline, chunks, micros };
            (1..8).flat_map(move |pipeline| (1..18).map(move |micros| case(pipeline, micros)))
        })
    })
}

/// How long a stage's forward takes, and the two parts of its backward.
#[derive(Clone, Copy, PartialEq, Debug)]
struct Cost {
    f: usize,
    i: usize,
    w: usize,
}
const EVEN: Cost = Cost { f: 1, i: 1, w: 1 };

/// What the orders of all ranks come to.
struct Outcome {
    /// When the last pass ends; the first begins at 0.
    finish: usize,
    /// By rank: when its first pass begins and its last ends.
    span: Vec<[usize; 2]>,
    busy: Vec<usize>,
    /// By rank: forwards whose gradients are not all there, at most at once.
    in_flight: Vec<usize>,
}

impl Outcome {
    /// Between a rank's first pass and its last.
    fn waits(&self) -> Vec<usize> {
        self.span.iter().zip(&self.busy).map(|([begin, end], busy)| end - begin - busy).collect()
    }
    /// Of the step, on each rank.
    fn bubble(&self) -> Vec<usize> {
        self.busy.iter().map(|busy| self.finish - busy).collect()
    }
}

/// Runs all ranks. An error says which pass was done twice, or for which the ranks wait for ever.
fn run(orders: &[Vec<StageAction>], stages: usize, cost: Cost) -> Result<Outcome, String> {
    let ranks = orders.len();
    // When a forward, a first part and a second part end.
    let mut ended: HashMap<(Pass, usize, Micro), usize> = HashMap::new();
    let mut next = vec![0; ranks];
    let (mut clock, mut busy, mut kept, mut in_flight) =
        (vec![0; ranks], vec![0; ranks], vec![0; ranks], vec![0; ranks]);
    let mut begin = vec![None; ranks];
    loop {
        let mut moved = false;
        for rank in 0..ranks {
            while let Some(&StageAction { stage: Stage(s), pass, micro }) = orders[rank].get(next[rank]) {
                let forward = Some((Pass::Forward, s, micro));
                let (needs, parts, took) = match pass {
                    Pass::Forward => {
                        ([(s > 0).then(|| (Pass::Forward, s - 1, micro)), None], vec![Pass::Forward], cost.f)
                    }
                    Pass::Input | Pass::Backward => {
                        let parts = if pass == Pass::Input { vec![pass] } else { vec![Pass::Input, Pass::Weight] };
                        let took = if pass == Pass::Input { cost.i } else { cost.i + cost.w };
                        ([forward, (s + 1 < stages).then_some((Pass::Input, s + 1, micro))], parts, took)
                    }
                    Pass::Weight => ([Some((Pass::Input, s, micro)), None], vec![pass], cost.w),
                };
                let Some(ready) = needs.iter().flatten().try_fold(0, |t, need| Some(t.max(*ended.get(need)?))) else {
                    break;
                };
                let start = ready.max(clock[rank]);
                begin[rank].get_or_insert(start);
                clock[rank] = start + took;
                busy[rank] += took;
                match pass {
                    Pass::Forward => kept[rank] += 1,
                    Pass::Backward | Pass::Weight => kept[rank] -= 1,
                    Pass::Input => {}
                }
                in_flight[rank] = in_flight[rank].max(kept[rank]);
                for part in parts {
                    if ended.insert((part, s, micro), clock[rank]).is_some() {
                        return Err(format!("{} twice", StageAction { stage: Stage(s), pass: part, micro }));
                    }
                }
                next[rank] += 1;
                moved = true;
            }
        }
        if !moved {
            break;
        }
    }
    let stuck: Vec<String> = (0..ranks).filter_map(|r| Some(format!("{r} at {}", orders[r].get(next[r])?))).collect();
    if !stuck.is_empty() {
        return Err(format!("deadlock: {}", stuck.join(", ")));
    }
    let span = (0..ranks).map(|r| [begin[r].unwrap_or_default(), clock[r]]).collect();
    Ok(Outcome { finish: clock.iter().copied().max().unwrap_or(0), span, busy, in_flight })
}

/// On its rank, each exactly once, and no rank waits for ever.
#[test]
fn every_micro_batch_passes_every_stage_once_each_way() {
    for case in grid() {
        let (stages, splits) = (case.pipeline * case.chunks, matches!(case.policy, ZbH1 | Zbv));
        for (place, order) in case.orders().iter().enumerate() {
            let here = case.placement().stages(place, case.pipeline, case.chunks).collect::<Vec<_>>();
            let kinds = if splits {
                vec![Pass::Forward, Pass::Input, Pass::Weight]
            } else {
                vec![Pass::Forward, Pass::Backward]
            };
            assert_eq!(order.len(), here.len() * case.micros * kinds.len(), "{case:?}");
            assert!(
                order.iter().all(|a| here.contains(&a.stage) && kinds.contains(&a.pass) && a.micro.0 < case.micros)
            );
        }
        let outcome = case.run(EVEN);
        assert_eq!(outcome.busy.iter().sum::<usize>(), 3 * stages * case.micros, "{case:?}");
    }
}

/// What is left of a step when its work is taken away, on every rank. Times are those of one stage, of which a rank has
/// `chunks`.
#[test]
fn bubbles_are_the_published_ones() {
    let costs = [
        EVEN,
        Cost { f: 2, i: 2, w: 1 },
        Cost { f: 4, i: 5, w: 3 },
        Cost { f: 1, i: 3, w: 2 },
        Cost { f: 2, i: 2, w: 3 },
    ];
    for (case, cost) in grid().flat_map(|case| costs.map(|cost| (case, cost))) {
        let Case { policy, pipeline: p, micros: m, .. } = case;
        let Cost { f, i, w } = cost;
        let bubble = match policy {
            // Whatever the number of micro-batches.
            GPipe | OneFOneB => (p - 1) * (f + i + w),
            // Over `chunks` in units of a whole rank.
            Interleaved if m.is_multiple_of(p) => (p - 1) * (f + i + w),
            // The published one is of W <= F.
            ZbH1 if m >= p => (p - 1) * (f.max(w) + i - w),
            // Ranks begin one after the other, and all work without a pause from then on.
            Zbv if m + 1 >= 2 * p && cost == EVEN => (p - 1) * f,
            Interleaved | ZbH1 | Zbv => continue,
        };
        let outcome = case.run(cost);
        assert_eq!(outcome.bubble(), vec![bubble; p], "{case:?} {cost:?}");
        if policy == Zbv {
            assert_eq!(outcome.waits(), vec![0; p], "{case:?}");
        }
    }
}

/// Stages' worth of activations, kept until all gradients that need them are there.
#[test]
fn micro_batches_in_flight_are_bounded() {
    for case in grid() {
        let Case { policy, pipeline: p, chunks, micros: m } = case;
        let round = interleaved::round(p, m);
        let bound = |place: usize| match policy {
            GPipe => m,
            OneFOneB => p - place,
            Interleaved => (chunks - 1) * round + 2 * (p - 1 - place) + 1,
            // As 1F1B on its first rank.
            ZbH1 => (chunks - 1) * round + p,
            // The same in halves of a rank.
            Zbv => 2 * p,
        };
        let bounds: Vec<usize> = (0..p).map(|place| bound(place).min(chunks * m)).collect();
        let kept = case.run(EVEN).in_flight;
        match policy {
            // Too few micro-batches fill no V.
            Zbv if m < 2 * p => assert!(kept.iter().zip(&bounds).all(|(kept, bound)| kept <= bound), "{case:?}"),
            _ => assert_eq!(kept, bounds, "{case:?}"),
        }
    }
}

/// No policy that splits the backward takes longer than the same that does not.
#[test]
fn splitting_the_backward_costs_nothing() {
    for case in grid().filter(|case| case.policy == ZbH1) {
        let whole = Case { policy: if case.chunks == 1 { OneFOneB } else { Interleaved }, ..case };
        assert!(case.run(EVEN).finish <= whole.run(EVEN).finish, "{case:?}");
    }
}

#[test]
fn a_bad_order_is_refused() {
    let check = |edit: &dyn Fn(&mut Vec<StageAction>), want: Expect| {
        let mut orders = Case { policy: ZbH1, pipeline: 2, chunks: 1, micros: 2 }.orders();
        edit(&mut orders[0]);
        want.assert_eq(&run(&orders, 2, EVEN).err().unwrap_or_default());
    };
    check(&|_| (), expect![""]);
    check(&|order| order.swap(0, 2), expect!["deadlock: 0 at 0I0, 1 at 1F0"]);
    check(&|order| order[3] = order[2], expect!["0I0 twice"]);
}

/// As `cargo xtask schedules` finds them equal to PyTorch's, where PyTorch has them.
#[test]
fn orders_read_like_this() {
    let check = |policy, pipeline, chunks, micros, want: Expect| {
        let orders = Case { policy, pipeline, chunks, micros }.orders();
        let line = |rank: &Vec<StageAction>| rank.iter().map(|a| a.to_string()).collect::<Vec<_>>().join(" ");
        want.assert_eq(&orders.iter().map(line).collect::<Vec<_>>().join("\n"));
    };
    check(
        ZbH1,
        3,
        1,
        4,
        expect![[r#"
        0F0 0F1 0F2 0I0 0W0 0F3 0I1 0W1 0I2 0W2 0I3 0W3
        1F0 1F1 1I0 1F2 1I1 1W0 1F3 1I2 1W1 1I3 1W2 1W3
        2F0 2I0 2F1 2I1 2F2 2I2 2W0 2F3 2I3 2W1 2W2 2W3"#]],
    );
    // Fewer micro-batches than stages.
    check(
        ZbH1,
        3,
        1,
        1,
        expect![[r#"
        0F0 0I0 0W0
        1F0 1I0 1W0
        2F0 2I0 2W0"#]],
    );
    check(
        ZbH1,
        2,
        2,
        2,
        expect![[r#"
        0F0 0F1 2F0 2F1 2I0 2W0 2I1 2W1 0I0 0W0 0I1 0W1
        1F0 1F1 3F0 3I0 3F1 3I1 3W0 1I0 3W1 1I1 1W0 1W1"#]],
    );
    check(
        Zbv,
        2,
        2,
        4,
        expect![[r#"
        0F0 0F1 0F2 3F0 3I0 3W0 3F1 3I1 3W1 0F3 0I0 0W0 3F2 3I2 3W2 0I1 0W1 3F3 3I3 3W3 0I2 0W2 0I3 0W3
        1F0 2F0 1F1 2F1 2I0 2W0 1F2 1I0 1W0 2F2 2I1 2W1 1F3 1I1 1W1 2F3 2I2 2W2 1I2 2I3 1I3 1W2 2W3 1W3"#]],
    );
    check(
        Zbv,
        3,
        2,
        2,
        expect![[r#"
        0F0 0F1 5F0 5I0 5W0 5F1 5I1 5W1 0I0 0W0 0I1 0W1
        1F0 1F1 4F0 4F1 4I0 4W0 4I1 4W1 1I0 1W0 1I1 1W1
        2F0 3F0 2F1 3F1 3I0 3W0 2I0 2W0 3I1 3W1 2I1 2W1"#]],
    );
}
