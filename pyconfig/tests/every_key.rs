//! One config with every key, and the page that lists them.
mod common;

use common::convert_files;
use expect_test::expect_file;
use std::collections::BTreeSet;

const FILES: [(&str, &str); 3] = [
    ("configs/every_key.py", include_str!("configs/every_key.py")),
    ("configs/_base_/runtime.py", include_str!("configs/_base_/runtime.py")),
    ("configs/_base_/models/small.py", include_str!("configs/_base_/models/small.py")),
];

#[test]
fn every_key_is_mapped_or_noted() {
    let converted = convert_files(&FILES).unwrap_or_else(|problems| panic!("{}", problems.join("\n")));
    let text = converted.text("configs/every_key.py");
    assert_eq!(text.parse::<toml::Table>().expect("the text is TOML"), converted.toml);
    expect_file!["configs/every_key.toml"].assert_eq(&text);
}

#[test]
fn the_example_has_every_key() {
    let all = FILES.map(|(_, text)| text).concat();
    let words: BTreeSet<&str> = all.split(|c: char| !c.is_alphanumeric() && c != '_').collect();
    for key in pyconfig::known_keys() {
        let last = key.rsplit('.').next().expect("split gives at least one");
        assert!(words.contains(last), "{key} is in none of the example's files");
    }
}

#[test]
fn the_page_lists_every_key() {
    let page = include_str!("../../docs/internevo-configs.md");
    let first_cells = page.lines().filter_map(|line| line.strip_prefix("| `")?.split(" | ").next());
    let listed: BTreeSet<&str> =
        first_cells.flat_map(|cell| cell.split('`').filter(|key| key.chars().any(char::is_alphanumeric))).collect();
    let known = pyconfig::known_keys();
    let known: BTreeSet<&str> = known.iter().map(String::as_str).collect();
    assert_eq!(known.difference(&listed).collect::<Vec<_>>(), Vec::<&&str>::new(), "not in the page");
    assert_eq!(listed.difference(&known).collect::<Vec<_>>(), Vec::<&&str>::new(), "not in the mapping");
}
