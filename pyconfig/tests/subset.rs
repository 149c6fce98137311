//! The Python that is read, and that none of the rest is.
mod common;

use common::{SMALL, convert, convert_files};
use std::path::Path;

/// The value of the expression, as Python's repr() has it.
#[track_caller]
fn value(lines: &str, expression: &str) -> Result<String, Vec<String>> {
    let converted = convert(&format!("{SMALL}{lines}\nX = {expression}\nJOB_NAME = f\"{{X!r}}\"\n"))?;
    Ok(converted.toml["name"].as_str().expect("a name is a string").into())
}

#[test]
fn expressions_have_pythons_values() {
    let cases = [
        // literals
        ("1_000", "1000"),
        ("0x10", "16"),
        ("1e-5", "1e-05"),
        ("'it' \"'s\"", "\"it's\""),
        ("r'\\d'", "'\\\\d'"),
        ("'''two\nlines'''", "'two\\nlines'"),
        ("(1,)", "(1,)"),
        ("()", "()"),
        ("[1, 'a', None, True]", "[1, 'a', None, True]"),
        ("{'a': {'b': 1}, 'a': 2}", "{'a': 2}"),
        // arithmetic
        ("512 * 1024 * 1024", "536870912"),
        ("2**24", "16777216"),
        ("2**-1", "0.5"),
        ("-2**2", "-4"),
        ("8 / 3", "2.6666666666666665"),
        ("4 / 2", "2.0"),
        ("7 // 2, -7 // 2, 7 % -3, 7.5 // 2", "(3, -4, -2, 3.0)"),
        ("1 << 20", "1048576"),
        ("6 & 3 | 8 ^ 1", "11"),
        ("~0", "-1"),
        ("'a' + 'b' * 2", "'abb'"),
        ("[1] + [2] * 2", "[1, 2, 2]"),
        ("float('inf')", "inf"),
        ("9.0 ** 0.5", "3.0"),
        // names and parts
        ("N * 2", "8"),
        ("D['a']['b']", "1"),
        ("L[-1], L[0]", "(3, 1)"),
        ("{**D, 'c': 1}", "{'a': {'b': 1}, 'c': 1}"),
        ("dict(D, c=1, **{'d': 2})", "{'a': {'b': 1}, 'c': 1, 'd': 2}"),
        // choices
        ("1 if N > 3 else 2", "1"),
        ("1 < N <= 4", "True"),
        ("N == 4.0", "True"),
        ("None is None", "True"),
        ("N is not None", "True"),
        ("'a' in D, 2 not in L, 'b' in 'abc'", "(True, False, True)"),
        ("None or 'default'", "'default'"),
        ("N and not 0", "True"),
        ("'a' < 'b' and [1] != (1,)", "True"),
        // f-strings
        ("f'{N}-{1 + 1}' 'x' f'{D}'", "\"4-2x{'a': {'b': 1}}\""),
        ("f'{\"q\"!r}{{}}'", "\"'q'{}\""),
        ("f'{f\"{N}\"}{1e-5}{None}'", "'41e-05None'"),
        // builtins
        ("int(50 / 2), int('7'), int(-2.9), int(True)", "(25, 7, -2, 1)"),
        ("float(3), float('1e3')", "(3.0, 1000.0)"),
        ("str(1.0) + str(None)", "'1.0None'"),
        ("bool([]), bool('x')", "(False, True)"),
        ("abs(-3), abs(-1.5)", "(3, 1.5)"),
        ("min(3, 1.5), max([1, 7, 3])", "(1.5, 7)"),
        ("round(2.5), round(3.5), round(2.675, 2)", "(2, 4, 2.67)"),
        ("len(L), len('äb'), len(D)", "(3, 2, 1)"),
        ("list((1, 2)), tuple([1])", "([1, 2], (1,))"),
    ];
    for (expression, expected) in cases {
        let lines = "N = 4\nD = dict(a=dict(b=1))\nL = [1, 2, 3]";
        assert_eq!(value(lines, expression), Ok(expected.into()), "{expression}");
    }
}

