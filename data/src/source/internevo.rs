//! Folders of tokenised text as InternEvo reads them.
//!
//! ```text
//! <type>/**/X.bin         a line a sample: {"tokens":[1,278,...]}
//! <type>/**/X.bin.meta    .npy, a row a sample: byte offset of its line, (anything,) number of tokens
//! ```
//!
//! A token that is not positive stands for the id without its sign, and nobody is asked to predict it.

use std::ffi::OsString;
use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use memmap2::Mmap;
use serde::Deserialize;

use crate::error::{DataError, Result};
use crate::ids::{TokenIds, map};
use crate::npy::Layout;

/// A file of samples, mapped.
pub(crate) struct BinFile {
    path: PathBuf,
    map: Mmap,
    vocab_size: usize,
}

/// Where a sample is, and how many tokens it should have.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Line {
    pub offset: u64,
    pub tokens: u32,
}

#[derive(Deserialize)]
struct Object {
    tokens: Vec<i64>,
}

impl BinFile {
    /// The file, and the table of its samples from the `.meta`. No line is read.
    pub fn open(path: &Path, vocab_size: usize) -> Result<(BinFile, Vec<Line>)> {
        let file = BinFile { path: path.into(), map: map(path)?, vocab_size };
        let lines = file.lines()?;
        Ok((file, lines))
    }

    /// The tokens of a sample, with their signs. Each is an id inside the vocabulary.
    pub fn read(&self, line: Line) -> Result<Vec<i64>> {
        let wrong = |problem| DataError::Sample { path: self.path.clone(), offset: line.offset, problem };
        let rest = &self.map[line.offset as usize..];
        let end = rest.iter().position(|byte| *byte == b'\n').unwrap_or(rest.len());
        let Object { tokens } = serde_json::from_slice(&rest[..end]).map_err(|error| {
            wrong(format!(
                "not a JSON object such as {{\"tokens\": [1, 2]}} ({error}); check whether the .bin is complete and the .meta is its own"
            ))
        })?;
        if tokens.len() != line.tokens as usize {
            return Err(wrong(format!(
                "{} tokens, and {} in the .meta; write both again together",
                tokens.len(),
                line.tokens
            )));
        }
        let outside = |id: &i64| id.unsigned_abs() >= self.vocab_size as u64;
        match tokens.iter().position(outside) {
            None => Ok(tokens),
            Some(i) => Err(wrong(format!(
                "tokens[{i}] = {} is outside the vocabulary of {}; raise model.vocab_size, or tokenise with the model's tokenizer",
                tokens[i], self.vocab_size
            ))),
        }
    }

    /// The `.meta`, which lies beside the file itself, not beside a link to it.
    fn lines(&self) -> Result<Vec<Line>> {
        let mut path = fs::canonicalize(&self.path).map_err(DataError::io("read", &self.path))?.into_os_string();
        path.push(".meta");
        let path = PathBuf::from(path);
        let bytes = map(&path).map_err(|error| match error {
            DataError::Io { cause, .. } if cause.kind() == ErrorKind::NotFound => {
                DataError::NoMeta { path: path.clone(), file: self.path.clone() }
            }
            other => other,
        })?;
        let layout = Layout::of(&bytes);
        let rows = layout.and_then(|layout| rows(bytes, &layout));
        let lines = rows.and_then(|rows| rows.iter().enumerate().map(|(i, row)| self.line(i, *row)).collect());
        lines.and_then(|lines| self.hold(lines)).map_err(|problem| DataError::Meta { path, problem })
    }

    /// The lines, if the file can hold their tokens. What is made for each micro-batch, before any of them is read, follows
    /// from these numbers.
    fn hold(&self, lines: Vec<Line>) -> std::result::Result<Vec<Line>, String> {
        let (tokens, bytes): (u64, _) = (lines.iter().map(|line| u64::from(line.tokens)).sum(), self.map.len() as u64);
        if tokens > bytes {
            return Err(format!("{tokens} tokens in all, and {} has {bytes} bytes", self.path.display()));
        }
        Ok(lines)
    }

    fn line(&self, row: usize, (offset, tokens): (i64, i64)) -> std::result::Result<Line, String> {
        if offset < 0 {
            return Err(format!("row {row} begins at byte {offset}, as where an int32 ran over beyond 2 GiB"));
        }
        let bytes = self.map.len();
        if offset >= bytes as i64 {
            return Err(format!("row {row} begins at byte {offset} and {} has {bytes}", self.path.display()));
        }
        match u32::try_from(tokens) {
            Ok(tokens) => Ok(Line { offset: offset as u64, tokens }),
            Err(_) => Err(format!("row {row} has {tokens} tokens")),
        }
    }
}

