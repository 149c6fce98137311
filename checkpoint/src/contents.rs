//! Which tensors lie in which file of a checkpoint.
use crate::hf::WEIGHTS;
use crate::spelling::Spelling;
use crate::training::{MOMENTS, OPTIMIZER, Part, RAW_HEAD};
use model::ParamSpec;
use serde_json::{Map, Value};

/// A file, as a path inside the checkpoint, and its tensors in order.
pub(crate) struct Contents {
    pub file: String,
    pub tensors: Vec<Tensor>,
}

/// A tensor to be stored as f32.
pub(crate) struct Tensor {
    pub name: String,
    pub shape: Vec<usize>,
}

impl Tensor {
    pub fn len(&self) -> usize {
        self.shape.iter().product()
    }
    pub fn bytes(&self) -> u64 {
        4 * self.len() as u64
    }
}

/// The weights, in files of at most `limit` bytes of data, unless one tensor is larger.
pub(crate) fn weights(spelling: &Spelling, limit: u64) -> Vec<Contents> {
    let mut shards: Vec<Vec<Tensor>> = vec![];
    let mut room = 0;
    for t in &spelling.tensors {
        let tensor = Tensor { name: t.name.clone(), shape: t.shape.clone() };
        if shards.is_empty() || tensor.bytes() > room {
            shards.push(vec![]);
            room = limit;
        }
        room = room.saturating_sub(tensor.bytes());
        shards.last_mut().expect("one was pushed").push(tensor);
    }
    let n = shards.len();
    let name = |i: usize| match n {
        1 => WEIGHTS.to_string(),
        _ => format!("model-{i:05}-of-{n:05}.safetensors"),
    };
    shards.into_iter().enumerate().map(|(i, tensors)| Contents { file: name(i + 1), tensors }).collect()
}

/// The index that weights in several files need.
pub(crate) fn index(weights: &[Contents]) -> Value {
    let rows = || weights.iter().flat_map(|c| c.tensors.iter().map(move |t| (t, &c.file)));
    let bytes: u64 = rows().map(|(t, _)| t.bytes()).sum();
    let map: Map<String, Value> = rows().map(|(t, file)| (t.name.clone(), file.clone().into())).collect();
    serde_json::json!({ "metadata": { "total_size": bytes }, "weight_map": map })
}

/// The optimizer's state, and the head's matrix where the weights have it with its rows normalised.
pub(crate) fn optimizer(table: &[ParamSpec], raw_head: Option<&ParamSpec>) -> Contents {
    let moments = MOMENTS.into_iter().flat_map(|part: Part| {
        table.iter().map(move |spec| Tensor { name: part.tensor(&spec.name), shape: spec.shape.clone() })
    });
    let raw = raw_head.map(|spec| Tensor { name: RAW_HEAD.into(), shape: spec.shape.clone() });
    Contents { file: OPTIMIZER.into(), tensors: moments.chain(raw).collect() }
}