#[test]
fn statements_of_a_config_are_read() {
    let cases = [
        ("a = b = 3", "a + b", "6"),
        ("a, (b, c) = 1, (2, 3)", "[a, b, c]", "[1, 2, 3]"),
        ("[a, b] = [1, 2]", "(a, b)", "(1, 2)"),
        ("a: int = 5", "a", "5"),
        ("a = 1\na += 2\na *= 5", "a", "15"),
        ("a = 1\n'a text'\n\"\"\"a longer\none\"\"\"\npass\na = 2  # a comment", "a", "2"),
        ("a = 1; b = 2", "a + b", "3"),
        ("\u{feff}a = 1".trim_start_matches('\u{feff}'), "a", "1"),
    ];
    for (lines, expression, expected) in cases {
        assert_eq!(value(lines, expression), Ok(expected.into()), "{lines}");
    }
    assert!(convert(&format!("\u{feff}{SMALL}")).is_ok(), "a byte order mark");
    assert!(convert(&SMALL.replace('\n', "\r\n")).is_ok(), "line ends of Windows");
}

/// Each line is refused at its place, with the construct and a way out.
#[test]
fn everything_else_is_refused_by_name() {
    let cases = [
        // Would be executed.
        ("X = print('x')", "print(...) is not read"),
        ("print('x')", "print(...) is not read"),
        ("X = __import__('os').system('true')", ".system(...) would be executed"),
        ("X = __import__('os')", "__import__(...) is not read"),
        ("X = open('file')", "open(...) is not read"),
        ("X = eval('1')", "eval(...) is not read"),
        ("X = 'a'.upper()", ".upper(...) would be executed"),
        ("X = (lambda: 1)()", "a computed function"),
        ("import os", "import os is not read"),
        ("import os.path as p, sys", "import os.path, sys is not read"),
        ("from os import environ", "from os import ... is not read"),
        ("def f(): pass", "a function is not read"),
        ("class C: pass", "a class is not read"),
        ("for i in [1]: pass", "a loop is not read"),
        ("while 1: pass", "a loop is not read"),
        ("if 1: X = 2", "write `a if test else b`"),
        ("try:\n    X = 1\nfinally:\n    pass", "an exception is not read"),
        ("assert True", "an exception is not read"),
        ("with open('f') as f: pass", "only read as `with read_base():`"),
        ("with read_base():\n    X = 1", "only `from ... import *` can stand"),
        ("del SEQ_LEN", "del is not read"),
        ("match 1:\n    case 1: pass", "a match statement is not read"),
        ("type X = int", "a type is not read"),
        ("global X", "global or nonlocal"),
        // Other expressions.
        ("X = torch.bfloat16", "torch.bfloat16 is an attribute"),
        ("X = [i for i in [1]]", "a comprehension is not read"),
        ("X = {i: 1 for i in [1]}", "a comprehension is not read"),
        ("X = lambda: 1", "a lambda is not read"),
        ("X = {1, 2}", "a set is not read"),
        ("X = b'x'", "a bytes literal is not read"),
        ("X = ...", "... is not read"),
        ("X = 1j", "a complex number"),
        ("X = (Y := 1)", "(:=) is not read"),
        ("X = [*[1]]", "an unpacking (*) is not read"),
        ("X = [1, 2][0:1]", "a slice is not read"),
        ("X = f'{1:.2f}'", "a format (after : or =) in an f-string"),
        ("X = f'{1=}'", "a format (after : or =) in an f-string"),
        ("X = '%d' % 1", "% formatting is not read"),
        ("X = dict(1)", "** takes a dict"),
        ("X = {1: 2}", "the key of a dict must be a string"),
        ("X = int('1', base=2)", "int() with a keyword"),
        ("X = int('one')", "is no whole number"),
        ("X = int([1])", "int(a list) is not read"),
        ("X = max()", "max() of nothing"),
        ("X = max(1, 'a')", "max() cannot compare"),
        ("X = int", "int is a function, not a value"),
        ("model['hidden_size'] = 1", "an assignment to a part of a dict"),
        ("X = [1]\nX += [2]", "+= on a list is not read"),
        ("X.y = 1", "only names can be assigned to"),
        ("A, B = 1, 2, 3", "2 names need as many values"),
        // What Python would raise.
        ("X = 1 / 0", "/ by zero"),
        ("X = 1 // 0", "// by zero"),
        ("X = 1 % 0.0", "% by zero"),
        ("X = 0.0 ** -1", "division by zero"),
        ("X = 'a' + 1", "+ cannot be applied to a str and an int"),
        ("X = 'a' < 1", "cannot be compared"),
        ("X = 'a' is 'a'", "write == for equality"),
        ("X = NOT_THERE", "NOT_THERE is not defined above this line"),
        ("HIDDEN = 1\nX = HIDEN", "did you mean HIDDEN?"),
        ("X = model['hiden_size']", "there is no \"hiden_size\" in this dict"),
        ("X = [1][5]", "there is no item 5 among 1"),
        ("X = [1][-9223372036854775807]", "there is no item"),
        ("X = (-8.0) ** 0.5", "no finite real number"),
        ("X = dict(a=1", "is not Python"),
        ("X = = 1", "is not Python"),
        ("  X = 1", "is not Python"),
        ("X = 'open", "is not Python"),
        ("X = dict(a=1, a=2)", "is not Python"),
        ("!ls", "is not Python"),
    ];
    let before = SMALL.lines().count();
    for (lines, needle) in cases {
        let problems = convert(&format!("{SMALL}{lines}\n")).expect_err(lines);
        let last = before + lines.lines().count();
        let place = |p: &String| {
            let line = p.strip_prefix("run.py:").and_then(|p| p.split(':').next()?.parse().ok());
            line.is_some_and(|line: usize| (before + 1..=last + 1).contains(&line))
        };
        let found = problems.iter().any(|p| p.contains(needle) && place(p));
        assert!(found, "{lines}: {problems:#?}");
    }
}

