//! Plain text: a file is a document, and a long file is cut into several.

use std::ops::Range;

/// A longer file is cut, so that a corpus of one file can have a held-out part and be tokenised in parallel.
const DOCUMENT_BYTES: usize = 64 << 10;

/// Documents that together are the file; none if it is empty.
pub(super) fn divide(text: &str) -> Vec<Range<usize>> {
    let mut documents = Vec::new();
    let mut start = 0;
    while start < text.len() {
        let end = start + first_document(&text[start..]);
        documents.push(start..end);
        start = end;
    }
    documents
}

/// Where to cut: after a blank line, else after a line, else between two characters. A cut that would leave
/// less than half of what is allowed is passed over for the next kind.
fn first_document(text: &str) -> usize {
    if text.len() <= DOCUMENT_BYTES {
        return text.len();
    }
    let window = &text[..text.floor_char_boundary(DOCUMENT_BYTES)];
    ["\n\n", "\n\r\n", "\n"]
        .iter()
        .filter_map(|ending| window.rfind(ending).map(|at| at + ending.len()))
        .find(|cut| *cut >= DOCUMENT_BYTES / 2)
        .unwrap_or(window.len())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const D: usize = DOCUMENT_BYTES;

    #[test]
    fn cuts_at_the_best_place() {
        let text = |paragraph: usize, ending: &str| format!("{}{ending}{}", "x".repeat(paragraph), "y".repeat(D));
        for (paragraph, ending, cut) in [
            (D - 10, "\n\n", D - 8),    // after the blank line
            (D - 10, "\n\r\n", D - 7),  // after a blank line from Windows
            (D - 10, "\n", D - 9),      // after the line
            (D / 2 - 2, "\n\n", D / 2), // the earliest cut there may be
            (10, "\n\n", D),            // too early: anywhere
            (D - 1, "é", D - 1),        // not inside a character
        ] {
            let text = text(paragraph, ending);
            assert_eq!(divide(&text)[0], 0..cut, "{paragraph} {ending:?}");
        }
        assert!(divide("").is_empty());
        assert_eq!(divide(&"x".repeat(D)).len(), 1);
    }

    proptest! {
        #[test]
        fn documents_together_are_the_file(line in "[a-zé中\n\r]{1,40}", times in 0usize..20_000) {
            let text = line.repeat(times);
            let documents = divide(&text);
            prop_assert_eq!(documents.iter().map(|d| &text[d.clone()]).collect::<String>(), &text[..]);
            prop_assert!(documents.iter().all(|d| !d.is_empty() && d.len() <= D));
            let last = documents.len().saturating_sub(1);
            prop_assert!(documents[..last].iter().all(|d| d.len() >= D / 2));
        }
    }
}
