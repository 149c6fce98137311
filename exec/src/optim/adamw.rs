//! AdamW (Loshchilov & Hutter 2019) on this rank's shard of a bucket, run by run of equal weight decay.
use backend::{Backend, Op};
use model::Unit;
use plan::{Memory, Place, Plan, RankId, Res};
use serde::{Deserialize, Serialize};

/// `[optimizer]` of a run.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct OptimizerConfig {
    pub lr: f64,
    pub beta1: f64,
    pub beta2: f64,
    /// c: beta2 of step t is 1 - t^-c where that is larger than `beta2`, so that late steps average longer (Shazeer &
    /// Stern 2018); 0: constant.
    pub beta2_c: f64,
    pub eps: f64,
    pub weight_decay: f64,
    /// Decay norms and biases too.
    pub decay_all: bool,
}

impl Default for OptimizerConfig {
    fn default() -> Self {
        OptimizerConfig {
            lr: 3e-4,
            beta1: 0.9,
            beta2: 0.95,
            beta2_c: 0.0,
            eps: 1e-8,
            weight_decay: 0.1,
            decay_all: false,
        }
    }
}

impl OptimizerConfig {
    pub fn problems(&self) -> Vec<String> {
        let mut out = vec![];
        let mut check = |key: &str, x: f64, fits: bool, way_out: &str| {
            if !fits || !x.is_finite() {
                out.push(format!("optimizer.{key} = {x}: {way_out}"));
            }
        };
        check("lr", self.lr, self.lr > 0.0, "must be positive; try 3e-4");
        check("beta1", self.beta1, (0.0..1.0).contains(&self.beta1), "must be in 0 .. 1; try 0.9");
        check("beta2", self.beta2, (0.0..1.0).contains(&self.beta2), "must be in 0 .. 1; try 0.95");
        check("beta2_c", self.beta2_c, self.beta2_c >= 0.0, "must not be negative; try 0.8, or 0 for a constant beta2");
        check("eps", self.eps, self.eps > 0.0, "must be positive; try 1e-8");
        check("weight_decay", self.weight_decay, self.weight_decay >= 0.0, "must not be negative; try 0.1");
        out
    }

    /// What `Op::AdamW` reads at step `t`, counted from 1.
    pub(crate) fn hyper(&self, lr: f64, t: u64) -> [f64; 4] {
        let (t, beta2) = (t as f64, self.beta2_at(t));
        [lr, 1.0 - self.beta1.powf(t), 1.0 - beta2.powf(t), beta2]
    }

    /// Of step `t`, counted from 1.
    pub fn beta2_at(&self, t: u64) -> f64 {
        if self.beta2_c > 0.0 { self.beta2.max(1.0 - (t as f64).powf(-self.beta2_c)) } else { self.beta2 }
    }
}

pub(crate) fn step(dev: &mut dyn Backend, config: &OptimizerConfig, plan: &Plan, mem: &Memory, id: RankId, u: Unit) {
    let own = plan.stepped(u, id);
    // Gradients and parameters of what this rank keeps; the optimizer's state of what it steps.
    let (n, kept, part) = (own.len(), plan.kept(u, id), plan.part_range(u, id));
    let g = mem.view(Res::Grad(u, Place(0))).sub(own.start - part.start, n);
    let [m, v] = mem.view(Res::Opt(u)).sub(0, 2 * n).split([n; 2]);
    let param = mem.view(Res::Param(u)).sub(own.start - kept.start, n);
    let p = if plan.has_master() { mem.view(Res::Opt(u)).sub(2 * n, n) } else { param };
    for run in plan.decay_runs(u, own.clone()) {
        let (at, len) = (run.range.start - own.start, run.range.len());
        dev.run(Op::AdamW {
            g: g.sub(at, len),
            norm: mem.view(Res::Norm),
            hyper: mem.view(Res::Hyper),
            p: p.sub(at, len),
            m: m.sub(at, len),
            v: v.sub(at, len),
            copy: plan.has_master().then(|| param.sub(at, len)),
            beta1: config.beta1,
            eps: config.eps,
            weight_decay: if run.decay || config.decay_all { config.weight_decay } else { 0.0 },
        });
    }
}