/// First and last column.
fn rows(map: Mmap, layout: &Layout) -> std::result::Result<Vec<(i64, i64)>, String> {
    let (n, columns) = match layout.shape[..] {
        [n, columns] if columns >= 2 => (n, columns),
        _ => return Err(format!("shape {}, not rows of two or more", layout.shape_text())),
    };
    let table = TokenIds::new(map, layout.offset, layout.width, n * columns);
    let mut all = Vec::with_capacity(n * columns);
    table.each(0..n * columns, |value| all.push(value));
    let column = |j: usize| {
        let (start, step) = if layout.fortran_order { (j * n, 1) } else { (j, columns) };
        all.iter().copied().skip(start).step_by(step).take(n)
    };
    Ok(column(0).zip(column(columns - 1)).collect())
}

/// The types of the samples under `path`: its folders, sorted. A folder `z_news` beside one `news` is of that type;
/// so data that comes later can lie behind all that was there.
pub(crate) fn types(path: &Path) -> Result<Vec<String>> {
    let mut names = Vec::new();
    for name in names_in(path)? {
        if is_folder(&path.join(&name))? {
            names.push(name.to_string_lossy().into_owned());
        }
    }
    Ok(names.iter().filter(|name| canonical(name, &names) == name.as_str()).cloned().collect())
}

/// The type of a file under `path`.
pub(crate) fn type_of(types: &[String], path: &Path, file: &Path) -> Result<u32> {
    let below = file.strip_prefix(path).expect("it was found there");
    let folder = below.parent().and_then(|folder| folder.iter().next());
    let folder = folder.ok_or_else(|| DataError::NoType { path: file.into() })?.to_string_lossy();
    let found = types.iter().position(|name| name == canonical(&folder, types));
    Ok(found.expect("types() lists all folders") as u32)
}

fn canonical<'a>(name: &'a str, all: &[String]) -> &'a str {
    let bare = name.trim_start_matches("z_");
    if all.iter().any(|other| other == bare) { bare } else { name }
}

/// Folders with `.bin` files directly in them: first the one itself and then those below, all sorted by name.
pub(crate) fn folders(path: &Path) -> Result<Vec<(PathBuf, Vec<PathBuf>)>> {
    let mut found = Vec::new();
    walk(path, &mut Vec::new(), &mut found)?;
    if found.is_empty() {
        return Err(DataError::NoFiles { path: path.into(), extensions: vec!["bin".into()] });
    }
    Ok(found)
}

/// The `.bin` files at `path`, a folder or one of them.
pub(crate) fn files(path: &Path) -> Result<Vec<PathBuf>> {
    if !is_folder(path)? {
        return Ok(vec![path.into()]);
    }
    Ok(folders(path)?.into_iter().flat_map(|(_, files)| files).collect())
}

fn walk(path: &Path, above: &mut Vec<PathBuf>, found: &mut Vec<(PathBuf, Vec<PathBuf>)>) -> Result<()> {
    let here = fs::canonicalize(path).map_err(DataError::io("read", path))?;
    if above.contains(&here) {
        return Ok(());
    }
    above.push(here);
    let (mut files, mut below) = (Vec::new(), Vec::new());
    for name in names_in(path)? {
        let entry = path.join(name);
        if is_folder(&entry)? {
            below.push(entry);
        } else if entry.extension().is_some_and(|ending| ending == "bin") {
            files.push(entry);
        }
    }
    if !files.is_empty() {
        found.push((path.into(), files));
    }
    below.iter().try_for_each(|folder| walk(folder, above, found))?;
    above.pop();
    Ok(())
}

fn names_in(path: &Path) -> Result<Vec<OsString>> {
    let entries = fs::read_dir(path).map_err(DataError::io("list", path))?;
    let names = entries.map(|entry| entry.map(|entry| entry.file_name()));
    let mut names = names.collect::<std::io::Result<Vec<_>>>().map_err(DataError::io("list", path))?;
    names.sort_unstable();
    Ok(names)
}

fn is_folder(path: &Path) -> Result<bool> {
    Ok(fs::metadata(path).map_err(DataError::io("read", path))?.is_dir())
}
