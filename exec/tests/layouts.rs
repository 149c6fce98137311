//! The equivalence table: every layout against its twin, bit for bit, and what is not promised differs.
mod common;
use common::{Layout, ONE, init, slab, train, train_actions};
use exec::{Hyper, Lanes, Losses};
use model::Phase;
use plan::PipelineSchedule::{GPipe, OneFOneB, ZbH1, Zbv};
use plan::{Micro, StepShape};
use schedule::{Action, RankPrograms, validate};

const STEPS: u64 = 4;
const QUEUED: Lanes = Lanes::Queued { seed: 3 };

fn same(twin: &Layout, others: &[Layout]) {
    let want = train(twin, STEPS);
    for other in others {
        assert_eq!(train(other, STEPS), want, "{other:?} against {twin:?}");
    }
}

#[test]
fn a_pipeline_equals_one_rank() {
    same(
        &ONE,
        &[
            Layout { pipeline: 2, ..ONE },
            Layout { pipeline: 2, lanes: QUEUED, ..ONE },
            Layout { pipeline: 3, policy: GPipe, ..ONE },
            Layout { pipeline: 3, policy: OneFOneB, lanes: QUEUED, ..ONE },
            Layout { threads: 2, ..ONE },
            Layout { lanes: QUEUED, ..ONE },
        ],
    );
}

#[test]
fn sharding_groups_of_any_size_equal_plain_data_parallelism() {
    let two = Layout { data: 2, ..ONE };
    same(
        &two,
        &[
            Layout { zero: 2, ..two },
            Layout { zero: 2, lanes: QUEUED, ..two },
            Layout { zero: 2, pipeline: 2, lanes: QUEUED, ..two },
            Layout { pipeline: 3, policy: GPipe, ..two },
        ],
    );
    let four = Layout { data: 4, ..ONE };
    same(
        &four,
        &[
            Layout { zero: 4, ..four },
            Layout { zero: 2, ..four },
            Layout { zero: 2, lanes: QUEUED, ..four },
            Layout { zero: 2, pipeline: 3, lanes: QUEUED, ..four },
        ],
    );
    let tied = Layout { tied: true, ..two };
    same(&tied, &[Layout { zero: 2, lanes: QUEUED, ..tied }]);
}

/// On the engine of processes: the sums are those of threads.
#[test]
fn processes_equal_threads() {
    let layout = Layout { data: 2, zero: 2, pipeline: 2, tied: true, ..ONE };
    let ring = Layout { policy: plan::PipelineSchedule::Interleaved, chunks: 2, layers: 7, ..layout };
    for twin in [layout, Layout { data: 4, zero: 2, pipeline: 1, ..layout }, ring] {
        same(&twin, &[Layout { shared: true, ..twin }, Layout { shared: true, lanes: QUEUED, ..twin }]);
    }
    let half = Layout { dtype: backend::DType::BF16, ..layout };
    same(&half, &[Layout { shared: true, ..half }]);
}

/// A rank with several stages computes the same.
#[test]
fn interleaved_pipelines_equal_one_rank() {
    let one = Layout { layers: 7, ..ONE };
    let chunks = Layout { policy: plan::PipelineSchedule::Interleaved, pipeline: 2, chunks: 2, ..one };
    same(
        &one,
        &[
            chunks,
            Layout { lanes: QUEUED, ..chunks },
            Layout { chunks: 3, lanes: QUEUED, ..chunks },
            Layout { pipeline: 3, lanes: QUEUED, ..chunks },
        ],
    );
    let tree = Layout { leaves: 4, ..one };
    same(
        &tree,
        &[
            Layout { leaves: 4, data: 2, zero: 2, lanes: QUEUED, ..chunks },
            Layout { leaves: 4, data: 4, zero: 2, ..chunks },
        ],
    );
    let tied = Layout { tied: true, pipeline: 2, ..one };
    same(&tied, &[Layout { tied: true, lanes: QUEUED, ..chunks }]);
}

