//! Model families: their defaults, and how a Hugging Face directory spells a [`Decoder`]. A family is one file here and
//! one line in each `match`.
mod baichuan;
mod fields;
mod gemma;
mod internevo;
mod internlm;
mod internlm2;
mod json;
mod llama;
mod mistral;
mod qwen;
mod tensors;

pub use tensors::{FileTensor, Piece};

use crate::{Decoder, Family, Position, Rope};
use backend::Pairs;
use serde_json::Value;

/// What a decoder of a family is where nothing else is said. Sizes are 0.
pub fn base(family: Family) -> Decoder {
    match family {
        Family::Llama => llama::base(),
        Family::Internlm => internlm::base(),
        Family::Internlm2 => internlm2::base(),
        Family::Mistral => mistral::base(),
        Family::Qwen2 => qwen::base2(),
        Family::Qwen3 => qwen::base3(),
        Family::Baichuan => baichuan::base(),
        Family::Gemma => gemma::base1(),
        Family::Gemma2 => gemma::base2(),
        Family::Internevo => internevo::base(),
    }
}

/// Reads a `config.json`. All problems at once, each naming its field.
pub fn from_json(config: &Value) -> Result<Decoder, Vec<String>> {
    let Some(kind) = config.get("model_type").and_then(Value::as_str) else {
        return Err(vec!["model_type is missing; a Hugging Face config.json names its family there".into()]);
    };
    match kind {
        "llama" => llama::from_json(config),
        "internlm" => internlm::from_json(config),
        "internlm2" => internlm2::from_json(config),
        "mistral" => mistral::from_json(config),
        "qwen2" => qwen::from_json2(config),
        "qwen3" => qwen::from_json3(config),
        "baichuan" => baichuan::from_json(config),
        "gemma" => gemma::from_json1(config),
        "gemma2" => gemma::from_json2(config),
        "internevo" => internevo::from_json(config),
        other => Err(vec![format!(
            "model_type = \"{other}\" is not supported; supported: llama, internlm, internlm2, mistral, qwen2, qwen3, baichuan, gemma, gemma2, internevo"
        )]),
    }
}

/// The `config.json` of a decoder that the family [`holds`].
pub fn to_json(decoder: &Decoder, family: Family) -> Value {
    match family {
        Family::Llama => llama::to_json(decoder),
        Family::Internlm => internlm::to_json(decoder),
        Family::Internlm2 => internlm2::to_json(decoder),
        Family::Mistral => mistral::to_json(decoder),
        Family::Qwen2 => qwen::to_json2(decoder),
        Family::Qwen3 => qwen::to_json3(decoder),
        Family::Baichuan => baichuan::to_json(decoder),
        Family::Gemma => gemma::to_json1(decoder),
        Family::Gemma2 => gemma::to_json2(decoder),
        Family::Internevo => internevo::to_json(decoder),
    }
}

/// Whether a directory of the family can say all that the decoder computes. What only training knows is not asked: the
/// scale of the embedding's gradient, the initial weights' scale, the order of RoPE's pairs in memory.
pub fn holds(family: Family, decoder: &Decoder) -> bool {
    let unit = stores_unit_rows(family, decoder);
    let said = |m: &Decoder| {
        let position = match m.position {
            Position::Rope(rope) => Position::Rope(Rope { pairs: Pairs::Half, ..rope }),
            Position::Alibi => Position::Alibi,
        };
        let norm_head = m.norm_head && !unit;
        Decoder { family, position, embed_grad_scale: 1.0, scaled_init: true, norm_head, ..m.clone() }
    };
    from_json(&to_json(decoder, family)).is_ok_and(|read| said(&read) == said(decoder))
}

/// Whether the family's directories have the head's rows normalised, because it cannot say that they are to be.
pub fn stores_unit_rows(family: Family, decoder: &Decoder) -> bool {
    decoder.norm_head && !decoder.tied && !matches!(family, Family::Baichuan | Family::Internevo)
}

/// The family that a checkpoint of the decoder is written as: one that transformers has a class for, if any computes the
/// same; else its own; else ours.
pub fn directory(decoder: &Decoder) -> Family {
    const CLASSES: [Family; 6] =
        [Family::Llama, Family::Mistral, Family::Qwen2, Family::Qwen3, Family::Gemma, Family::Gemma2];
    let own = decoder.family;
    // Two classes refuse other widths of a head when they are opened.
    let whole = decoder.hidden.is_multiple_of(decoder.heads.n);
    let opens = |f: &Family| whole || !matches!(f, Family::Llama | Family::Gemma2);
    let classes = CLASSES.into_iter().filter(|f| *f == own).chain(CLASSES).filter(opens);
    classes.chain([own]).find(|f| holds(*f, decoder)).unwrap_or(Family::Internevo)
}

/// The tensors of a directory of that family.
pub fn tensors(decoder: &Decoder, family: Family) -> Vec<FileTensor> {
    match family {
        Family::Internlm2 => internlm2::tensors(decoder),
        Family::Baichuan => baichuan::tensors(decoder),
        Family::Llama | Family::Internlm | Family::Mistral | Family::Qwen2 | Family::Qwen3 => tensors::own(decoder),
        Family::Gemma | Family::Gemma2 | Family::Internevo => tensors::own(decoder),
    }
}