#[test]
fn all_problems_come_at_once_and_each_once() {
    let problems = convert(&format!("A = torch.x\nB = A + 1\nC = B * A\nD = [1][3]\n{SMALL}")).unwrap_err();
    assert_eq!(problems.len(), 2, "{problems:#?}");
    assert!(problems[0].starts_with("run.py:1: torch.x") && problems[1].starts_with("run.py:4: "), "{problems:#?}");
}

#[test]
fn hostile_text_is_refused_quickly() {
    let nested =
        |open: &str, inner: &str, close: &str, n: usize| format!("X = {}{inner}{}", open.repeat(n), close.repeat(n));
    let cases = [
        (nested("(", "1", ")", 100_000), "without a comma"),
        (nested("[", "", "]", 100_000), "without a comma"),
        (nested("{'a': ", "1", "}", 30_000), "without a comma"),
        (nested("dict(a=", "1", ")", 20_000), "without a comma"),
        (nested("not ", "1", "", 60_000), "without a comma"),
        (nested("-", "1", "", 200_000), "without a comma"),
        (nested("1 if 1 else ", "1", "", 20_000), "without a comma"),
        (nested("lambda: ", "1", "", 30_000), "without a comma"),
        (nested("", "1", "+1", 100_000), "without a comma"),
        (nested("", "f", "()", 100_000), "without a comma"),
        (nested("", "a", ".a", 100_000), "without a comma"),
        (nested("", "a", "[0]", 60_000), "without a comma"),
        (nested("", "1", " < 1", 50_000), "without a comma"),
        (nested("f'{", "1", "}'", 50_000), "without a comma"),
        (nested("", "'a'", " 'a'", 50_000), "without a comma"),
        ((0..400).map(|i| format!("{}if 1:\n", " ".repeat(i))).collect(), "without a comma"),
        (nested("(", "1", ")", 250), ""),
        (nested("not ", "1", "", 250), ""),
        (nested("1 if 0 else ", "1", "", 60), ""),
        (nested("", "1", "+1", 120), ""),
        (nested("lambda: ", "1", "", 120), "a lambda is not read"),
        (nested("f'{", "1", "}'", 80), ""),
        (nested("[", "1,", "]", 32), "nest deeper than 32"),
        ("X = [0]\n".to_string() + &"X = [X]\n".repeat(20_000), "nest deeper than 32"),
        ("X = [0, 0]\n".to_string() + &"X = [X, X, X, X, X, X, X, X]\n".repeat(30), "more than 1000000 values"),
        ("X = [0] * 60000\n".to_string() + &"Y = [X, X, X]\n".repeat(100), "more than 1000000 values"),
        ("X = 'ab'\n".to_string() + &"X = X + X\n".repeat(60), "a length of more than"),
        ("X = 'ab'\n".to_string() + &"X = f'{X}{X}'\n".repeat(60), "comes to more than"),
        ("X = 'ab' * 9999999999".into(), "a length of more than"),
        ("X = [1] * 9999999999".into(), "a length of more than"),
        ("X = [0] * 60000\nX = [X] * 60000".into(), "a length of more than"),
        ("X = 9**9**9".into(), "beyond 64 bits"),
        ("X = 2**99999999999".into(), "beyond 64 bits"),
        ("X = 1 << 9999".into(), "beyond 64 bits"),
        (format!("X = {}", "9".repeat(5000)), "beyond 64 bits"),
        ("X = 1e300 * 1e300".into(), "no finite real number"),
        ("X = 10.0 ** 400".into(), "no finite real number"),
        ("X = int(1e300)".into(), "int(a float) is not read"),
        ("X = int(float('nan'))".into(), "int(a float) is not read"),
        ("X = -(-9223372036854775807 - 1)".into(), "beyond 64 bits"),
        (format!("X = dict({})", (0..5000).map(|i| format!("a{i}=1, ")).collect::<String>()), "more than 4096 keys"),
        ("#".repeat(300 << 10), "is larger than 256 KiB"),
        ("X = '\0'\n\0".into(), "is not Python"),
        ((0..9_000).map(|i| format!("A{i}=1\nX=B{i}\n")).collect(), "and 8960 more"),
        (
            format!(
                "D = dict({})\n{}",
                (0..4000).map(|i| format!("a{i}=1, ")).collect::<String>(),
                "X = D == D\n".repeat(9_000)
            ),
            "more than 1000000 values",
        ),
    ];
    for (text, needle) in cases {
        let began: String = text.chars().take(40).collect();
        let result = convert(&format!("{SMALL}{text}\n"));
        match (result, needle) {
            (Ok(_), "") => {}
            (Ok(_), _) => panic!("{began} was read"),
            (Err(problems), _) => {
                let found = !needle.is_empty() && problems.iter().any(|p| p.contains(needle));
                assert!(found, "{began}: {:.500}", problems.join("\n"));
                assert!(problems.iter().all(|p| p.len() < 1000), "{began}: a problem is a line");
            }
        }
    }
}

