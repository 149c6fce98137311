//! From the text of a run file to a config: every problem with its line, its key and a way out.
//!
//! serde stops at the first problem; here a key that is wrong is taken out and the rest is read again, until nothing is
//! wrong any more.
use anyhow::{Result, bail};
use serde::de::{DeserializeOwned, Error};
use std::collections::{HashMap, HashSet};
use toml::de::{DeTable, DeValue};
use toml::{Table, Value};

/// Keys that have no default, with what to write.
const NEEDED: [(&str, &str); 6] = [
    ("name", "name = \"demo\" at the top"),
    ("model", "a section [model], with init_from = \"DIR\" or with sizes"),
    ("data.kind", "kind = \"text\" under [data]"),
    ("data.seq_len", "seq_len = 512 under [data]"),
    ("data.micro_batch_size", "micro_batch_size = 4 under [data]"),
    ("train.steps", "steps = 100 under [train]"),
];

/// A run file has some thousand bytes; time and memory for it grow with its size.
const MOST_BYTES: usize = 256 << 10;
/// What is told of a file; each is found by reading it once more.
const MOST_PROBLEMS: usize = 40;
/// A longer name is nobody's slip of the pen, and costly to compare.
const LONGEST_SLIP: usize = 64;

pub struct RunText {
    table: Table,
    /// Where a key was given: `line 12: ` or `--set: `.
    places: HashMap<String, String>,
}

/// What was read, and what was wrong with it.
pub struct Reading<T> {
    /// None if keys that have no default are wrong or missing.
    pub config: Option<T>,
    pub problems: Vec<String>,
    /// Keys of these problems: what follows from them is not reported a second time.
    blamed: HashSet<String>,
}

impl RunText {
    pub fn parse(text: &str) -> Result<RunText, toml::de::Error> {
        if text.len() > MOST_BYTES {
            return Err(toml::de::Error::custom(format!(
                "it is larger than {} KiB; remove what is none",
                MOST_BYTES >> 10
            )));
        }
        let mut places = HashMap::new();
        let ends: Vec<usize> = text.match_indices('\n').map(|(at, _)| at).collect();
        put_lines(&ends, DeTable::parse(text)?.get_ref(), "", &mut places);
        Ok(RunText { table: text.parse()?, places })
    }

    /// `key.path=value`; a value that is not TOML is a string.
    pub fn set(&mut self, assignment: &str) -> Result<()> {
        let (path, value) = assignment.split_once('=').unwrap_or((assignment, ""));
        let keys: Vec<&str> = path.split('.').map(str::trim).collect();
        if !assignment.contains('=') || keys.contains(&"") {
            bail!("--set {assignment}: expected key.path=value, as in --set train.steps=10");
        }
        let (last, sections) = keys.split_last().expect("split gives at least one");
        let mut at = &mut self.table;
        for section in sections {
            let entry = at.entry(*section).or_insert_with(|| Value::Table(Table::new()));
            let Value::Table(inner) = entry else { bail!("--set {assignment}: {section} is a key, not a section") };
            at = inner;
        }
        at.insert((*last).into(), value.parse().unwrap_or_else(|_| Value::String(value.into())));
        self.places.insert(keys.join("."), "--set: ".into());
        Ok(())
    }

    pub fn read<T: DeserializeOwned>(&self) -> Reading<T> {
        let mut table = self.table.clone();
        let mut out = Reading { config: None, problems: vec![], blamed: HashSet::new() };
        for (key, example) in NEEDED.iter().filter(|(key, _)| value_at(&self.table, key).is_none()) {
            out.blame(key, format!("{key} is missing; write {example}"));
        }
        loop {
            let error = match serde_path_to_error::deserialize::<_, T>(table.clone()) {
                Ok(config) => return Reading { config: Some(config), ..out },
                Err(error) => error,
            };
            let (at, message) = (error.path().to_string(), error.inner().to_string());
            let at = if at == "." { "" } else { &at };
            let wrong = self.judge(at, message.lines().next().unwrap_or_default(), &mut out);
            if !remove(&mut table, &wrong) {
                return out;
            }
            if out.problems.len() >= MOST_PROBLEMS {
                out.problems.push("and maybe more".into());
                return out;
            }
        }
    }

