//! Damage of text: other numbers, other words, lines that are gone or there twice, brackets without an end.
use super::bytes::{self, MOST_BYTES, times};
use super::numbers::Numbers;

pub const NUMBERS: [&str; 20] = [
    "0",
    "1",
    "-1",
    "2",
    "3",
    "255",
    "65536",
    "2147483647",
    "2147483648",
    "4294967296",
    "1000000000000000000",
    "9223372036854775807",
    "9223372036854775808",
    "-9223372036854775808",
    "18446744073709551615",
    "18446744073709551616",
    "0.5",
    "1e308",
    "-1e999",
    "1e-320",
];

/// Names that leave a folder, that end a C string, that are too long for a file, that are no text.
pub fn hostile_name(numbers: &mut Numbers) -> String {
    match numbers.below(8) {
        0 => "../".repeat(numbers.count(64)) + "outside",
        1 => "/etc/passwd".into(),
        2 => "a\0b".into(),
        3 => "x".repeat(4096),
        4 => "..".into(),
        5 => String::new(),
        6 => "\u{feff}\u{202e}\u{10ffff}é`'\"\\\n".into(),
        _ => "/".into(),
    }
}

/// What opens and need not be closed.
const OPEN: [&str; 14] =
    ["[", "{", "(", "{\"a\":", "[{\"a\":[", "a.", "-", "not ", "**", "[[", "x=", "if a else ", "f'{", "\"\"\""];

/// A few changes of one good text.
pub fn damaged(numbers: &mut Numbers, good: &str, others: &[String]) -> Vec<u8> {
    let mut out = good.to_string();
    for _ in 0..numbers.count(8) {
        out = change(numbers, out, others);
        cut(&mut out, MOST_BYTES);
    }
    if numbers.once_in(8) {
        let others: Vec<Vec<u8>> = others.iter().map(|text| text.clone().into()).collect();
        return bytes::damaged(numbers, out.as_bytes(), &others);
    }
    out.into()
}

fn change(numbers: &mut Numbers, mut text: String, others: &[String]) -> String {
    match numbers.below(12) {
        0..=3 => {
            if let Some((from, to)) = run(numbers, &text, |c| c.is_ascii_digit() || c == '.') {
                text.replace_range(from..to, numbers.pick::<&str>(&NUMBERS));
            }
        }
        4 => {
            if let Some((from, to)) = run(numbers, &text, |c| c.is_alphanumeric() || c == '_') {
                let word = word(numbers, others);
                text.replace_range(from..to, &word);
            }
        }
        5 => {
            let at = place(numbers, &text);
            text.insert_str(at, &hostile_name(numbers));
        }
        6 => {
            let open = numbers.pick(&OPEN);
            let at = place(numbers, &text);
            text.insert_str(at, &open.repeat(times(numbers, open.len()).max(numbers.count(300))));
        }
        7 => {
            let at = place(numbers, &text);
            text.truncate(at);
        }
        8 => {
            let (at, from) = (place(numbers, &text), numbers.pick(others));
            let piece = &from[place(numbers, from)..];
            text.insert_str(at, &piece[..piece.floor_char_boundary(numbers.count(400))]);
        }
        _ => text = lines(numbers, &text),
    }
    text
}

/// A line that is gone, repeated (with its digits counted up, so that keys differ) or elsewhere.
fn lines(numbers: &mut Numbers, text: &str) -> String {
    let mut lines: Vec<String> = text.split('\n').map(str::to_string).collect();
    let at = numbers.below(lines.len());
    match numbers.below(4) {
        0 => drop(lines.remove(at)),
        1 => {
            let to = numbers.below(lines.len());
            lines.swap(at, to);
        }
        2 => {
            let again = vec![lines[at].clone(); times(numbers, lines[at].len() + 1)];
            lines.splice(at..at, again);
        }
        _ => {
            let line = lines[at].clone();
            let count = times(numbers, line.len() + 6);
            lines.splice(at..at, (0..count).map(|i| format!("k{i}{line}")));
        }
    }
    lines.join("\n")
}

/// A word of one of the texts.
fn word(numbers: &mut Numbers, others: &[String]) -> String {
    let text = numbers.pick(others);
    match run(numbers, text, |c| c.is_alphanumeric() || c == '_') {
        Some((from, to)) => text[from..to].into(),
        None => String::new(),
    }
}

/// The first run of such characters behind some place.
fn run(numbers: &mut Numbers, text: &str, of: impl Fn(char) -> bool) -> Option<(usize, usize)> {
    let start = place(numbers, text);
    let from = start + text[start..].find(&of)?;
    let len = text[from..].find(|c| !of(c)).unwrap_or(text.len() - from);
    Some((from, from + len))
}

fn place(numbers: &mut Numbers, text: &str) -> usize {
    text.floor_char_boundary(numbers.below(text.len() + 1))
}

pub fn cut(text: &mut String, most: usize) {
    let end = text.floor_char_boundary(most.min(text.len()));
    text.truncate(end);
}
