//! Programs as text, one action a line: printed, edited, diffed, read back.
//!
//! ```text
//! rank 0
//! forward attn.0 1
//! backward attn.0 1 -> grad 0      gradients written to place 0
//! backward attn.0 2 +> grad 0      added to what is there
//! send x mlp.3 0 to 1
//! ```
use crate::{Action, Use, UseKind};
use model::Unit;
use model::block::Half;
use plan::{Micro, Place, Plan, RankId, Res, Stage};
use std::io::{self, Write};

impl Action {
    pub fn show(&self, plan: &Plan) -> String {
        let unit = |u: Unit| plan.model.kind(u).name();
        match *self {
            Action::Begin => "begin".into(),
            Action::Load { m } => format!("load {}", m.0),
            Action::ReduceCount => "reduce_count".into(),
            Action::Unshard { u, by: Use { kind, u: of, m } } => {
                format!("unshard {} for {} {} {}", unit(u), kind.name(), unit(of), m.0)
            }
            Action::Forward { u, m } => format!("forward {} {}", unit(u), m.0),
            Action::Recompute { u, m } => format!("recompute {} {}", unit(u), m.0),
            Action::Backward { u, m, half, place, acc } => {
                let what = format!("{} {} {}", half_name(half), unit(u), m.0);
                match half {
                    Half::Input => what,
                    _ if plan.scatters(u) => format!("{what} {} unreduced", arrow(acc)),
                    _ => format!("{what} {} grad {}", arrow(acc), place.0),
                }
            }
            Action::Scatter { u, m } => format!("scatter {} {}", unit(u), m.0),
            Action::Accumulate { u, m, place, acc } => {
                format!("accumulate {} {} {} grad {}", unit(u), m.0, arrow(acc), place.0)
            }
            Action::Merge { u, place } => format!("merge {} {}", unit(u), place.0),
            Action::ReduceTensor { u } => format!("reduce_tensor {}", unit(u)),
            Action::ReduceKv { u } => format!("reduce_kv {}", unit(u)),
            Action::Reduce { u } => format!("reduce {}", unit(u)),
            Action::AllReduce { u } => format!("all_reduce {}", unit(u)),
            Action::ReduceTied { u } => format!("reduce_tied {}", unit(u)),
            Action::Send { what, to } => format!("send {} to {}", plan.show(what), to.0),
            Action::Recv { what, from } => format!("recv {} from {}", plan.show(what), from.0),
            Action::SumSquares { u } => format!("sum_squares {}", unit(u)),
            Action::ReduceStats => "reduce_stats".into(),
            Action::GradNorm => "grad_norm".into(),
            Action::Step { u } => format!("step {}", unit(u)),
            Action::Gather { u } => format!("gather {}", unit(u)),
            Action::Poison { res } => format!("poison {}", plan.show(res)),
        }
    }

    pub fn parse(line: &str, plan: &Plan) -> Result<Action, String> {
        let words: Vec<&str> = line.split_whitespace().collect();
        let unit = |s: &str| parse_unit(s, plan);
        let micro = |s: &str| number(s).map(Micro);
        Ok(match words[..] {
            ["begin"] => Action::Begin,
            ["load", m] => Action::Load { m: micro(m)? },
            ["reduce_count"] => Action::ReduceCount,
            ["forward", u, m] => Action::Forward { u: unit(u)?, m: micro(m)? },
            ["recompute", u, m] => Action::Recompute { u: unit(u)?, m: micro(m)? },
            ["unshard", u, "for", kind, of, m] if UseKind::named(kind).is_some() => {
                let kind = UseKind::named(kind).expect("it was looked up");
                Action::Unshard { u: unit(u)?, by: Use { kind, u: unit(of)?, m: micro(m)? } }
            }
            ["backward_input", u, m] => {
                let (half, place) = (Half::Input, Place(0));
                Action::Backward { u: unit(u)?, m: micro(m)?, half, place, acc: false }
            }
            [name @ ("backward" | "backward_weight"), u, m, arrow @ ("->" | "+>"), ref to @ ..]
                if half_named(name).is_some() =>
            {
                let (half, u, m, acc) =
                    (half_named(name).expect("it was looked up"), unit(u)?, micro(m)?, arrow == "+>");
                let place = match (to, plan.scatters(u)) {
                    (["unreduced"], true) => Place(0),
                    (["grad", p], false) => Place(number(p)?),
                    (_, true) => {
                        return Err(format!("`{line}`: gradients of this unit are scattered; write `-> unreduced`"));
                    }
                    (_, false) => return Err(format!("`{line}`: gradients go to a place; write `-> grad 0`")),
                };
                Action::Backward { u, m, half, place, acc }
            }
            ["scatter", u, m] => Action::Scatter { u: unit(u)?, m: micro(m)? },
            ["accumulate", u, m, arrow @ ("->" | "+>"), "grad", p] => {
                Action::Accumulate { u: unit(u)?, m: micro(m)?, place: Place(number(p)?), acc: arrow == "+>" }
            }
            ["merge", u, p] => match number(p)? {
                0 => return Err("place 0 cannot be merged: it holds the sum".into()),
                p => Action::Merge { u: unit(u)?, place: Place(p) },
            },
            ["reduce_tensor", u] => Action::ReduceTensor { u: unit(u)? },
            ["reduce_kv", u] => Action::ReduceKv { u: unit(u)? },
            ["reduce", u] => Action::Reduce { u: unit(u)? },
            ["all_reduce", u] => Action::AllReduce { u: unit(u)? },
            ["reduce_tied", u] => Action::ReduceTied { u: unit(u)? },
            ["send", ref what @ .., "to", s] => {
                Action::Send { what: parse_res(what, plan)?, to: parse_stage(s, plan)? }
            }
            ["recv", ref what @ .., "from", s] => {
                Action::Recv { what: parse_res(what, plan)?, from: parse_stage(s, plan)? }
            }
            ["poison", ref res @ ..] => Action::Poison { res: parse_res(res, plan)? },
            ["sum_squares", u] => Action::SumSquares { u: unit(u)? },
            ["reduce_stats"] => Action::ReduceStats,
            ["grad_norm"] => Action::GradNorm,
            ["step", u] => Action::Step { u: unit(u)? },
            ["gather", u] => Action::Gather { u: unit(u)? },
            _ => {
                return Err(format!("`{line}` is not an action; `internevo schedule` prints the ones there are"));
            }
        })
    }
}

