//! Just enough of a Rust lexer to tell code from what is said about it.

/// Rust without comments and without what stands in literals, line for line.
pub fn code(source: &str) -> String {
    let mut out = String::new();
    let mut rest = source;
    while let Some(first) = rest.chars().next() {
        let (kept, length) = match first {
            '/' if rest.starts_with("//") => ("", rest.find('\n').unwrap_or(rest.len())),
            '/' if rest.starts_with("/*") => ("", block_comment(rest)),
            '"' => ("\"\"", string(rest)),
            'r' if raw_string(rest).is_some() => ("\"\"", raw_string(rest).expect("it is one")),
            '\'' if character(rest).is_some() => ("' '", character(rest).expect("it is one")),
            _ => (&rest[..first.len_utf8()], first.len_utf8()),
        };
        out.push_str(kept);
        if kept != "\n" {
            out.extend(rest[..length].chars().filter(|c| *c == '\n'));
        }
        rest = &rest[length..];
    }
    out
}

/// Bytes of the block comment that `text` begins with; they nest.
fn block_comment(text: &str) -> usize {
    let (mut depth, mut at) = (0, 0);
    while at < text.len() {
        match &text.as_bytes()[at..] {
            [b'/', b'*', ..] => (depth, at) = (depth + 1, at + 2),
            [b'*', b'/', ..] => (depth, at) = (depth - 1, at + 2),
            _ => at += 1,
        }
        if depth == 0 {
            break;
        }
    }
    at
}

/// Bytes of the string literal that `text` begins with.
fn string(text: &str) -> usize {
    let mut escaped = false;
    let end = text.char_indices().skip(1).find(|(_, c)| {
        let ends = *c == '"' && !escaped;
        escaped = *c == '\\' && !escaped;
        ends
    });
    end.map_or(text.len(), |(at, _)| at + 1)
}

/// Bytes of the raw string literal that `text` begins with, if it does.
fn raw_string(text: &str) -> Option<usize> {
    let hashes = text[1..].chars().take_while(|c| *c == '#').count();
    let inside = text[1 + hashes..].strip_prefix('"')?;
    let end = format!("\"{}", "#".repeat(hashes));
    Some(inside.find(&end).map_or(text.len(), |at| 2 + hashes + at + end.len()))
}

/// Bytes of the character literal that `text` begins with; a lifetime is none.
fn character(text: &str) -> Option<usize> {
    let mut inside = text[1..].chars();
    match inside.next()? {
        '\\' => text[3..].find('\'').map(|at| at + 4),
        c => (inside.next()? == '\'').then_some(c.len_utf8() + 2),
    }
}

#[test]
fn only_code_counts() {
    let check = |source: &str, expected: &str| assert_eq!(code(source), expected, "{source}");
    check("a // unsafe\nb", "a \nb");
    check("a /* x /* y\n */ z */ b", "a \n b");
    check(r#"f("a \" b", 'x', '\'', '"')"#, r#"f("", ' ', ' ', ' ')"#);
    check("r#\"a \" \n b\"# + r#type", "\"\"\n + r#type");
    check("fn f<'a>(x: &'a str) -> &'a str", "fn f<'a>(x: &'a str) -> &'a str");
    check("\"é\" + 'é' + é", "\"\" + ' ' + é");
}
