//! What a run needs besides the weights to go on.
use crate::disk;
use crate::error::{CheckpointError, Result};
use crate::hf::HfDir;
use crate::json;
use crate::reader::Reader;
use model::{Decoder, Family, models};
use safetensors::Dtype;
use serde_json::Value;
use std::path::Path;

pub(crate) const TRAINING: &str = "training";
pub(crate) const OPTIMIZER: &str = "training/optimizer.safetensors";
pub(crate) const STATE: &str = "training/state.json";

/// A parameter, or AdamW's running mean of its gradient or of the gradient's square.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Part {
    Param,
    ExpAvg,
    ExpAvgSq,
}

pub(crate) const MOMENTS: [Part; 2] = [Part::ExpAvg, Part::ExpAvgSq];

impl Part {
    /// The tensor that holds this part of a parameter, where no family spells it otherwise.
    pub(crate) fn tensor(self, param: &str) -> String {
        match self {
            Part::Param => param.to_string(),
            Part::ExpAvg => format!("exp_avg.{param}"),
            Part::ExpAvgSq => format!("exp_avg_sq.{param}"),
        }
    }
}

/// A checkpoint, opened to continue its run.
pub struct Training {
    weights: HfDir,
    optimizer: Reader,
    state: Value,
}

impl Training {
    /// The checkpoint must be of the run's decoder; its family does not matter.
    pub fn open(dir: &Path, decoder: &Decoder) -> Result<Training> {
        let training = Training::load(dir)?;
        let fields = differences(training.weights.decoder(), decoder);
        if !fields.is_empty() {
            return Err(CheckpointError::OtherModel { dir: dir.into(), fields });
        }
        Ok(training)
    }

    /// Opens and checks a checkpoint of whichever decoder.
    pub(crate) fn load(dir: &Path) -> Result<Training> {
        let weights = HfDir::open(dir)?;
        let path = dir.join(OPTIMIZER);
        if !disk::exists(&path)? {
            return Err(CheckpointError::NoTraining { dir: dir.into() });
        }
        let optimizer = Reader::open(&path, std::slice::from_ref(&path))?;
        for spec in weights.decoder().table() {
            for part in MOMENTS {
                optimizer.check(&part.tensor(&spec.name), &spec.shape, &[Dtype::F32])?;
            }
        }
        Ok(Training { weights, optimizer, state: json::read(&dir.join(STATE))? })
    }

    /// What was given to [`crate::Save::commit`].
    pub fn state(&self) -> &Value {
        &self.state
    }

    /// Elements `start ..` of a part of a parameter.
    pub fn read(&self, part: Part, name: &str, start: usize, out: &mut [f32]) -> Result<()> {
        match part {
            Part::Param => self.weights.read(name, start, out),
            Part::ExpAvg | Part::ExpAvgSq => self.optimizer.read(&part.tensor(name), start, out),
        }
    }
}

/// The fields in which two decoders differ, as config.json spells them.
fn differences(checkpoint: &Decoder, run: &Decoder) -> Vec<String> {
    // Neither changes what the parameters are or what training computes from them.
    const FREE: [&str; 2] = ["initializer_range", "max_position_embeddings"];
    let (there, here) = (models::to_json(checkpoint, Family::Llama), models::to_json(run, Family::Llama));
    let fields = there.as_object().expect("a config is an object");
    let differing = fields.iter().filter(|(key, value)| !FREE.contains(&key.as_str()) && here[*key] != **value);
    differing.map(|(key, value)| format!("{key}: {value} in the checkpoint, {} in the run", here[key])).collect()
}