/// `->` writes, `+>` adds.
fn arrow(acc: bool) -> &'static str {
    if acc { "+>" } else { "->" }
}

const HALVES: [(Half, &str); 3] =
    [(Half::Both, "backward"), (Half::Input, "backward_input"), (Half::Weight, "backward_weight")];

fn half_name(half: Half) -> &'static str {
    HALVES.iter().find(|(h, _)| *h == half).expect("every half has a name").1
}
fn half_named(name: &str) -> Option<Half> {
    HALVES.iter().find(|(_, n)| *n == name).map(|(half, _)| *half)
}

impl UseKind {
    fn name(self) -> &'static str {
        match self {
            UseKind::Forward => "forward",
            UseKind::Recompute => "recompute",
            UseKind::Backward => "backward",
        }
    }
    fn named(name: &str) -> Option<UseKind> {
        [UseKind::Forward, UseKind::Recompute, UseKind::Backward].into_iter().find(|kind| kind.name() == name)
    }
}

fn number(s: &str) -> Result<usize, String> {
    s.parse().map_err(|_| format!("`{s}` is not a number"))
}

fn parse_unit(s: &str, plan: &Plan) -> Result<Unit, String> {
    plan.model.unit_named(s).ok_or_else(|| {
        let layers = plan.model.layers;
        format!("`{s}` is not a unit of this model; units: embed, attn.N, mlp.N (N below {layers}), head")
    })
}

fn parse_stage(s: &str, plan: &Plan) -> Result<Stage, String> {
    let stages = plan.mesh.stages();
    let stage = number(s)?;
    match stage < stages {
        true => Ok(Stage(stage)),
        false => Err(format!("there is no stage {stage} among {stages}; the first is 0")),
    }
}

/// A planned resource, as `Plan::show` prints it.
fn parse_res(words: &[&str], plan: &Plan) -> Result<Res, String> {
    let micro = |s: &str| number(s).map(Micro);
    Ok(match *words {
        ["batch", m] => Res::Batch(micro(m)?),
        ["dx", m] => Res::Dx(micro(m)?),
        ["x", u, m] => Res::X(parse_unit(u, plan)?, micro(m)?),
        ["saved", u, m] => Res::Saved(parse_unit(u, plan)?, micro(m)?),
        ["tmp", u, m] => Res::Tmp(parse_unit(u, plan)?, micro(m)?),
        ["late", u, m] => Res::Late(parse_unit(u, plan)?, micro(m)?),
        ["unsharded", u] => Res::Unsharded(parse_unit(u, plan)?),
        ["unreduced", u, m] => Res::Unreduced(parse_unit(u, plan)?, micro(m)?),
        _ => {
            return Err(format!(
                "`{}` is not planned memory: batch, x, saved, tmp, late, dx, unsharded or unreduced",
                words.join(" ")
            ));
        }
    })
}

/// A program for every rank of the mesh.
pub fn print(plan: &Plan, programs: &[Vec<Action>]) -> String {
    let mut out = vec![];
    for (rank, actions) in programs.iter().enumerate() {
        print_rank(plan, RankId(rank), actions, &mut out).expect("memory can be written");
    }
    String::from_utf8(out).expect("names are UTF-8")
}

/// The program of one rank.
pub fn print_rank(plan: &Plan, rank: RankId, actions: &[Action], out: &mut impl Write) -> io::Result<()> {
    writeln!(out, "rank {}", rank.0)?;
    actions.iter().try_for_each(|action| writeln!(out, "{}", action.show(plan)))
}

/// Reads what `print` wrote. `#` starts a comment. Errors begin with the line's number.
pub fn parse(text: &str, plan: &Plan) -> Result<Vec<Vec<Action>>, String> {
    let mut out: Vec<Vec<Action>> = vec![];
    for (i, line) in text.lines().enumerate() {
        let line = line.split('#').next().unwrap_or_default().trim();
        let at = |e: String| format!("line {}: {e}", i + 1);
        if line.is_empty() {
            continue;
        }
        if let Some(rank) = line.strip_prefix("rank ") {
            if rank.trim().parse() != Ok(out.len()) {
                return Err(at(format!("`{line}`: ranks come in order; expected `rank {}`", out.len())));
            }
            out.push(vec![]);
            continue;
        }
        let action = Action::parse(line, plan).map_err(at)?;
        out.last_mut().ok_or_else(|| at("an action before the first `rank 0`".into()))?.push(action);
    }
    let world = plan.mesh.world();
    if out.len() != world {
        return Err(format!("the file has programs for {} ranks, the run has {world}", out.len()));
    }
    Ok(out)
}

/// `rank 1, action 7 (`forward attn.0 1`)`
pub(crate) fn place(plan: &Plan, rank: RankId, index: usize, action: &Action) -> String {
    format!("rank {}, action {index} (`{}`)", rank.0, action.show(plan))
}
