//! What a config's expressions come to: Python's literal values, each entry with the place where it was written.
use std::fmt::{self, Display, Write};
use std::path::Path;
use std::sync::Arc;

/// Where something stands.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Place {
    pub file: Arc<str>,
    /// Counted from 1; 0: the file as a whole.
    pub line: usize,
}

impl Place {
    /// A file as a whole. Control characters of its name would end a comment or move the cursor.
    pub fn file(path: &Path) -> Place {
        let shown = |c: char| if c.is_control() { c.escape_default().to_string() } else { c.to_string() };
        Place { file: path.display().to_string().chars().map(shown).collect::<String>().into(), line: 0 }
    }
}

impl Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        match self.line {
            0 => write!(f, "{}", self.file),
            line => write!(f, "{}:{line}", self.file),
        }
    }
}

/// Something wrong with a config, and the way out.
#[derive(Clone, Debug, PartialEq)]
pub struct Problem {
    pub place: Place,
    pub message: String,
}

impl Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        write!(f, "{}: {}", self.place, self.message)
    }
}

/// A value and the line of its assignment, keyword or item.
#[derive(Clone, Debug, PartialEq)]
pub struct Node {
    pub place: Place,
    pub value: Value,
}

#[derive(Clone, Debug, PartialEq)]
pub enum Value {
    None,
    /// True or False
    Bool(bool),
    /// Python's are unbounded: one that does not fit is refused.
    Int(i64),
    /// May be infinite, as the original's defaults are.
    Float(f64),
    /// Text
    Str(String),
    /// [a, b]
    List(Vec<Node>),
    /// (a, b)
    Tuple(Vec<Node>),
    /// {"a": b} or dict(a=b), in order
    Dict(Vec<(String, Node)>),
}

impl Value {
    pub fn is_true(&self) -> bool {
        match self {
            Value::None => false,
            Value::Bool(b) => *b,
            Value::Int(n) => *n != 0,
            Value::Float(x) => *x != 0.0,
            Value::Str(s) => !s.is_empty(),
            Value::List(items) | Value::Tuple(items) => !items.is_empty(),
            Value::Dict(entries) => !entries.is_empty(),
        }
    }

    /// Its type, with an article.
    pub fn kind(&self) -> &'static str {
        match self {
            Value::None => "None",
            Value::Bool(_) => "a bool",
            Value::Int(_) => "an int",
            Value::Float(_) => "a float",
            Value::Str(_) => "a str",
            Value::List(_) => "a list",
            Value::Tuple(_) => "a tuple",
            Value::Dict(_) => "a dict",
        }
    }

    /// Values in it, itself included, and levels of nesting.
    pub fn extent(&self) -> (usize, usize) {
        let inner = |(size, depth): (usize, usize), node: &Node| {
            let (s, d) = node.value.extent();
            (size + s, depth.max(d + 1))
        };
        match self {
            Value::None | Value::Bool(_) | Value::Int(_) | Value::Float(_) => (1, 1),
            Value::Str(s) => (1 + s.len() / 64, 1),
            Value::List(items) | Value::Tuple(items) => items.iter().fold((1, 1), inner),
            Value::Dict(entries) => entries.iter().map(|(_, node)| node).fold((1, 1), inner),
        }
    }

    /// As `str()` of Python has it.
    pub fn str(&self) -> String {
        match self {
            Value::Str(s) => s.clone(),
            other => other.to_string(),
        }
    }
}

/// As `repr()` of Python has it, but for the rarer escapes in strings.
impl Display for Value {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        let items = |f: &mut fmt::Formatter, items: &[Node]| {
            items.iter().enumerate().try_for_each(|(i, node)| {
                f.write_str(if i > 0 { ", " } else { "" })?;
                node.value.fmt(f)
            })
        };
        match self {
            Value::None => f.write_str("None"),
            Value::Bool(b) => f.write_str(if *b { "True" } else { "False" }),
            Value::Int(n) => write!(f, "{n}"),
            Value::Float(x) => f.write_str(&float(*x)),
            Value::Str(s) => f.write_str(&quoted(s)),
            Value::List(list) => {
                f.write_char('[')?;
                items(f, list)?;
                f.write_char(']')
            }
            Value::Tuple(tuple) => {
                f.write_char('(')?;
                items(f, tuple)?;
                f.write_str(if tuple.len() == 1 { ",)" } else { ")" })
            }
            Value::Dict(entries) => {
                f.write_char('{')?;
                for (i, (key, node)) in entries.iter().enumerate() {
                    write!(f, "{}{}: {}", if i > 0 { ", " } else { "" }, quoted(key), node.value)?;
                }
                f.write_char('}')
            }
        }
    }
}

fn quoted(s: &str) -> String {
    let quote = if s.contains('\'') && !s.contains('"') { '"' } else { '\'' };
    let mut out = String::from(quote);
    for c in s.chars() {
        match c {
            c if c == quote || c == '\\' => out.extend(['\\', c]),
            c if c.is_control() => out.extend(c.escape_default()),
            c => out.push(c),
        }
    }
    out.push(quote);
    out
}

/// The shortest digits that come back as the same float; with an exponent outside 1e-4 .. 1e16.
fn float(x: f64) -> String {
    if x.is_nan() || x.is_infinite() {
        return format!("{x}").to_lowercase();
    }
    let scientific = format!("{x:e}");
    let (digits, exponent) = scientific.split_once('e').expect("{:e} writes an e");
    let exponent: i32 = exponent.parse().expect("an exponent is a number");
    match exponent {
        -4..16 => format!("{x:?}"),
        _ => format!("{digits}e{}{:02}", if exponent < 0 { '-' } else { '+' }, exponent.abs()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn floats_are_written_as_python_writes_them() {
        let cases = [
            (1e-4, "0.0001"),
            (1e-5, "1e-05"),
            (1.5e-7, "1.5e-07"),
            (1e15, "1000000000000000.0"),
            (1e16, "1e+16"),
            (-2.5e100, "-2.5e+100"),
            (8.0 / 3.0, "2.6666666666666665"),
            (0.0, "0.0"),
            (f64::INFINITY, "inf"),
        ];
        for (x, expected) in cases {
            assert_eq!(float(x), expected);
        }
    }

    #[test]
    fn strings_are_quoted_as_python_quotes_them() {
        for (s, expected) in [("a", "'a'"), ("it's", "\"it's\""), ("\"'", "'\"\\''"), ("a\\b\n", "'a\\\\b\\n'")] {
            assert_eq!(quoted(s), expected);
        }
    }
}
