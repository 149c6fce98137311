//! The readers, each with its good inputs. A reader damages one of them, writes it to its folder, reads it as the program
//! does, and says whether it was accepted.
pub mod broken;
mod checkpoints;
mod configs;
mod samples;
mod tokenizers;

use super::numbers::Numbers;
use super::{json, text};
use serde_json::Value;
use std::fs;
use std::path::{Path, PathBuf};

pub type Reader = Box<dyn FnMut(&mut Numbers) -> bool>;

pub struct Target {
    pub name: &'static str,
    /// Makes the good files, in an empty folder, and reads them.
    pub prepare: fn(&Path) -> Reader,
}

pub const TARGETS: &[Target] = &[
    Target { name: "config-json", prepare: checkpoints::config },
    Target { name: "weights", prepare: checkpoints::weights },
    Target { name: "index", prepare: checkpoints::index },
    Target { name: "training", prepare: checkpoints::training },
    Target { name: "manifest", prepare: checkpoints::manifest },
    Target { name: "tokenizer", prepare: tokenizers::json },
    Target { name: "tokenizer-config", prepare: tokenizers::config },
    Target { name: "sentencepiece", prepare: tokenizers::sentencepiece },
    Target { name: "tokens", prepare: samples::tokens },
    Target { name: "internevo", prepare: samples::internevo },
    Target { name: "jsonl", prepare: samples::jsonl },
    Target { name: "text", prepare: samples::plain },
    Target { name: "cache", prepare: samples::cache },
    Target { name: "run-file", prepare: configs::run_file },
    Target { name: "python", prepare: configs::python },
    Target { name: "profile", prepare: configs::profile },
    Target { name: "program", prepare: configs::program },
];

fn golden(model: &str) -> PathBuf {
    repository().join("internevo/tests/goldens").join(model)
}

fn repository() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("a crate lies in the repository").to_path_buf()
}

fn write(path: &Path, contents: impl AsRef<[u8]>) {
    fs::create_dir_all(path.parent().expect("a file lies in a folder")).expect("the desk can be written");
    fs::write(path, contents).expect("the desk can be written");
}

fn read(path: &Path) -> Vec<u8> {
    fs::read(path).unwrap_or_else(|e| panic!("{}: {e}", path.display()))
}

fn read_text(path: &Path) -> String {
    String::from_utf8(read(path)).expect("a good text")
}

/// A reader of one file, which is text.
fn of_text(file: PathBuf, good: Vec<String>, accepts: impl Fn(&Path) -> bool + 'static) -> Reader {
    for text in &good {
        write(&file, text);
        assert!(accepts(&file), "a good input is refused: {text}");
    }
    Box::new(move |numbers| {
        let one = numbers.pick(&good);
        write(&file, text::damaged(numbers, one, &good));
        accepts(&file)
    })
}

/// A reader of one file, which is JSON.
fn of_json(file: PathBuf, good: Vec<Value>, accepts: impl Fn(&Path) -> bool + 'static) -> Reader {
    for value in &good {
        write(&file, value.to_string());
        assert!(accepts(&file), "a good input is refused: {value}");
    }
    Box::new(move |numbers| {
        write(&file, json::damaged(numbers, &good));
        accepts(&file)
    })
}
