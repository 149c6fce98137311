//! What a run needs besides the weights to go on.
use crate::disk;
use crate::error::{CheckpointError, Result};
use crate::hf::HfDir;
use crate::json;
use crate::manifest::Manifest;
use crate::reader::Reader;
use crate::spelling::Spelling;
use crate::sums::Sums;
use model::{Decoder, Family, Position, Rope, Scaling, models};
use safetensors::Dtype;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use std::collections::BTreeSet;
use std::ops::Range;
use std::path::Path;

pub(crate) const TRAINING: &str = "training";
pub(crate) const OPTIMIZER: &str = "training/optimizer.safetensors";
pub(crate) const STATE: &str = "training/state.json";
pub(crate) const MANIFEST: &str = "training/manifest.json";

/// The head's matrix, where the weights of the directory have it with its rows normalised.
pub(crate) const HEAD: &str = "lm_head.weight";
pub(crate) const RAW_HEAD: &str = "param.lm_head.weight";

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
    manifest: Manifest,
    weights: HfDir,
    optimizer: Reader,
    /// Of the optimizer's tensors, without their prefix.
    spelling: Spelling,
    state: Value,
}

impl Training {
    /// The checkpoint must be of the run's decoder; its family does not matter.
    pub fn open(dir: &Path, decoder: &Decoder) -> Result<Training> {
        let training = Training::load(dir)?;
        let there = training.weights.decoder();
        let fields =
            differences(&Decoder { norm_head: there.norm_head || training.has_raw_head(), ..there.clone() }, decoder);
        if !fields.is_empty() {
            return Err(CheckpointError::OtherModel { dir: dir.into(), fields });
        }
        Ok(Training { weights: training.weights.for_run(decoder), spelling: Spelling::own(decoder), ..training })
    }

    /// Opens and checks a checkpoint of whichever decoder: everything but the values of its tensors, which are checked
    /// as they are read, see [`Told`].
    pub(crate) fn load(dir: &Path) -> Result<Training> {
        if disk::exists(dir)? && !disk::exists(&dir.join(TRAINING))? {
            return Err(CheckpointError::NoTraining { dir: dir.into() });
        }
        let manifest = Manifest::open(dir)?;
        if let Some(problem) = manifest.problems(dir).into_iter().next() {
            return Err(problem);
        }
        let (weights, path) = (HfDir::open(dir)?, dir.join(OPTIMIZER));
        let optimizer = Reader::open(&path, std::slice::from_ref(&path))?;
        for spec in weights.decoder().table() {
            for part in MOMENTS {
                optimizer.check(&part.tensor(&spec.name), &spec.shape, &[Dtype::F32])?;
            }
        }
        if optimizer.file(RAW_HEAD).is_some() {
            let m = weights.decoder();
            optimizer.check(RAW_HEAD, &[m.vocab, m.hidden], &[Dtype::F32])?;
        }
        let spelling = Spelling::own(weights.decoder());
        Ok(Training { manifest, weights, optimizer, spelling, state: json::read(&dir.join(STATE))? })
    }

    fn has_raw_head(&self) -> bool {
        self.optimizer.file(RAW_HEAD).is_some()
    }

    /// What was given to [`crate::Save::commit`].
    pub fn state(&self) -> &Value {
        &self.state
    }

    /// Where elements `start ..` of a part of a parameter lie: file, tensor, first element there, and which of them.
    fn places(
        &self,
        part: Part,
        name: &str,
        (start, len): (usize, usize),
        mut each: impl FnMut(&Reader, &str, usize, Range<usize>) -> Result<()>,
    ) -> Result<()> {
        match part {
            Part::Param if name == HEAD && self.has_raw_head() => each(&self.optimizer, RAW_HEAD, start, 0..len),
            Part::Param => {
                let weights = self.weights.tensors();
                self.weights.stretches(name, start, len).try_for_each(|s| each(weights, s.tensor, s.at, s.range))
            }
            Part::ExpAvg | Part::ExpAvgSq => self
                .spelling
                .stretches(name, start, len)
                .try_for_each(|s| each(&self.optimizer, &part.tensor(s.tensor), s.at, s.range)),
        }
    }

    /// Elements `start ..` of a part of a parameter.
    pub fn read(&self, part: Part, name: &str, start: usize, out: &mut [f32]) -> Result<()> {
        self.places(part, name, (start, out.len()), |file, tensor, at, range| file.read(tensor, at, &mut out[range]))
    }

    /// The same elements, which were read, into the sums of what lies in the files.
    pub fn tell(&self, told: &mut Told, part: Part, name: &str, start: usize, data: &[f32]) {
        let add = |_: &Reader, tensor: &str, at: usize, range: Range<usize>| {
            told.0.add(tensor, at, &data[range]);
            Ok(())
        };
        self.places(part, name, (start, data.len()), add).expect("nothing is read");
    }

    /// Ranges that are not what was written, among the tensors that ranks have told of: each element by one of them.
    pub fn damage(&self, told: impl IntoIterator<Item = Told>) -> Vec<CheckpointError> {
        let mut sums = Sums::default();
        told.into_iter().for_each(|told| sums.merge(told.0));
        self.manifest.damage(&sums, &[self.weights.tensors(), &self.optimizer])
    }
}

/// Checksums of what a rank has read, in any ranges.
#[derive(Default, Serialize, Deserialize)]
pub struct Told(Sums);

impl Told {
    /// With what another thread has read.
    pub fn merge(&mut self, other: Told) {
        self.0.merge(other.0);
    }
}

/// The fields in which two decoders differ, as `[model]` spells them.
fn differences(checkpoint: &Decoder, run: &Decoder) -> Vec<String> {
    // None of them changes what the parameters are or what they compute.
    const FREE: [&str; 4] = ["initializer_range", "scaled_init", "embed_grad_scale", "rope_layout"];
    let [there, here] = [checkpoint, run].map(|m| models::to_json(m, Family::Internevo));
    let keys = |of: &Value| of.as_object().expect("a config is an object").keys().cloned().collect::<Vec<_>>();
    let all: BTreeSet<String> = keys(&there).into_iter().chain(keys(&here)).collect();
    let stretches =
        |m: &Decoder| matches!(m.position, Position::Rope(Rope { scaling: Some(Scaling::Dynamic { .. }), .. }));
    let matters = |key: &String| match key.as_str() {
        "max_position_embeddings" => stretches(run),
        key => !FREE.contains(&key),
    };
    let differing = all.into_iter().filter(|key| matters(key) && here[key] != there[key]);
    differing.map(|key| format!("{key}: {} in the checkpoint, {} in the run", there[&key], here[&key])).collect()
}
