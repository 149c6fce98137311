//! Activations that are made again instead of kept: the same bits from less memory.
mod common;
use common::{Layout, ONE, train};
use exec::Lanes;
use plan::{PipelineSchedule, Recompute, Selective};

const WAYS: [Recompute; 4] =
    [Recompute::Layers(0.3), Recompute::Layers(0.7), Recompute::Layers(1.0), Recompute::Named(Selective::Selective)];

fn planned(layout: &Layout) -> usize {
    let programs = layout.programs(&layout.actions());
    programs.iter().map(|p| p.sizes()[backend::Region::Act as usize]).max().unwrap()
}

#[test]
fn no_bit_changes_and_planned_memory_falls() {
    let layouts = [
        ONE,
        Layout { tied: true, leaves: 4, ..ONE },
        Layout { pipeline: 3, ..ONE },
        Layout { pipeline: 2, data: 2, zero: 2, lanes: Lanes::Queued { seed: 5 }, ..ONE },
        Layout { pipeline: 2, policy: PipelineSchedule::GPipe, ..ONE },
        Layout { dtype: backend::DType::BF16, ..ONE },
    ];
    for keeps in layouts {
        let (want, bytes) = (train(&keeps, 5), planned(&keeps));
        for recompute in WAYS {
            let layout = Layout { recompute, ..keeps };
            assert_eq!(train(&layout, 5), want, "{layout:?}");
            let less = planned(&layout);
            assert!(less < bytes, "{layout:?}: {less} bytes planned, {bytes} without");
        }
    }
}

/// Where many micro-batches are alive at once, each keeps one stream a layer and little more.
#[test]
fn of_a_whole_layer_only_the_input_is_kept() {
    let keeps = Layout { policy: PipelineSchedule::GPipe, micros: 16, ..ONE };
    let all = Layout { recompute: Recompute::Layers(1.0), ..keeps };
    let some = Layout { recompute: Recompute::Layers(0.4), ..keeps };
    let selective = Layout { recompute: Recompute::Named(Selective::Selective), ..keeps };
    let [none, all, some, selective] = [keeps, all, some, selective].map(|l| planned(&l));
    assert!(all < some && some < none, "{all} {some} {none}");
    assert!(all < selective && selective < none, "{all} {selective} {none}");

    // Of the three layers of 16 micro-batches: the stream after each, besides embedding and head.
    let (plan, shape) = (keeps.plan(), keeps.shape());
    let len = |res| plan.size(res, plan::RankId(0), shape).len * 4;
    let (unit, m) = (model::Unit, plan::Micro(0));
    let saved: usize = (1..=6).map(|u| len(plan::Res::Saved(unit(u), m))).sum();
    let inner = len(plan::Res::X(unit(1), m)) * 3;
    let one_layer = len(plan::Res::Saved(unit(1), m)) + len(plan::Res::Saved(unit(2), m));
    let saving = 16 * (saved + inner) - one_layer - len(plan::Res::X(unit(1), m));
    let slack = 16 * 64 * 10;
    assert!(none - all + slack > saving, "{none} - {all} is less than {saving}");
}

#[test]
fn recompute_is_printed_and_read_back() {
    let layout = Layout { recompute: Recompute::Layers(0.4), micros: 2, ..ONE };
    let (plan, actions) = (layout.plan(), layout.actions());
    let text = schedule::text::print(&plan, &actions);
    let again: Vec<&str> = text.lines().filter_map(|l| l.strip_prefix("recompute ")).collect();
    let of = |m| ["attn.1", "mlp.1", "attn.0", "mlp.0"].map(|u| format!("{u} {m}"));
    assert_eq!(again, [of(0), of(1)].concat(), "the first two of three layers");
    assert_eq!(schedule::text::parse(&text, &plan).unwrap(), actions);
}
