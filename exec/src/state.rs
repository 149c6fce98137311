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
    /// What this rank has of the parameters that it holds.
    pub fn params(&self) -> Vec<ParamSpec> {
        self.parts().into_iter().map(|(part, _)| part).collect()
    }

    /// The same, each with the parameter of the model that it is a part of.
    pub fn parts(&self) -> Vec<(ParamSpec, ParamSpec)> {
        self.plan.held(self.id).into_iter().flat_map(|u| self.plan.params(u)).collect()
    }

    /// Elements of a parameter whose optimizer state this rank holds; maybe none.
    pub fn stepped(&self, spec: &ParamSpec) -> Range<usize> {
        within(spec, self.plan.stepped(spec.unit, self.id))
    }

    /// Elements of a parameter that this rank keeps.
    pub fn kept(&self, spec: &ParamSpec) -> Range<usize> {
        within(spec, self.plan.kept(spec.unit, self.id))
    }

    fn view(&self, state: State, spec: &ParamSpec, range: Range<usize>) -> View {
        let mem = &self.programs[0].memory;
        let own = self.plan.stepped(spec.unit, self.id);
        let (start, len) = (spec.offset + range.start, range.len());
        let inside = |part: Range<usize>| {
            let fits = part.start <= start && start + len <= part.end;
            assert!(fits, "this rank does not hold elements {range:?} of {} ({state:?})", spec.name);
            start - part.start
        };
        let moment = |which: usize| mem.view(Res::Opt(spec.unit)).sub(which * own.len() + inside(own.clone()), len);
        match state {
            State::Param if self.plan.has_master() => moment(2),
            State::Param => mem.view(Res::Param(spec.unit)).sub(inside(self.plan.kept(spec.unit, self.id)), len),
            State::Grad => {
                mem.view(Res::Grad(spec.unit, Place(0))).sub(inside(self.plan.part_range(spec.unit, self.id)), len)
            }
            State::ExpAvg => moment(0),
            State::ExpAvgSq => moment(1),
        }
    }

    /// Elements `range` of what this rank has of a parameter.
    pub fn get(&mut self, state: State, spec: &ParamSpec, range: Range<usize>) -> Vec<f32> {
        let mut out = vec![0.0; range.len()];
        self.get_into(state, spec, range, &mut out);
        out
    }

    /// The same, where the values are to be.
    pub fn get_into(&mut self, state: State, spec: &ParamSpec, range: Range<usize>, out: &mut [f32]) {
        if !range.is_empty() {
            let view = self.view(state, spec, range);
            download_floats(&mut *self.dev, view, out);
        }
    }

    /// Elements from `start` on, as far as this rank keeps them.
    pub fn set(&mut self, state: State, spec: &ParamSpec, start: usize, values: &[f32]) {
        let end = start + values.len();
        let ours = |held: Range<usize>| held.start.clamp(start, end)..held.end.clamp(start, end);
        let mine = match state {
            State::Param => ours(self.kept(spec)),
            State::Grad => start..end,
            State::ExpAvg | State::ExpAvgSq => ours(self.stepped(spec)),
        };
        if mine.is_empty() {
            return;
        }
        let of = |part: &Range<usize>| &values[part.start - start..part.end - start];
        if state == State::Param && self.plan.has_master() {
            // The working copy, and what is ours of the master weights.
            let at = spec.offset + mine.start - self.plan.kept(spec.unit, self.id).start;
            let copy = self.programs[0].memory.view(Res::Param(spec.unit)).sub(at, mine.len());
            upload_floats(&mut *self.dev, of(&mine), copy);
            let stepped = ours(self.stepped(spec));
            if !stepped.is_empty() {
                let master = self.view(state, spec, stepped.clone());
                upload_floats(&mut *self.dev, of(&stepped), master);
            }
        } else {
            let view = self.view(state, spec, mine.clone());
            upload_floats(&mut *self.dev, of(&mine), view);
        }
        self.before = self.dev.mark();
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
        let logits = self.programs[program].memory.view(Res::Logits).sub(0, self.plan.model.vocab);
        let mut out = vec![0.0; logits.len];
        download_floats(&mut *self.dev, logits, &mut out);
        out
    }
}

/// Elements of a parameter that lie in a run of its bucket.
fn within(spec: &ParamSpec, run: Range<usize>) -> Range<usize> {
    let at = |at: usize| at.clamp(spec.offset, spec.offset + spec.len()) - spec.offset;
    at(run.start)..at(run.end)
}