/// Whatever stands in a file: an answer, no panic.
#[test]
fn cut_and_mixed_up_texts_are_answered() {
    let text = include_str!("configs/every_key.py");
    for end in (0..text.len()).step_by(7).filter(|end| text.is_char_boundary(*end)) {
        let _ = convert(&text[..end]);
    }
    // Every word replaced by every other sort of token.
    let words: Vec<&str> = SMALL.split_inclusive([' ', '\n', '(', ')', ',', '=']).collect();
    for i in 0..words.len() {
        for other in ["", "(", ")", "None", "-1", "1e999", "'x'", "[", "]", "lambda", "*", "**", "\n", "f'{", "dict()"]
        {
            let mixed: String = words.iter().enumerate().map(|(j, w)| if i == j { other } else { w }).collect();
            let _ = convert(&mixed);
        }
    }
}

#[test]
fn a_file_that_is_not_utf_8_names_its_line() {
    let read = |_: &Path| Ok(b"A = 1\nB = '\xff'\n".to_vec());
    let problems = pyconfig::convert(Path::new("run.py"), &read).unwrap_err();
    assert_eq!(problems, ["run.py:2: is not UTF-8 from here on; save the file as UTF-8"]);
}

#[test]
fn bases_are_found_from_any_folder_above() {
    let import = "with read_base():\n    from configs._base_.small import *\n";
    let config = format!("from internlm.utils.utils import read_base\n{import}JOB_NAME = 'other'\n");
    for (path, base) in [
        ("configs/run.py", "configs/_base_/small.py"),
        ("configs/deep/er/run.py", "configs/_base_/small.py"),
        ("/x/configs/run.py", "/x/configs/_base_/small.py"),
        ("run.py", "../configs/_base_/small.py"),
        ("run.py", "configs/_base_/small.py"),
    ] {
        let converted = convert_files(&[(path, &config), (base, SMALL)]).expect(path);
        assert_eq!(converted.toml["name"].as_str(), Some("other"), "{path}");
    }
    // Relative, and by name.
    let config = "with read_base():\n    from .._base_.small import model, data as data, ckpt\n    from .._base_.small import hybrid_zero_optimizer, adam as adam\n";
    let converted = convert_files(&[("configs/a/run.py", config), ("configs/_base_/small.py", SMALL)]).unwrap();
    assert_eq!(converted.toml["name"].as_str(), Some("AnonymousJob"), "JOB_NAME was not asked for");
    // What is private stays there.
    let base = format!("{SMALL}_secret = 1\n");
    let config = format!("{import}X = _secret\n");
    let problems = convert_files(&[("run.py", &config), ("configs/_base_/small.py", &base)]).unwrap_err();
    assert!(problems[0].contains("_secret is not defined"), "{problems:#?}");
}

