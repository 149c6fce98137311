//! What comes of a mapping: settings, notes and problems.
use crate::value::{Place, Problem};
use std::collections::BTreeSet;

#[derive(Default)]
pub struct Report {
    pub problems: Vec<Problem>,
    pub notes: Vec<Note>,
    /// Dotted keys of the run file, in order.
    pub settings: Vec<(String, toml::Value)>,
    /// Keys that only a mixture of experts has, as far as they are given.
    pub experts: Vec<(String, Place)>,
    /// Every key that was asked for, there or not.
    pub known: BTreeSet<String>,
}

/// One reason, and the keys it is about.
pub struct Note {
    why: String,
    keys: Vec<(String, Place)>,
}

impl Report {
    pub fn refuse(&mut self, place: &Place, message: impl Into<String>) {
        self.problems.push(Problem { place: place.clone(), message: message.into() });
    }

    /// The key is read, but what it says is not, or not all of it, carried over.
    pub fn note(&mut self, key: &str, place: &Place, why: &str) {
        let key = (key.to_string(), place.clone());
        match self.notes.iter_mut().find(|note| note.why == why) {
            Some(note) => note.keys.push(key),
            None => self.notes.push(Note { why: why.into(), keys: vec![key] }),
        }
    }

    /// A key of the run file.
    pub fn set(&mut self, key: &str, value: impl Into<toml::Value>) {
        self.settings.push((key.into(), value.into()));
    }

    /// If there is a value.
    pub fn set_some(&mut self, key: &str, value: Option<impl Into<toml::Value>>) {
        if let Some(value) = value {
            self.set(key, value);
        }
    }
}

impl Note {
    /// `data.num_worker (line 60): why`, with the file where it is not `main`.
    pub fn text(&self, main: &str) -> String {
        let keys: Vec<String> = self
            .keys
            .iter()
            .map(|(key, place)| match place {
                Place { line: 0, .. } => key.clone(),
                Place { file, line } if **file == *main => format!("{key} (line {line})"),
                place => format!("{key} ({place})"),
            })
            .collect();
        format!("{}: {}", keys.join(", "), self.why)
    }
}
