//! Where the elements of a parameter lie in the tensors of a family's directory.
use model::models::{self, FileTensor};
use model::{Decoder, Family};
use std::collections::HashMap;
use std::ops::Range;

pub(crate) struct Spelling {
    pub tensors: Vec<FileTensor>,
    /// By parameter; together its spans cover it.
    spans: HashMap<String, Vec<Span>>,
}

/// `len` elements of a parameter from `start` on, and where they lie in tensor number `tensor`.
struct Span {
    start: usize,
    len: usize,
    tensor: usize,
    at: usize,
}

/// A stretch of a tensor, and which of the elements that were asked for it holds.
pub(crate) struct Stretch<'a> {
    pub tensor: &'a str,
    pub at: usize,
    pub range: Range<usize>,
}

impl Spelling {
    /// Of a run's own tensors: every parameter under its name, in the order of a directory's rows.
    pub fn own(decoder: &Decoder) -> Spelling {
        Spelling::new(decoder, Family::Internevo)
    }

    pub fn new(decoder: &Decoder, family: Family) -> Spelling {
        let tensors = models::tensors(decoder, family);
        let mut spans: HashMap<String, Vec<Span>> = HashMap::new();
        for (i, tensor) in tensors.iter().enumerate() {
            let width: usize = tensor.shape[1..].iter().product();
            let mut at = 0;
            for piece in &tensor.pieces {
                let len = piece.rows * width;
                let span = Span { start: piece.start * width, len, tensor: i, at };
                spans.entry(piece.param.clone()).or_default().push(span);
                at += len;
            }
        }
        Spelling { tensors, spans }
    }

    /// Where `len` elements of a parameter from `start` on lie.
    pub fn stretches(&self, param: &str, start: usize, len: usize) -> impl Iterator<Item = Stretch<'_>> {
        let spans = self.spans.get(param).unwrap_or_else(|| panic!("the decoder has no parameter {param}"));
        let elements: usize = spans.iter().map(|s| s.len).sum();
        assert!(start + len <= elements, "elements {start} + {len} of {param}, which has {elements}");
        spans.iter().filter_map(move |s| {
            let (from, to) = (start.max(s.start), (start + len).min(s.start + s.len));
            (from < to).then(|| Stretch {
                tensor: &self.tensors[s.tensor].name,
                at: s.at + from - s.start,
                range: from - start..to - start,
            })
        })
    }

    /// The tensor that holds the whole of a parameter.
    pub fn tensor_of(&self, param: &str) -> Option<&FileTensor> {
        self.tensors.iter().find(|t| matches!(&t.pieces[..], [only] if only.param == param))
    }
}
