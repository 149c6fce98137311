//! Where documents come from: the files of a corpus, in an order that depends on their names alone.
//!
//! A [`Corpus`] is scanned once when it is opened (hashes and counts, nothing kept in memory) and read again
//! only if it has to be tokenised. A text format says how a file divides into documents and how the text of
//! one is read; [`tokens`], [`internevo`] and [`random`] are apart, for what they give are ids.

pub(crate) mod internevo;
mod jsonl;
pub(crate) mod random;
mod text;
pub(crate) mod tokens;

use std::borrow::Cow;
use std::fs;
use std::ops::Range;
use std::path::{Path, PathBuf};

use memmap2::Mmap;
use rayon::prelude::*;

use crate::config::{DataConfig, Kind};
use crate::error::{DataError, Result};
use crate::hash::{hash, hash_words, mix};
use crate::ids::map;

/// Files mapped, and documents processed in parallel, at a time: bounds open maps and memory.
const GROUP: usize = 1024;

/// A tokenizer learns from a sample of about this size: more text hardly changes the merges, and the trainer
/// counts pairs in 32 bits.
const SAMPLE_BYTES: usize = 256 << 20;

enum Format {
    Text,
    Jsonl { text_key: String },
}

pub(crate) struct Corpus {
    format: Format,
    files: Vec<SourceFile>,
}

struct SourceFile {
    path: PathBuf,
    bytes: usize,
    hash: u64,
    documents: usize,
}

impl Corpus {
    /// The corpus at `path`, a file or a folder, read as `cfg` says.
    pub fn open(cfg: &DataConfig, path: &Path) -> Result<Corpus> {
        let format = match cfg.kind {
            Kind::Text => Format::Text,
            Kind::Jsonl => Format::Jsonl { text_key: cfg.text_key.clone() },
            Kind::Tokens | Kind::Internevo | Kind::Random => unreachable!("of kinds that are text"),
        };
        let extensions = cfg.extensions();
        let paths = files(path, &extensions)?;
        if paths.is_empty() {
            return Err(DataError::NoFiles { path: path.into(), extensions });
        }
        let scans: Vec<_> = paths.into_par_iter().map(|path| scan(path, &format)).collect();
        let corpus = Corpus { files: scans.into_iter().collect::<Result<_>>()?, format };
        if corpus.documents() == 0 {
            return Err(DataError::NoText { path: path.into() });
        }
        Ok(corpus)
    }

    pub fn documents(&self) -> usize {
        self.files.iter().map(|file| file.documents).sum()
    }

    /// A hash of all that decides the documents.
    pub fn fingerprint(&self) -> u64 {
        let format = match &self.format {
            Format::Text => 0,
            Format::Jsonl { text_key } => hash(text_key.as_bytes()),
        };
        let files = self.files.iter().flat_map(|file| [file.bytes as u64, file.hash]);
        hash_words(&[format].into_iter().chain(files).collect::<Vec<_>>())
    }

    /// Apply `each` to every document, in parallel, and hand the results to `sink` in document order.
    pub fn map_documents<T: Send>(
        &self,
        each: impl Fn(usize, &str) -> Result<T> + Sync,
        mut sink: impl FnMut(T) -> Result<()>,
    ) -> Result<()> {
        let mut first = 0;
        for files in self.files.chunks(GROUP) {
            let maps = files.par_iter().map(SourceFile::map).collect::<Result<Vec<_>>>()?;
            let texts = files.par_iter().zip(&maps).map(|(file, map)| utf8(&file.path, map));
            let texts = texts.collect::<Result<Vec<_>>>()?;
            let documents: Vec<(usize, Range<usize>)> = (0..files.len())
                .into_par_iter()
                .flat_map_iter(|file| self.format.divide(texts[file]).into_iter().map(move |range| (file, range)))
                .collect();
            for group in documents.chunks(GROUP) {
                // Collected with its errors, so that the first one is reported whatever the thread count.
                let results: Vec<Result<T>> = group
                    .par_iter()
                    .enumerate()
                    .map(|(i, (file, range))| {
                        let document = self.format.read(&files[*file].path, texts[*file], range.clone())?;
                        each(first + i, &document)
                    })
                    .collect();
                first += group.len();
                results.into_iter().try_for_each(|result| sink(result?))?;
            }
        }
        Ok(())
    }