#[test]
fn bases_that_are_wrong_are_named() {
    let import = |name: &str| format!("with read_base():\n    from configs.{name} import *\n");
    let cases: [(&[(&str, &str)], &str); 5] = [
        (
            &[("run.py", &import("gone"))],
            "run.py:2: configs.gone is not there; tried configs/gone.py, ../configs/gone.py",
        ),
        (
            &[("configs/a.py", &import("b")), ("configs/b.py", &import("a"))],
            "configs/b.py:2: configs.a imports itself, through configs/a.py",
        ),
        (&[("configs/a.py", &import("a"))], "configs/a.py:2: configs.a imports itself"),
        (&[("a.py", &import("b")), ("configs/b.py", "X = 1 / 0")], "configs/b.py:1: / by zero"),
        (
            &[("a.py", "with read_base():\n    from configs.b import Y"), ("configs/b.py", "X = 1")],
            "a.py:2: configs/b.py does not define Y",
        ),
    ];
    for (files, needle) in cases {
        let problems = convert_files(files).unwrap_err();
        assert!(problems.iter().any(|p| p.contains(needle)), "{needle}: {problems:#?}");
    }
    // Each imports the next one twice: without a bound that is 2^30 files.
    let names: Vec<String> = (0..31).map(|i| format!("configs/b{i}.py")).collect();
    let texts: Vec<String> = (0..31).map(|i| import(&format!("b{}", i + 1)).repeat(2)).collect();
    let files: Vec<(&str, &str)> = names.iter().zip(&texts).map(|(n, t)| (n.as_str(), t.as_str())).collect();
    let problems = convert_files(&files).unwrap_err();
    assert!(problems.iter().any(|p| p.contains("files deep")), "{:.500}", problems.join("\n"));
}
