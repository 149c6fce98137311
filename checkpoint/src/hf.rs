//! A Hugging Face directory, opened for reading: shape from config.json, weights from safetensors.
use crate::Part;
use crate::disk;
use crate::error::{CheckpointError, Result};
use crate::json;
use crate::lease::Lease;
use crate::reader::{FLOATS, Reader};
use crate::save::Save;
use crate::spelling::{Spelling, Stretch};
use model::{Decoder, models};
use serde::Deserialize;
use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsStr;
use std::fs;
use std::path::{Path, PathBuf};

pub(crate) const CONFIG: &str = "config.json";
pub(crate) const WEIGHTS: &str = "model.safetensors";
pub(crate) const INDEX: &str = "model.safetensors.index.json";

/// Elements copied at a time.
const PIECE: usize = 1 << 20;

pub struct HfDir {
    /// While it is open nobody prunes the directory.
    _lease: Lease,
    decoder: Decoder,
    spelling: Spelling,
    tensors: Reader,
}

#[derive(Deserialize)]
struct Index {
    /// Tensor to file.
    weight_map: BTreeMap<String, String>,
}

impl HfDir {
    /// Checks that every tensor is there, whole, of the right shape and of a type that can be read, and that no other
    /// tensor is, which the model would ignore.
    pub fn open(dir: &Path) -> Result<HfDir> {
        let lease = Lease::take(dir)?;
        let path = dir.join(CONFIG);
        let config = |problems| CheckpointError::Config { path: path.clone(), problems };
        let decoder = models::from_json(&json::read(&path)?).map_err(config)?;
        let (tensors, bytes) = open_weights(dir)?;
        // Before the table of parameters is made, which a damaged number could make endless.
        if decoder.layers > tensors.len() {
            let (layers, tensors) = (decoder.layers, tensors.len());
            let problem = format!("num_hidden_layers = {layers}, but there are only {tensors} tensors in all");
            return Err(config(vec![problem]));
        }
        // Before rows are listed, of which each takes two bytes at least.
        let rows: usize = decoder.table().iter().map(|spec| spec.shape[0]).sum();
        if rows as u64 > bytes / 2 {
            let problem = format!("the sizes make tensors of {rows} rows, but their files have only {bytes} bytes");
            return Err(config(vec![problem]));
        }
        let spelling = Spelling::new(&decoder, decoder.family);
        for tensor in &spelling.tensors {
            tensors.check(&tensor.name, &tensor.shape, FLOATS)?;
        }
        refuse_foreign(&decoder, &spelling, &tensors)?;
        Ok(HfDir { _lease: lease, decoder, spelling, tensors })
    }

    pub fn decoder(&self) -> &Decoder {
        &self.decoder
    }

    /// For a run whose decoder has the directory's parameters, but maybe another order of their rows in memory.
    pub fn for_run(self, run: &Decoder) -> HfDir {
        let spelling = Spelling::new(run, self.decoder.family);
        let shapes = |s: &Spelling| s.tensors.iter().map(|t| (t.name.clone(), t.shape.clone())).collect::<Vec<_>>();
        assert_eq!(shapes(&spelling), shapes(&self.spelling), "parameters of the run and of the directory");
        HfDir { spelling, ..self }
    }

    pub(crate) fn tensors(&self) -> &Reader {
        &self.tensors
    }

    pub(crate) fn stretches(&self, name: &str, start: usize, len: usize) -> impl Iterator<Item = Stretch<'_>> {
        self.spelling.stretches(name, start, len)
    }

    /// Elements `start ..` of a parameter of the decoder's table.
    pub fn read(&self, name: &str, start: usize, out: &mut [f32]) -> Result<()> {
        for stretch in self.stretches(name, start, out.len()) {
            self.tensors.read(stretch.tensor, stretch.at, &mut out[stretch.range])?;
        }
        Ok(())
    }

    /// Writes every parameter into a directory of the same decoder, of whichever family.
    pub fn copy_to(&self, save: &Save) -> Result<()> {
        let mut buffer = vec![0.0; PIECE];
        for spec in self.decoder.table() {
            for start in (0..spec.len()).step_by(PIECE) {
                let piece = &mut buffer[..PIECE.min(spec.len() - start)];
                self.read(&spec.name, start, piece)?;
                save.write(Part::Param, &spec.name, start, piece)?;
            }
        }
        Ok(())
    }
}

/// One file, or else the files of an index, as transformers looks for them; and their bytes.
fn open_weights(dir: &Path) -> Result<(Reader, u64)> {
    let (single, index) = (dir.join(WEIGHTS), dir.join(INDEX));
    let bytes = |path: &PathBuf| Ok(fs::metadata(path).map_err(CheckpointError::io("look at", path))?.len());
    if disk::exists(&single)? {
        return Ok((Reader::open(&single, std::slice::from_ref(&single))?, bytes(&single)?));
    }
    if !disk::exists(&index)? {
        return Err(CheckpointError::NoWeights { dir: dir.into() });
    }
    let Index { weight_map } = json::read(&index)?;
    let invalid = |problem| CheckpointError::Index { path: index.clone(), problem };
    let files: BTreeSet<&str> = weight_map.values().map(String::as_str).collect();
    if let Some(outside) = files.iter().find(|file| Path::new(file).file_name() != Some(OsStr::new(file))) {
        return Err(invalid(format!("{outside:?} is not the name of a file in this directory")));
    }
    let paths: Vec<PathBuf> = files.iter().map(|file| dir.join(file)).collect();
    let tensors = Reader::open(&index, &paths)?;
    for (name, file) in &weight_map {
        if tensors.file(name) != Some(&dir.join(file)) {
            return Err(invalid(format!("tensor {name} is not in {file}")));
        }
    }
    let bytes = paths.iter().map(bytes).sum::<Result<u64>>()?;
    Ok((tensors, bytes))
}

/// A tensor that the model does not use may change what the model is.
fn refuse_foreign(decoder: &Decoder, spelling: &Spelling, tensors: &Reader) -> Result<()> {
    let known: BTreeSet<&str> = spelling.tensors.iter().map(|t| t.name.as_str()).collect();
    let untied = Spelling::new(&Decoder { tied: false, ..decoder.clone() }, decoder.family);
    let head = untied.tensor_of("lm_head.weight").expect("an untied decoder has a head");
    let embedding = untied.tensor_of("model.embed_tokens.weight").expect("a decoder has an embedding");
    for (name, path) in tensors.names().filter(|(name, _)| !known.contains(name)) {
        // Older LLaMA directories store the frequencies, which follow from config.json.
        if name.ends_with(".rotary_emb.inv_freq") {
            continue;
        }
        let (path, tensor) = (path.to_owned(), name.to_string());
        if name != head.name {
            return Err(CheckpointError::Foreign { path, tensor });
        }
        // The head of a tied model is sometimes stored a second time.
        if !tensors.same(name, &embedding.name)? {
            return Err(CheckpointError::NotTied { path, tensor, embedding: embedding.name.clone() });
        }
    }
    Ok(())
}
