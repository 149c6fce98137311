//! From bytes to a syntax tree with line numbers, within limits that keep every later recursion shallow.
use crate::value::{Place, Problem};
use ruff_python_ast::Stmt;
use ruff_python_parser::lexer::lex;
use ruff_python_parser::{Mode, parse_module};
use ruff_text_size::{Ranged, TextSize};
use std::path::Path;
use std::sync::Arc;

/// The shipped configs have less than 12 kB.
const MOST_BYTES: usize = 256 << 10;
/// Tokens between the start of a statement and any point of it, without finished items of lists: a bound on the depth
/// of the tree. The shipped configs stay below 30.
const MOST_OPEN: usize = 256;

pub struct Source {
    file: Arc<str>,
    /// Offset of the first byte of every line.
    lines: Vec<usize>,
    pub body: Vec<Stmt>,
}

impl Source {
    pub fn place(&self, at: impl Ranged) -> Place {
        self.place_at(at.start())
    }

    fn place_at(&self, at: TextSize) -> Place {
        Place { file: self.file.clone(), line: self.lines.partition_point(|&line| line <= at.to_usize()) }
    }
}

pub fn parse(path: &Path, bytes: &[u8]) -> Result<Source, Problem> {
    let file = Place::file(path).file;
    let refuse = |line: usize, message: String| Problem { place: Place { file: file.clone(), line }, message };
    if bytes.len() > MOST_BYTES {
        return Err(refuse(0, format!("is larger than {} KiB: this is not a config", MOST_BYTES >> 10)));
    }
    let text = std::str::from_utf8(bytes).map_err(|e| {
        let line = 1 + bytes[..e.valid_up_to()].iter().filter(|&&b| b == b'\n').count();
        refuse(line, "is not UTF-8 from here on; save the file as UTF-8".into())
    })?;
    // A byte order mark is no part of the text.
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    if deepest(text) > MOST_OPEN {
        let way_out = "give the inner parts names of their own";
        return Err(refuse(0, format!("has an expression of more than {MOST_OPEN} parts without a comma; {way_out}")));
    }
    let lines = std::iter::once(0).chain(text.match_indices('\n').map(|(at, _)| at + 1)).collect();
    let mut source = Source { file: file.clone(), lines, body: vec![] };
    match parse_module(text) {
        Ok(parsed) => source.body = parsed.into_syntax().body,
        Err(error) => {
            let place = source.place_at(error.location.start());
            return Err(Problem { place, message: format!("is not Python: {}", error.error) });
        }
    }
    Ok(source)
}

/// The largest number of tokens that are open at once: those of the item at hand, of the one around it, and so on.
/// The lexer is a loop, the parser is recursive; so this comes first.
fn deepest(text: &str) -> usize {
    use ruff_python_ast::token::TokenKind as T;
    let mut lexer = lex(text, Mode::Module);
    let (mut open, mut total, mut most) = (vec![0usize], 0, 0);
    loop {
        let last = open.last_mut().expect("the outermost level is never closed");
        match lexer.next_token() {
            T::EndOfFile => return most,
            T::Lpar | T::Lsqb | T::Lbrace | T::FStringStart | T::TStringStart | T::Indent => {
                *last += 1;
                total += 1;
                open.push(0);
            }
            T::Rpar | T::Rsqb | T::Rbrace | T::FStringEnd | T::TStringEnd | T::Dedent => {
                if open.len() > 1 {
                    total -= open.pop().expect("just checked");
                }
            }
            T::Comma | T::Semi | T::Newline => {
                total -= *last;
                *last = 0;
            }
            T::Comment | T::NonLogicalNewline => {}
            _ => {
                *last += 1;
                total += 1;
            }
        }
        most = most.max(total);
    }
}