    /// The documents that `chosen` names, or if they are many a sample that the seed decides.
    pub fn sample(&self, seed: u64, chosen: impl Fn(usize) -> bool + Sync) -> Result<Vec<String>> {
        let bytes: usize = self.files.iter().map(|file| file.bytes).sum();
        let share = SAMPLE_BYTES as f64 / bytes as f64;
        let drawn = |i: usize| mix(mix(seed) ^ i as u64) as f64 / 2f64.powi(64) < share;
        let mut sample = Vec::new();
        self.map_documents(
            |i, text| Ok((chosen(i) && (share >= 1.0 || drawn(i))).then(|| text.to_owned())),
            |text| {
                sample.extend(text);
                Ok(())
            },
        )?;
        Ok(sample)
    }
}

impl Format {
    /// The documents of a file. What lies between them (blank lines) is no document.
    fn divide(&self, text: &str) -> Vec<Range<usize>> {
        match self {
            Format::Text => text::divide(text),
            Format::Jsonl { .. } => jsonl::divide(text),
        }
    }

    fn read<'a>(&self, path: &Path, file: &'a str, range: Range<usize>) -> Result<Cow<'a, str>> {
        match self {
            Format::Text => Ok(Cow::Borrowed(&file[range])),
            Format::Jsonl { text_key } => {
                let line_of = |start: usize| file[..start].matches('\n').count() + 1;
                jsonl::read(&file[range.clone()], text_key).map(Cow::Owned).map_err(|problem| DataError::Line {
                    path: path.into(),
                    line: line_of(range.start),
                    problem,
                })
            }
        }
    }
}

impl SourceFile {
    /// The contents, which are still those that were scanned.
    fn map(&self) -> Result<Mmap> {
        let map = map(&self.path)?;
        if hash(&map) != self.hash {
            return Err(DataError::Changed { path: self.path.clone() });
        }
        Ok(map)
    }
}

fn scan(path: PathBuf, format: &Format) -> Result<SourceFile> {
    let map = map(&path)?;
    let documents = format.divide(utf8(&path, &map)?).len();
    Ok(SourceFile { bytes: map.len(), hash: hash(&map), documents, path })
}

fn utf8<'a>(path: &Path, bytes: &'a [u8]) -> Result<&'a str> {
    std::str::from_utf8(bytes).map_err(|error| DataError::NotUtf8 { path: path.into(), offset: error.valid_up_to() })
}

/// `path` itself if it is a file, else the files below it that end as asked, sorted. Hidden files, `target`
/// folders (what Cargo builds) and folders reached from inside themselves by a link are left out.
fn files(path: &Path, extensions: &[String]) -> Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    walk(path, extensions, &mut Vec::new(), &mut found)?;
    Ok(found)
}

fn walk(path: &Path, extensions: &[String], above: &mut Vec<PathBuf>, found: &mut Vec<PathBuf>) -> Result<()> {
    let metadata = fs::metadata(path).map_err(DataError::io("read", path))?;
    if !metadata.is_dir() {
        // A file that was named outright is read whatever its ending.
        if above.is_empty() || extensions.iter().any(|ending| has_extension(path, ending)) {
            found.push(path.into());
        }
        return Ok(());
    }
    let here = fs::canonicalize(path).map_err(DataError::io("read", path))?;
    if above.contains(&here) {
        return Ok(());
    }
    above.push(here);
    let entries = fs::read_dir(path).map_err(DataError::io("list", path))?;
    let names = entries.map(|entry| entry.map(|entry| entry.file_name()));
    let mut names = names.collect::<std::io::Result<Vec<_>>>().map_err(DataError::io("list", path))?;
    names.sort_unstable();
    for name in names {
        let hidden = name.as_encoded_bytes().starts_with(b".");
        if !hidden && name != "target" {
            walk(&path.join(name), extensions, above, found)?;
        }
    }
    above.pop();
    Ok(())
}

fn has_extension(path: &Path, extension: &str) -> bool {
    path.extension().is_some_and(|ending| ending.eq_ignore_ascii_case(extension))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_is_walked_in_sorted_order_without_what_is_not_text() {
        let folder = tempfile::tempdir().unwrap();
        let root = folder.path();
        for file in ["b.txt", "a/z.md", "a/B.TXT", "a.png", ".git/c.txt", "target/d.txt", ".e.txt", "a/b/f.txt"] {
            fs::create_dir_all(root.join(file).parent().unwrap()).unwrap();
            fs::write(root.join(file), "x").unwrap();
        }
        #[cfg(unix)]
        std::os::unix::fs::symlink(root, root.join("a/b/loop")).unwrap();
        let found = files(root, &["txt".into(), "md".into()]).unwrap();
        let names: Vec<_> = found.iter().map(|path| path.strip_prefix(root).unwrap().to_str().unwrap()).collect();
        assert_eq!(names, ["a/B.TXT", "a/b/f.txt", "a/z.md", "b.txt"]);
        assert_eq!(files(&root.join("a.png"), &[]).unwrap().len(), 1);
    }
}
