//! Model families: how a Hugging Face directory spells a [`Decoder`]. A family is one file here and one line in `match`.
mod internlm2;
mod json;
mod llama;

use crate::{Decoder, Family, ParamSpec};
use serde_json::Value;

/// A tensor of a directory and the parameters its rows belong to.
#[derive(Clone, PartialEq, Debug)]
pub struct FileTensor {
    pub name: String,
    pub shape: Vec<usize>,
    /// In the order of the file's rows; together they cover it.
    pub pieces: Vec<Piece>,
}

/// `rows` consecutive rows of a file's tensor are rows `start ..` of a parameter. A vector has one number a row.
#[derive(Clone, PartialEq, Debug)]
pub struct Piece {
    pub param: String,
    pub start: usize,
    pub rows: usize,
}

impl FileTensor {
    /// A tensor that is a parameter, under another name.
    fn whole(name: String, spec: &ParamSpec) -> FileTensor {
        let piece = Piece { param: spec.name.clone(), start: 0, rows: spec.shape[0] };
        FileTensor { name, shape: spec.shape.clone(), pieces: vec![piece] }
    }
}

/// Reads a `config.json`. All problems at once, each naming its field.
pub fn from_json(config: &Value) -> Result<Decoder, Vec<String>> {
    let Some(kind) = config.get("model_type").and_then(Value::as_str) else {
        return Err(vec!["model_type is missing; a Hugging Face config.json names its family there".into()]);
    };
    match kind {
        "llama" => llama::from_json(config),
        "internlm2" => internlm2::from_json(config),
        other => Err(vec![format!("model_type = \"{other}\" is not supported; supported: llama, internlm2")]),
    }
}

/// The `config.json` of a decoder, as the family's own or as the equal LLaMA, which has a class in transformers.
pub fn to_json(decoder: &Decoder, family: Family) -> Value {
    match family {
        Family::Llama => llama::to_json(decoder),
        Family::Internlm2 => internlm2::to_json(decoder),
    }
}

/// The tensors of a directory of that family.
pub fn tensors(decoder: &Decoder, family: Family) -> Vec<FileTensor> {
    match family {
        Family::Llama => llama::tensors(decoder),
        Family::Internlm2 => internlm2::tensors(decoder),
    }
}
