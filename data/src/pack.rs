//! Packing: documents laid end to end in one stream, rows cut out of it.
//!
//! A row may begin and end inside a document. Each piece of a document in a row is a *segment*: attention
//! does not look across `cu_seqlens`, positions restart at 0. The label of a token is the next token of its
//! document, also where the row ends before the document does; the last token of a document has none.

use std::ops::Range;
use std::sync::Arc;

use crate::ids::TokenIds;

/// Label of a token that carries no loss.
pub const IGNORE: u32 = u32::MAX;

/// One micro-batch of T packed tokens.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Batch {
    /// (T)
    pub ids: Vec<u32>,
    /// (T), a token id or [`IGNORE`]
    pub labels: Vec<u32>,
    /// (T), place of a token in its segment
    pub positions: Vec<u32>,
    /// (segments + 1), where segments begin; from 0 to T
    pub cu_seqlens: Vec<u32>,
    /// (T), what kind of text a token is of: an index into [`Splits::types`](crate::Splits::types), 0 if there are none
    pub types: Vec<u32>,
}

impl Batch {
    pub(crate) fn with_capacity(tokens: usize) -> Batch {
        let of_tokens = || Vec::with_capacity(tokens);
        Batch { ids: of_tokens(), labels: of_tokens(), positions: of_tokens(), cu_seqlens: vec![0], types: of_tokens() }
    }

    /// Append `stream[row]`.
    pub(crate) fn push(&mut self, stream: &Stream, row: Range<usize>) {
        let mut document = stream.document_at(row.start);
        let mut at = row.start;
        while at < row.end {
            let Document { start, ids } = &stream.documents[document];
            let begin = ids.start + (at - start);
            let end = ids.end.min(begin + (row.end - at));
            self.push_segment(&stream.ids, begin..end, end < ids.end);
            at += end - begin;
            document += 1;
        }
    }

    fn push_segment(&mut self, ids: &TokenIds, segment: Range<usize>, continues: bool) {
        let begin = self.ids.len();
        ids.append(segment.clone(), &mut self.ids);
        self.labels.extend_from_slice(&self.ids[begin + 1..]);
        self.labels.push(if continues { ids.at(segment.end) } else { IGNORE });
        self.types.resize(self.ids.len(), 0);
        self.end_segment(segment.len());
    }

    /// The next `len` tokens are a segment.
    pub(crate) fn end_segment(&mut self, len: usize) {
        self.positions.extend(0..len as u32);
        self.cu_seqlens.push(self.positions.len() as u32);
    }
}

/// The documents of one split, end to end.
pub(crate) struct Stream {
    ids: Arc<TokenIds>,
    documents: Vec<Document>,
}

struct Document {
    /// Where it begins in the stream.
    start: usize,
    /// Where its tokens are stored; never empty.
    ids: Range<usize>,
}

impl Stream {
    pub fn new(ids: Arc<TokenIds>, documents: impl Iterator<Item = Range<usize>>) -> Stream {
        let mut start = 0;
        let documents = documents
            .map(|ids| {
                assert!(!ids.is_empty(), "an empty document at {}", ids.start);
                let document = Document { start, ids };
                start += document.ids.len();
                document
            })
            .collect();
        Stream { ids, documents }
    }

    pub fn len(&self) -> usize {
        self.documents.last().map_or(0, |last| last.start + last.ids.len())
    }

    fn document_at(&self, position: usize) -> usize {
        self.documents.partition_point(|document| document.start <= position) - 1
    }
}
