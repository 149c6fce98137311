//! Taking a section apart: every known key is taken out, typed; what is left is unknown.
use crate::report::Report;
use crate::value::{Node, Place, Value};

/// A dict of the config, or its top level.
pub struct Section {
    /// `data`; empty at the top.
    path: String,
    pub place: Place,
    entries: Vec<(String, Node)>,
    /// Keys that were asked for, there or not.
    asked: Vec<String>,
}

/// A value that was given, and where.
pub struct Given<T> {
    pub key: String,
    pub place: Place,
    pub value: T,
}

impl Section {
    pub fn new(path: &str, place: Place, entries: Vec<(String, Node)>) -> Section {
        Section { path: path.into(), place, entries, asked: vec![] }
    }

    pub fn key(&self, key: &str) -> String {
        if self.path.is_empty() { key.into() } else { format!("{}.{key}", self.path) }
    }

    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// The node of a key, None if absent.
    pub fn take(&mut self, r: &mut Report, key: &str) -> Option<Node> {
        r.known.insert(self.key(key));
        self.asked.push(key.into());
        let at = self.entries.iter().position(|(name, _)| name == key)?;
        Some(self.entries.remove(at).1)
    }

    /// What `read` makes of the key's value; Python's None is as good as absent. A wrong type is a problem.
    fn typed<T>(
        &mut self,
        r: &mut Report,
        key: &str,
        expected: &str,
        read: fn(&Value) -> Option<T>,
    ) -> Option<Given<T>> {
        let node = self.take(r, key).filter(|node| node.value != Value::None)?;
        let key = self.key(key);
        match read(&node.value) {
            Some(value) => Some(Given { key, place: node.place, value }),
            None => {
                r.refuse(&node.place, format!("{key} = {}: must be {expected}", shown(&node.value)));
                None
            }
        }
    }

    pub fn whole(&mut self, r: &mut Report, key: &str) -> Option<Given<i64>> {
        self.typed(r, key, "a whole number", |value| match value {
            Value::Int(n) => Some(*n),
            _ => None,
        })
    }

    /// At least `least`.
    pub fn count(&mut self, r: &mut Report, key: &str, least: i64) -> Option<i64> {
        let given = self.whole(r, key)?;
        if given.value < least {
            r.refuse(&given.place, format!("{} = {}: must be at least {least}", given.key, given.value));
            return None;
        }
        Some(given.value)
    }

    /// Finite.
    pub fn number(&mut self, r: &mut Report, key: &str) -> Option<Given<f64>> {
        self.typed(r, key, "a finite number", |value| match value {
            Value::Int(n) => Some(*n as f64),
            Value::Float(x) if x.is_finite() => Some(*x),
            _ => None,
        })
    }

    pub fn flag(&mut self, r: &mut Report, key: &str) -> Option<Given<bool>> {
        self.typed(r, key, "True or False", |value| match value {
            Value::Bool(b) => Some(*b),
            _ => None,
        })
    }

    pub fn text(&mut self, r: &mut Report, key: &str) -> Option<Given<String>> {
        self.typed(r, key, "a string", |value| match value {
            Value::Str(s) => Some(s.clone()),
            _ => None,
        })
    }

    /// Names and whole numbers.
    pub fn counts(&mut self, r: &mut Report, key: &str) -> Option<Given<Vec<(String, i64)>>> {
        self.typed(r, key, "a dict of whole numbers", |value| match value {
            Value::Dict(entries) => entries
                .iter()
                .map(|(name, node)| match node.value {
                    Value::Int(n) => Some((name.clone(), n)),
                    _ => None,
                })
                .collect(),
            _ => None,
        })
    }

    /// A dict inside; an empty one if it is absent or no dict.
    pub fn section(&mut self, r: &mut Report, key: &str) -> Section {
        let given = self.typed(r, key, "a dict", |value| match value {
            Value::Dict(entries) => Some(entries.clone()),
            _ => None,
        });
        match given {
            Some(given) => Section::new(&given.key, given.place, given.value),
            None => Section::new(&self.key(key), self.place.clone(), vec![]),
        }
    }

    /// A section that may be written as the number that is its `size`.
    pub fn sized(&mut self, r: &mut Report, key: &str) -> Section {
        match self.entries.iter().find(|(name, _)| name == key) {
            Some((_, Node { value: Value::Int(_), .. })) => {
                let node = self.take(r, key).expect("just found");
                Section::new(&self.key(key), node.place.clone(), vec![("size".into(), node)])
            }
            _ => self.section(r, key),
        }
    }

    /// Any value will do, because none has an effect here.
    pub fn no_effect(&mut self, r: &mut Report, why: &str, keys: &[&str]) {
        for key in keys {
            if let Some(node) = self.take(r, key) {
                r.note(&self.key(key), &node.place, why);
            }
        }
    }

    /// As [`Section::no_effect`], but not worth a word where it is off: None, False, "" or empty.
    pub fn no_effect_if_off(&mut self, r: &mut Report, why: &str, keys: &[&str]) {
        for key in keys {
            if let Some(node) = self.take(r, key).filter(|node| node.value.is_true()) {
                r.note(&self.key(key), &node.place, why);
            }
        }
    }

    /// Only this value, or None, is possible; any other is refused because of `why`.
    pub fn only(&mut self, r: &mut Report, key: &str, possible: Value, why: &str) {
        let Some(node) = self.take(r, key).filter(|node| node.value != Value::None) else { return };
        let as_number = |value: &Value| crate::arith::number(value);
        let same =
            node.value == possible || as_number(&possible).is_some() && as_number(&node.value) == as_number(&possible);
        if !same {
            let (key, value) = (self.key(key), shown(&node.value));
            r.refuse(&node.place, format!("{key} = {value} is not possible here: {why}; use {possible}, or remove it"));
        }
    }

    /// The end of a section: what was not taken is not known.
    pub fn end(self, r: &mut Report) {
        for (name, node) in &self.entries {
            let known: Vec<&str> = self.asked.iter().map(String::as_str).collect();
            let way_out = match nearest(name, &known) {
                Some(near) => format!("did you mean {}?", self.key(near)),
                None => "remove it if it is not needed".into(),
            };
            r.refuse(&node.place, format!("{} is not a key that is known here; {way_out}", self.key(name)));
        }
    }

    pub fn retain(&mut self, keep: impl Fn(&str) -> bool) {
        self.entries.retain(|(name, _)| keep(name));
    }
}

/// A value in a message: not longer than a line.
pub fn shown(value: &Value) -> String {
    const MOST: usize = 60;
    let text = value.to_string();
    match text.char_indices().nth(MOST) {
        Some((end, _)) => format!("{}...", &text[..end]),
        None => text,
    }
}

pub fn nearest<'a>(name: &str, known: &[&'a str]) -> Option<&'a str> {
    let distance = |k: &str| strsim::damerau_levenshtein(k, name);
    // A long name is nobody's slip of the pen, and costly to compare.
    let near =
        known.iter().filter(|k| name.len() <= 64 && distance(k) <= 2.max(name.len() / 4) && distance(k) < name.len());
    near.min_by_key(|k| (distance(k), **k)).copied()
}
