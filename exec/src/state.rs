//! What the host may see and set between steps: parameters and optimizer state by name, results of a step.
use crate::Rank;
use backend::{DType, View, download, upload};
use comm::CommError;
use model::{ParamSpec, Unit};
use plan::{Place, Res};
use std::ops::Range;

/// A per-parameter tensor that a rank holds.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum State {
    Param,
    /// Of the last step: after reduction, of this rank's shard.
    Grad,
    ExpAvg,
    ExpAvgSq,
}

/// Losses of a step.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct Loss {
    /// Nats, over all label tokens.
    pub sum: f64,
    pub tokens: f64,
}

impl Loss {
    /// Nats per token.
    pub fn mean(&self) -> f64 {
        self.sum / self.tokens
    }
}

#[derive(Clone, Copy, PartialEq, Debug)]
pub struct StepResult {
    pub loss: Loss,
    pub grad_norm: f64,
    /// False: the gradient was not finite or there was no label, and nothing was changed.
    pub taken: bool,
}

impl Rank {
    /// Parameters of this rank's stage.
    pub fn params(&self) -> Vec<ParamSpec> {
        let units = self.plan.units(self.plan.mesh.stage(self.id));
        units.flat_map(|u| self.plan.model.params(Unit(u))).collect()
    }

    /// Elements of a parameter whose optimizer state this rank holds; maybe none.
    pub fn stepped(&self, spec: &ParamSpec) -> Range<usize> {
        let own = self.plan.stepped(spec.unit, self.id);
        let within = |at: usize| at.clamp(spec.offset, spec.offset + spec.len()) - spec.offset;
        within(own.start)..within(own.end)
    }

    fn view(&self, state: State, spec: &ParamSpec, range: Range<usize>) -> View {
        let mem = &self.programs[0].memory;
        let own = self.plan.stepped(spec.unit, self.id);
        let (start, len) = (spec.offset + range.start, range.len());
        let moment = |which: usize| {
            assert!(
                own.start <= start && start + len <= own.end,
                "{} {range:?} is not in this rank's shard",
                spec.name
            );
            mem.view(Res::Opt(spec.unit)).sub(which * own.len() + start - own.start, len)
        };
        match state {
            State::Param => mem.view(Res::Param(spec.unit)).sub(start, len),
            State::Grad => mem.view(Res::Grad(spec.unit, Place(0))).sub(start, len),
            State::ExpAvg => moment(0),
            State::ExpAvgSq => moment(1),
        }
    }

    /// Elements `range` of a parameter's tensor.
    pub fn get(&mut self, state: State, spec: &ParamSpec, range: Range<usize>) -> Vec<f32> {
        if range.is_empty() {
            return vec![];
        }
        let view = self.view(state, spec, range);
        match view.dtype {
            DType::F64 => download::<f64>(&mut *self.dev, view).into_iter().map(|x| x as f32).collect(),
            DType::F32 | DType::U32 => download::<f32>(&mut *self.dev, view),
        }
    }

    /// Elements from `start` on.
    pub fn set(&mut self, state: State, spec: &ParamSpec, start: usize, values: &[f32]) {
        if values.is_empty() {
            return;
        }
        let view = self.view(state, spec, start..start + values.len());
        match view.dtype {
            DType::F64 => upload(&mut *self.dev, &values.iter().map(|&x| x as f64).collect::<Vec<_>>(), view),
            DType::F32 | DType::U32 => upload(&mut *self.dev, values, view),
        }
    }

    /// Of the last run of a training program. Every rank sees the same.
    pub fn step_result(&mut self, program: usize) -> StepResult {
        let norm = download::<f64>(&mut *self.dev, self.programs[program].memory.view(Res::Norm));
        StepResult { loss: self.loss(program), grad_norm: norm[0], taken: norm[2] == 1.0 }
    }

    /// Of the last run of an evaluation program. Every rank sees the same.
    pub fn eval_loss(&mut self, program: usize) -> Result<Loss, CommError> {
        self.finish()?; // nothing in the program waits for the last sum
        Ok(self.loss(program))
    }

    /// Micro-batches are added in their global order.
    fn loss(&mut self, program: usize) -> Loss {
        let p = &self.programs[program];
        let micros = self.plan.global_micros(p.shape);
        let (losses, count) = (p.memory.view(Res::Stats).sub(0, micros), p.memory.view(Res::Count));
        let sum = download::<f64>(&mut *self.dev, losses).iter().sum();
        Loss { sum, tokens: download::<f64>(&mut *self.dev, count)[0] }
    }

    /// The row that a prefill or decode program was asked for.
    pub fn logits(&mut self, program: usize) -> Vec<f32> {
        download(&mut *self.dev, self.programs[program].memory.view(Res::Logits))
    }
}