/// A backward in two halves, whenever the second one comes, computes the same.
#[test]
fn zero_bubble_pipelines_equal_one_rank() {
    let one = Layout { layers: 7, ..ONE };
    let h1 = Layout { policy: ZbH1, pipeline: 3, ..one };
    let v = Layout { policy: Zbv, pipeline: 2, chunks: 2, ..one };
    same(
        &one,
        &[
            h1,
            Layout { pipeline: 2, lanes: QUEUED, ..h1 },
            Layout { recompute: plan::Recompute::Layers(0.5), lanes: QUEUED, ..h1 },
            v,
            Layout { pipeline: 3, lanes: QUEUED, ..v },
            Layout { recompute: plan::Recompute::Layers(1.0), ..v },
        ],
    );
    let tree = Layout { leaves: 8, ..one };
    same(
        &tree,
        &[
            Layout { leaves: 8, data: 2, zero: 2, lanes: QUEUED, ..v },
            Layout { leaves: 8, data: 2, zero: 2, stage: 3, ..v },
            Layout { leaves: 8, data: 2, zero: 2, stage: 2, lanes: QUEUED, ..h1 },
        ],
    );
    let tied = Layout { tied: true, pipeline: 2, ..one };
    same(&tied, &[Layout { tied: true, lanes: QUEUED, ..h1 }]);
    // The first rank of a V has both ends, and adds up their gradients as they come.
    let tied = [Layout { tied: true, ..one }, Layout { tied: true, lanes: QUEUED, ..v }].map(|l| train(&l, STEPS));
    let near = |a: &f64, b: &f64| ((a - b) / b).abs() < 2e-6;
    assert!(tied[0].losses.iter().zip(&tied[1].losses).all(|(a, b)| near(a, b)));
}

/// Both ends of a pipeline hold tied embeddings: one sum more, the same in every pipeline, near that of one rank.
#[test]
fn tied_embeddings_across_stages() {
    let pipeline = Layout { pipeline: 2, tied: true, ..ONE };
    same(
        &pipeline,
        &[
            Layout { pipeline: 3, ..pipeline },
            Layout { pipeline: 3, policy: GPipe, lanes: QUEUED, ..pipeline },
            Layout { lanes: QUEUED, threads: 2, ..pipeline },
        ],
    );
    let data = Layout { data: 4, ..pipeline };
    same(
        &data,
        &[
            Layout { zero: 4, ..data },
            Layout { zero: 2, lanes: QUEUED, ..data },
            Layout { zero: 2, pipeline: 3, policy: GPipe, ..data },
        ],
    );
    let (one, two) = (train(&Layout { tied: true, ..ONE }, STEPS), train(&pipeline, STEPS));
    let near = |a: &f64, b: &f64| ((a - b) / b).abs() < 2e-6;
    assert!(one.losses.iter().zip(&two.losses).all(|(a, b)| near(a, b)), "{:?} {:?}", one.losses, two.losses);
    assert!(one.norms.iter().zip(&two.norms).all(|(a, b)| near(a, b)), "{:?} {:?}", one.norms, two.norms);
}

/// `reproducible = N`: every data-parallel size dividing N and every pipeline give the bits of one rank.
#[test]
fn reproducible_runs_equal_one_rank() {
    for leaves in [8, 4, 2] {
        let one = Layout { leaves, ..ONE };
        let mut others = vec![Layout { pipeline: 2, ..one }, Layout { lanes: QUEUED, ..one }];
        for data in [2, 4, 8].into_iter().filter(|d| leaves % d == 0) {
            for zero in [1, 2, 4, 8].into_iter().filter(|zero| data % zero == 0) {
                others.push(Layout { data, zero, ..one });
            }
        }
        others.push(Layout { data: 2, zero: 2, pipeline: 2, lanes: QUEUED, ..one });
        if leaves >= 4 {
            others.push(Layout { data: 4, zero: 2, pipeline: 2, lanes: QUEUED, ..one });
        }
        same(&one, &others);
    }
    let tied = Layout { leaves: 8, tied: true, ..ONE };
    same(&tied, &[Layout { data: 4, zero: 4, ..tied }]);
}

