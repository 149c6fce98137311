//! InternEvo's own configs, which are Python files, read as data and mapped to the keys of a run file.
//!
//! [`convert`] parses the file with a real parser, evaluates the literal subset of Python that such configs are written
//! in (`expr`, `eval`), and maps the result key by key (`mapping`). Nothing is executed: every construct outside of the
//! subset is an error with its line. Files are read through the function that the caller gives.
mod arith;
mod eval;
mod expr;
mod mapping;
mod parse;
mod report;
mod section;
mod value;

use std::io;
use std::path::Path;
use toml::{Table, Value};

/// How a file is read: the config, and the base configs it imports.
pub type Read<'a> = &'a dyn Fn(&Path) -> io::Result<Vec<u8>>;

/// A config in the keys of a run file.
#[derive(Clone, Debug)]
pub struct Converted {
    pub toml: Table,
    /// What was given but has no effect, or not quite the same one; each with its keys and lines.
    pub notes: Vec<String>,
    settings: Vec<(String, Value)>,
}

/// Converts the config at `path`; or says all that is wrong with it, each problem with its file and line.
pub fn convert(path: &Path, read: Read) -> Result<Converted, Vec<String>> {
    let module = eval::evaluate(path, read).map_err(listed)?;
    let mut report = mapping::map(&module, path);
    if !report.problems.is_empty() {
        report.problems.sort_by(|a, b| a.place.cmp(&b.place));
        return Err(listed(report.problems));
    }
    let main = value::Place::file(path).file;
    let notes = report.notes.iter().map(|note| note.text(&main)).collect();
    let mut toml = Table::new();
    for (key, value) in &report.settings {
        put(&mut toml, key, value.clone());
    }
    Ok(Converted { toml, notes, settings: report.settings })
}

/// As text, and not more than a screen of them.
fn listed(problems: Vec<value::Problem>) -> Vec<String> {
    const MOST: usize = 40;
    let mut out: Vec<String> = problems.iter().take(MOST).map(value::Problem::to_string).collect();
    if problems.len() > MOST {
        out.push(format!("and {} more", problems.len() - MOST));
    }
    out
}

/// Every key of the original that the mapping knows, dotted, in alphabetical order.
pub fn known_keys() -> Vec<String> {
    mapping::known_keys()
}

/// In this order they are written.
const SECTIONS: [&str; 12] = [
    "",
    "model",
    "data",
    "train",
    "loss",
    "optimizer",
    "lr_schedule",
    "precision",
    "memory",
    "parallel",
    "checkpoint",
    "metrics",
];

/// Small floats with an exponent.
fn literal(value: &Value) -> String {
    match value {
        Value::Float(x) if *x != 0.0 && x.abs() < 1e-3 => format!("{x:e}"),
        other => other.to_string(),
    }
}

fn put(table: &mut Table, key: &str, value: Value) {
    match key.split_once('.') {
        None => assert!(table.insert(key.into(), value).is_none(), "{key} is set once"),
        Some((section, rest)) => {
            let inner = table.entry(section).or_insert_with(|| Value::Table(Table::new()));
            put(inner.as_table_mut().expect("a section holds keys"), rest, value);
        }
    }
}

impl Converted {
    /// The run file: the notes as comments, then the keys by section.
    pub fn text(&self, from: &str) -> String {
        let mut out = String::new();
        let mut comment = |text: &str| {
            let line = text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect::<String>();
            out.push_str(&format!("# {line}\n"));
        };
        comment(&format!("Converted from {from}."));
        self.notes.iter().for_each(|note| comment(&format!("- {note}")));
        let section = |key: &str| key.rsplit_once('.').map_or("", |(section, _)| section).to_string();
        let mut sections: Vec<String> = vec![];
        for (key, _) in &self.settings {
            if !sections.contains(&section(key)) {
                sections.push(section(key));
            }
        }
        sections.sort_by_key(|name| SECTIONS.iter().position(|s| Some(*s) == name.split('.').next()));
        for name in sections {
            if !name.is_empty() {
                out.push_str(&format!("\n[{name}]\n"));
            }
            for (key, value) in self.settings.iter().filter(|(key, _)| section(key) == name) {
                let key = key.rsplit_once('.').map_or(key.as_str(), |(_, last)| last);
                out.push_str(&format!("{key} = {}\n", literal(value)));
            }
        }
        out
    }
}
