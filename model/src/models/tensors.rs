//! Tensors of a directory, and the parameters that their rows belong to.
use crate::{Decoder, ParamSpec, Position};
use backend::Pairs;

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
    pub(super) fn whole(m: &Decoder, name: String, spec: &ParamSpec) -> FileTensor {
        FileTensor { name, shape: spec.shape.clone(), pieces: rows(m, &spec.name, 0, spec.shape[0]) }
    }
}

/// Every parameter under its own name.
pub(super) fn own(m: &Decoder) -> Vec<FileTensor> {
    m.table().iter().map(|spec| FileTensor::whole(m, spec.name.clone(), spec)).collect()
}

/// Rows `start .. start + n` of a parameter as a directory has them: RoPE's pairs are always (i, i + H/2) there. Where
/// they are (2i, 2i + 1) in memory, the rows of a head are first its even ones, then its odd ones.
pub(super) fn rows(m: &Decoder, param: &str, start: usize, n: usize) -> Vec<Piece> {
    let piece = |start, rows| Piece { param: param.into(), start, rows };
    let rotated = ["q_proj.", "k_proj.", "q_norm.", "k_norm."].iter().any(|s| param.contains(s));
    match m.position {
        Position::Rope(rope) if rope.pairs == Pairs::Interleaved && rotated => {
            let h = m.heads.dim;
            assert!(start.is_multiple_of(h) && n.is_multiple_of(h), "rows {start} + {n} of {param} cut a head");
            let head = |at: usize| (0..2).flat_map(move |odd| (0..h / 2).map(move |i| at + 2 * i + odd));
            (start..start + n).step_by(h).flat_map(head).map(|row| piece(row, 1)).collect()
        }
        Position::Rope(_) | Position::Alibi => vec![piece(start, n)],
    }
}