/// The table can fail: other orders of the same sums give other bits, and nothing else does.
#[test]
fn other_orders_give_other_bits() {
    let (one, tree, two) =
        (train(&ONE, 1), train(&Layout { leaves: 8, ..ONE }, 1), train(&Layout { data: 2, ..ONE }, 1));
    assert_ne!(one.state, tree.state);
    assert_ne!(one.state, two.state);
    assert_eq!(one.losses, tree.losses, "the first loss is before any sum of gradients");
    let near = |a: f64, b: f64| ((a - b) / b).abs() < 1e-6;
    assert!(near(one.norms[0], tree.norms[0]) && near(one.norms[0], two.norms[0]));
}

#[test]
fn evaluation_equals_one_rank() {
    let evaluate = |layout: Layout| {
        let plan = layout.plan();
        let shape = StepShape { phase: Phase::Eval, ..layout.shape() };
        let programs = plan.mesh.ranks().map(|r| RankPrograms::new(&plan, r, &[shape], layout.policy)).collect();
        let losses = layout.world().launch(programs, |rank| {
            init(rank);
            let id = rank.id;
            let batch = &mut |m: Micro| slab(plan.global_micro(id, m, shape) as u64);
            // Twice: the second run begins while nothing of the first is forgotten.
            (0..2).for_each(|_| exec::run(rank, 0, Hyper { lr: 0.0, step: 1 }, batch).unwrap());
            Losses::sum(rank.eval_losses(0).unwrap())
        });
        assert!(losses.iter().all(|l| *l == losses[0]), "{losses:?}");
        losses[0].clone()
    };
    let one = evaluate(ONE);
    assert!(one.all.tokens > 100.0 && one.all.mean() > 3.0);
    for (data, pipeline, lanes) in [(2, 1, Lanes::Direct), (1, 3, QUEUED), (2, 2, QUEUED), (8, 1, QUEUED)] {
        assert_eq!(evaluate(Layout { data, pipeline, lanes, ..ONE }), one);
    }
    let ring =
        Layout { layers: 5, pipeline: 2, chunks: 2, policy: plan::PipelineSchedule::Interleaved, lanes: QUEUED, ..ONE };
    for tied in [false, true] {
        let one = evaluate(Layout { layers: 5, tied, ..ONE });
        assert_eq!(evaluate(Layout { tied, ..ring }), one);
        assert_eq!(evaluate(Layout { tied, data: 2, zero: 2, ..ring }), one);
    }
}

#[test]
fn losses_fall() {
    let out = train(&Layout { data: 2, zero: 2, pipeline: 2, ..ONE }, 60);
    assert!(out.losses[59] < out.losses[0] - 1.5, "{} -> {}", out.losses[0], out.losses[59]);
}

/// Swapping neighbours at random: whatever the validator lets through gives the same bits, on lanes with random delays.
#[test]
fn a_legal_reordering_gives_the_same_bits() {
    let layout = Layout { data: 2, zero: 2, pipeline: 2, leaves: 4, micros: 8, lanes: QUEUED, ..ONE };
    let (plan, actions) = (layout.plan(), layout.actions());
    let want = train(&layout, 2);
    let legal = |actions: &[Vec<Action>]| {
        let programs = plan.mesh.ranks().zip(actions).map(|(r, a)| {
            RankPrograms::from_actions(&plan, r, vec![(layout.shape(), a.clone())]).map(|mut p| p.programs.remove(0))
        });
        programs.collect::<Result<Vec<_>, _>>().is_ok_and(|p| validate::check_world(&plan, &p).is_ok())
    };
    let mut x = 88172645463325252u64;
    let mut draw = |n: usize| {
        x ^= x << 13;
        x ^= x >> 7;
        x ^= x << 17;
        x as usize % n
    };
    let (mut refused, mut taken) = (0, 0);
    let mut edited = actions;
    for _ in 0..200 {
        let rank = draw(edited.len());
        let at = draw(edited[rank].len() - 1);
        edited[rank].swap(at, at + 1);
        if legal(&edited) {
            taken += 1;
        } else {
            edited[rank].swap(at, at + 1);
            refused += 1;
        }
    }
    assert!(taken > 20 && refused > 20, "{taken} taken, {refused} refused");
    assert_eq!(train_actions(&layout, &edited, 2), want);
}
