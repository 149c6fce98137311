//! The ways of products that were found by timing, kept on disk: the next run starts with them, and has the same bits.
//!
//! A line for each kind: its name, then the 64 bytes that cuBLASLt gives for an algorithm. They mean something to the same
//! version of the library on the same model of card, which are in the name of the file.
use cudarc::cublaslt::sys::cublasLtGetVersion;
use std::collections::HashMap;
use std::io::Write;
use std::path::{Path, PathBuf};

/// An algorithm, as the library gives it.
pub type Algorithm = [u64; 8];

#[derive(Default)]
pub struct Ways {
    /// None: nothing is kept.
    file: Option<PathBuf>,
    known: HashMap<String, Algorithm>,
}

impl Ways {
    /// cuBLASLt is loaded.
    pub fn of(card: &str, cache: Option<&Path>) -> Ways {
        // SAFETY: the library is loaded; no argument.
        let version = unsafe { cublasLtGetVersion() };
        let name: String = card.chars().map(|c| if c.is_ascii_alphanumeric() { c } else { '_' }).collect();
        let file = cache.map(|cache| cache.join(format!("products-{name}-{version}.txt")));
        let text = file.as_ref().and_then(|file| std::fs::read_to_string(file).ok()).unwrap_or_default();
        // A line that is damaged is timed again.
        Ways { file, known: text.lines().filter_map(parse).collect() }
    }

    pub fn get(&self, kind: &str) -> Option<Algorithm> {
        self.known.get(kind).copied()
    }

    /// Others may add to the same file at the same time: a line is one write.
    pub fn keep(&mut self, kind: String, algorithm: Algorithm) {
        if let Some(file) = &self.file {
            let append = || {
                std::fs::create_dir_all(file.parent().expect("the cache is a folder"))?;
                let mut file = std::fs::OpenOptions::new().create(true).append(true).open(file)?;
                file.write_all(line(&kind, &algorithm).as_bytes())
            };
            if let Err(e) = append() {
                eprintln!("note: {} cannot be written ({e}): the next run times its products again", file.display());
                self.file = None;
            }
        }
        self.known.insert(kind, algorithm);
    }
}

fn line(kind: &str, algorithm: &Algorithm) -> String {
    let words: String = algorithm.iter().map(|word| format!("{word:016x}")).collect();
    format!("{kind}\t{words}\n")
}

fn parse(line: &str) -> Option<(String, Algorithm)> {
    let (kind, words) = line.split_once('\t')?;
    if words.len() != 128 || !words.is_ascii() {
        return None;
    }
    let mut algorithm = Algorithm::default();
    for (i, word) in algorithm.iter_mut().enumerate() {
        *word = u64::from_str_radix(&words[16 * i..16 * (i + 1)], 16).ok()?;
    }
    Some((kind.to_string(), algorithm))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_is_read_as_it_was_written_or_not_at_all() {
        let algorithm = [1, u64::MAX, 3, 4, 5, 6, 7, 8];
        let text = line("kind of [1, 2]", &algorithm);
        assert_eq!(parse(text.trim_end()), Some(("kind of [1, 2]".into(), algorithm)));
        for cut in 0..text.len() - 1 {
            assert_eq!(parse(&text[..cut]), None, "{cut}");
        }
    }
}