    /// Puts what serde says in plain words, and names the key that has to go for the rest to be read.
    fn judge<T>(&self, at: &str, message: &str, out: &mut Reading<T>) -> String {
        let quoted: Vec<&str> = message.split('`').skip(1).step_by(2).collect();
        if message.starts_with("unknown field") {
            let (name, known) = (quoted[0], &quoted[1..]);
            let section = at.strip_suffix(name).unwrap_or(at).trim_end_matches('.');
            let (path, near) = (join(section, name), nearest(name, known));
            out.blame(&path, format!("{path} is not a key; {}", hint(near.map(|n| join(section, n)), known)));
            out.blamed.extend(near.map(|n| join(section, n)));
            return path;
        }
        if message.starts_with("missing field") {
            let path = join(at, quoted[0]);
            if !out.blamed.iter().any(|b| *b == path || b.starts_with(&format!("{path}."))) {
                out.blame(&path, format!("{path} is missing"));
            }
            return at.into(); // its section goes, and the others are read
        }
        let value = value_at(&self.table, at).map_or("?".into(), Value::to_string);
        let problem = if message.starts_with("unknown variant") {
            let known: Vec<String> = quoted[1..].iter().map(|k| format!("{k:?}")).collect();
            let near = nearest(quoted[0], &quoted[1..]).map(|n| format!("{n:?}"));
            let known: Vec<&str> = known.iter().map(String::as_str).collect();
            format!("{at} = {value} is not supported; {}", hint(near, &known))
        } else if let Some((_, expected)) = message.rsplit_once(", expected ") {
            format!("{at} = {value}: must be {}", in_plain_words(expected, at))
        } else {
            format!("{at} = {value}: {message}")
        };
        out.blame(at, problem);
        at.into()
    }

    /// The problem with the place of the key that it begins with, or of the section that lacks it.
    pub fn located(&self, problem: &str) -> String {
        let end = problem.find(|c: char| c.is_whitespace() || c == ':').unwrap_or(problem.len());
        let mut path = &problem[..end];
        while !self.places.contains_key(path) {
            let Some((section, _)) = path.rsplit_once('.') else { return problem.into() };
            path = section;
        }
        format!("{}{problem}", self.places[path])
    }
}

impl<T> Reading<T> {
    fn blame(&mut self, key: &str, problem: String) {
        self.blamed.insert(key.into());
        self.problems.push(problem);
    }

    /// Adds problems of the config as a whole.
    pub fn extend(&mut self, problems: Vec<String>) {
        let follows = |p: &String| p.split([' ', ':']).next().is_some_and(|key| self.blamed.contains(key));
        self.problems.extend(problems.into_iter().filter(|p| !follows(p)));
    }
}

/// The line of every key and section, where lines end at these bytes.
fn put_lines(ends: &[usize], table: &DeTable, section: &str, places: &mut HashMap<String, String>) {
    for (key, value) in table {
        let path = join(section, key.get_ref());
        if let DeValue::Table(inner) = value.get_ref() {
            put_lines(ends, inner, &path, places);
        }
        let line = 1 + ends.partition_point(|end| *end < key.span().start);
        places.insert(path, format!("line {line}: "));
    }
}

fn join(section: &str, key: &str) -> String {
    if section.is_empty() { key.into() } else { format!("{section}.{key}") }
}

fn value_at<'a>(table: &'a Table, path: &str) -> Option<&'a Value> {
    match path.split_once('.') {
        None => table.get(path),
        Some((section, rest)) => value_at(table.get(section)?.as_table()?, rest),
    }
}

fn remove(table: &mut Table, path: &str) -> bool {
    match path.split_once('.') {
        None => table.remove(path).is_some(),
        Some((section, rest)) => match table.get_mut(section) {
            Some(Value::Table(inner)) => remove(inner, rest),
            _ => false,
        },
    }
}

fn nearest<'a>(name: &str, known: &[&'a str]) -> Option<&'a str> {
    let distance = |k: &str| strsim::damerau_levenshtein(k, name);
    let known = if name.len() <= LONGEST_SLIP { known } else { &[] };
    let near = known.iter().filter(|k| distance(k) <= 2.max(name.len() / 4) && distance(k) < name.len());
    near.min_by_key(|k| distance(k)).copied()
}

fn hint(near: Option<String>, known: &[&str]) -> String {
    near.map_or_else(|| format!("there are {}", known.join(", ")), |near| format!("did you mean {near}?"))
}

/// The types of Rust as those of TOML.
fn in_plain_words(expected: &str, path: &str) -> String {
    match expected {
        "u16" | "u32" | "u64" | "usize" => "a whole number, not negative".into(),
        "i32" | "i64" | "isize" => "a whole number".into(),
        "f32" | "f64" => "a number".into(),
        "a boolean" => "true or false".into(),
        "a sequence" => "a list, as in [\"a\", \"b\"]".into(),
        "path string" | "a string" | "string or table" => "a string in quotes".into(),
        section if section.starts_with("struct ") => format!("a section, as in [{path}]"),
        other => other.into(),
    }
}
