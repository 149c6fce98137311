//! What the host may see and set between steps: parameters and optimizer state by name, results of a step.
use crate::Rank;
use backend::{View, download, download_floats, upload, upload_floats};
use comm::CommError;
use model::ParamSpec;
use plan::{Place, Res};
use std::ops::Range;

/// A per-parameter tensor that a rank holds.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum State {
    /// In its finest form: master weights where there are, and then only this rank's shard can be read.
    Param,
    /// Of the last step: after reduction, of this rank's shard.
    Grad,
    ExpAvg,
    ExpAvgSq,
}

/// Losses of some micro-batches.
#[derive(Clone, PartialEq, Debug, Default)]
pub struct Losses {
    pub all: Loss,
    /// By type of token.
    pub types: Vec<TypeSums>,
}

impl Losses {
    /// In the order in which they are given: the bits of a sum do not depend on who computed its parts.
    pub fn sum(parts: impl IntoIterator<Item = Losses>) -> Losses {
        let mut out = Losses::default();
        for part in parts {
            out.all.sum += part.all.sum;
            out.all.tokens += part.all.tokens;
            out.types.resize(part.types.len(), TypeSums::default());
            out.types.iter_mut().zip(part.types).for_each(|(sum, one)| sum.add(one));
        }
        out
    }
}

#[derive(Clone, Copy, PartialEq, Debug, Default)]
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

/// Over the label tokens of one type, without label smoothing.
#[derive(Clone, Copy, PartialEq, Debug, Default)]
pub struct TypeSums {
    /// Nats.
    pub loss: f64,
    pub tokens: f64,
    /// Tokens whose label had the largest logit.
    pub hits: f64,
}

impl TypeSums {
    pub fn add(&mut self, other: TypeSums) {
        self.loss += other.loss;
        self.tokens += other.tokens;
        self.hits += other.hits;
    }
}

#[derive(Clone, PartialEq, Debug)]
pub struct StepResult {
    pub losses: Losses,
    /// Of the gradient as it would be without loss scaling.
    pub grad_norm: f64,
    /// False: the gradient was not finite or there was no label, and nothing was changed.
    pub taken: bool,
    /// What the loss of this step was multiplied by is the one of the step before; this is the next one.
    pub loss_scale: f64,
}

impl Rank {
    /// Parameters that this rank holds.
    pub fn params(&self) -> Vec<ParamSpec> {
        let units = self.plan.held(self.id).into_iter();
        units.flat_map(|u| self.plan.model.params(u)).collect()
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
            State::Param if self.plan.has_master() => moment(2),
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
        download_floats(&mut *self.dev, view)
    }

    /// Elements from `start` on.
    pub fn set(&mut self, state: State, spec: &ParamSpec, start: usize, values: &[f32]) {
        if values.is_empty() {
            return;
        }
        if state == State::Param && self.plan.has_master() {
            // All of the working copy, and what is ours of the master weights.
            let (own, end) = (self.stepped(spec), start + values.len());
            let copy = self.programs[0].memory.view(Res::Param(spec.unit)).sub(spec.offset + start, values.len());
            upload_floats(&mut *self.dev, values, copy);
            let mine = own.start.clamp(start, end)..own.end.clamp(start, end);
            if !mine.is_empty() {
                let master = self.view(state, spec, mine.clone());
                upload_floats(&mut *self.dev, &values[mine.start - start..mine.end - start], master);
            }
            return;
        }
        let view = self.view(state, spec, start..start + values.len());
        upload_floats(&mut *self.dev, values, view);
    }

    /// [loss scale, steps without overflow, overflows] of dynamic loss scaling.
    pub fn loss_scale(&mut self) -> [f64; 3] {
        let view = self.programs.iter().find_map(|p| p.memory.try_view(Res::Scale));
        let values = view.map(|view| download::<f64>(&mut *self.dev, view));
        values.map_or([1.0, 0.0, 0.0], |v| v.try_into().expect("three numbers"))
    }

    pub fn set_loss_scale(&mut self, scale: [f64; 3]) {
        if let Some(view) = self.programs.iter().find_map(|p| p.memory.try_view(Res::Scale)) {
            upload(&mut *self.dev, &scale, view);
        }
    }

    /// Of the last run of a training program. Every rank sees the same.
    pub fn step_result(&mut self, program: usize) -> StepResult {
        let norm = download::<f64>(&mut *self.dev, self.programs[program].memory.view(Res::Norm));
        let losses = Losses::sum(self.losses(program));
        StepResult { losses, grad_norm: norm[0], taken: norm[2] == 1.0, loss_scale: self.loss_scale()[0] }
    }

    /// Of the last run of an evaluation program, by micro-batch in the global order. Every rank sees the same.
    pub fn eval_losses(&mut self, program: usize) -> Result<Vec<Losses>, CommError> {
        self.finish()?; // nothing in the program waits for the last sum
        Ok(self.losses(program))
    }

    fn losses(&mut self, program: usize) -> Vec<Losses> {
        let p = &self.programs[program];
        let (micros, len) = (self.plan.global_micros(p.shape), self.plan.stats_per_micro());
        let stats = download::<f64>(&mut *self.dev, p.memory.view(Res::Stats).sub(0, micros * len));
        let one = |stats: &[f64]| {
            let by_type = stats[1..].chunks(3).map(|s| TypeSums { loss: s[0], tokens: s[1], hits: s[2] });
            let types: Vec<TypeSums> = by_type.collect();
            Losses { all: Loss { sum: stats[0], tokens: types.iter().map(|t| t.tokens).sum() }, types }
        };
        stats.chunks(len).map(one).collect()
    }

    /// The row that a prefill or decode program was asked for.
    pub fn logits(&mut self, program: usize) -> Vec<f32> {
        download_floats(&mut *self.dev, self.programs[program].memory.view(Res::Logits))
    }
}
