//! Attention by cuDNN on one rank's stream: plans are made when they are met, and kept on disk as text.
use crate::cudnn::{Cudnn, Pass, Plan, Shape, Target, Tensors};
use crate::driver::Stream;
use crate::work::{Attend, Place};
use sha2::{Digest, Sha256};
use std::collections::HashMap;
use std::path::{Path, PathBuf};

/// Who does an [`Attend`]: cuDNN, or in tests what stands in for it.
pub trait Attends: Send {
    /// On the rank's stream; `address` says where places are.
    fn run(&mut self, attend: &Attend, address: &dyn Fn(Place) -> u64);
}

pub struct Attentions {
    // Plans go before the handle that they were made with.
    plans: HashMap<(Pass, Shape), Plan>,
    cudnn: Cudnn,
    /// Of the card, with whatever else has a say in a plan.
    name: String,
    cache: Option<PathBuf>,
}

impl Attentions {
    /// cuDNN is loaded.
    pub fn new(stream: &Stream, cache: Option<&Path>) -> Result<Attentions, String> {
        stream.card.bind();
        let cudnn = Cudnn::new()?;
        cudnn.set_stream(stream.raw)?;
        let name = format!("{} {}", stream.card.name, cudnn.version());
        Ok(Attentions { cudnn, plans: HashMap::new(), name, cache: cache.map(Path::to_path_buf) })
    }

    /// Makes the plan, if it is not there yet. `Err`: cuDNN has none.
    pub fn plan(&mut self, pass: Pass, shape: Shape) -> Result<&Plan, String> {
        if !self.plans.contains_key(&(pass, shape)) {
            let plan = self.kept(pass, shape).map_or_else(|| self.made(pass, shape), Ok)?;
            self.plans.insert((pass, shape), plan);
        }
        Ok(&self.plans[&(pass, shape)])
    }

    fn file(&self, pass: Pass, shape: Shape) -> Option<PathBuf> {
        let hash = Sha256::digest(format!("{} {pass:?} {shape:?}", self.name));
        let name: String = hash.iter().take(16).map(|byte| format!("{byte:02x}")).collect();
        Some(self.cache.as_ref()?.join(format!("attention-{name}.json")))
    }

    /// From the cache. A text that cuDNN does not take is made anew.
    fn kept(&self, pass: Pass, shape: Shape) -> Option<Plan> {
        let text = std::fs::read_to_string(self.file(pass, shape)?).ok()?;
        let plan = Plan::restored(&Target::Card(&self.cudnn), pass, shape, &text).ok()?;
        (plan.workspace <= shape.workspace(pass)).then_some(plan)
    }

    fn made(&self, pass: Pass, shape: Shape) -> Result<Plan, String> {
        let (on, limit) = (Target::Card(&self.cudnn), shape.workspace(pass));
        let plan = match pass {
            Pass::Forward => Plan::forward(&on, shape, limit)?,
            Pass::Backward => Plan::backward(&on, shape, limit)?,
        };
        if let (Some(file), Ok(text)) = (self.file(pass, shape), plan.json()) {
            let folder = file.parent().expect("the cache is a folder");
            let write = || {
                std::fs::create_dir_all(folder)?;
                let part = tempfile::NamedTempFile::new_in(folder)?;
                std::fs::write(part.path(), text)?;
                part.persist(&file)?;
                std::io::Result::Ok(())
            };
            write().map_err(|e| format!("cannot write {}: {e}", file.display()))?;
        }
        Ok(plan)
    }
}

impl Attends for Attentions {
    fn run(&mut self, attend: &Attend, address: &dyn Fn(Place) -> u64) {
        let Attend { pass, shape, inputs, gradients, offsets, .. } = *attend;
        let ([q, k, v], [dq, dk, dv]) = (inputs.map(address), gradients.map(address));
        let [offsets_qkv, offsets_out, offsets_kv, offsets_lse] = offsets.map(address);
        let [o, lse, d_o, lengths] = [attend.o, attend.lse, attend.d_o, attend.lengths].map(address);
        let tensors =
            Tensors { q, k, v, o, lse, d_o, dq, dk, dv, lengths, offsets_qkv, offsets_out, offsets_kv, offsets_lse };
        self.plan(pass, shape).unwrap_or_else(|e| panic!("{e}"));
        let plan = &self.plans[&(pass, shape)];
        // SAFETY: the places are those of the operation, which an arena has checked, and scratch; the stream orders them.
        let result = unsafe { plan.execute(&self.cudnn, &tensors, address(attend.workspace)) };
        result.unwrap_or_else(|e| panic!("{attend:?}: {e}"));
    }
}
