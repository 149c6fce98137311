//! A checkpoint being written.
//!
//! All files have their final size before the first element is written, so a full disk is found while nothing is lost,
//! and ranks write what they own in any order, each with a [`crate::Share`], of which rank 0 hears by [`Save::add`]. The
//! folder is called `step_N.tmp-X` until [`Save::commit`]: files are flushed, by whoever wrote into them; the manifest is
//! written with the checksums of all ranks, and flushed; the folders are; then the folder gets its name, and the folder it
//! lies in is flushed. Whatever dies before that leaves a draft, which [`crate::rewind`] removes.
use crate::contents;
use crate::coverage::Coverage;
use crate::disk;
use crate::error::{CheckpointError, Result};
use crate::folder::draft_of;
use crate::hf::{CONFIG, INDEX};
use crate::json;
use crate::layout::Layout;
use crate::manifest::Manifest;
use crate::sums::Sums;
use crate::training::{Part, STATE, TRAINING};
use crate::writer::Writer;
use crate::written;
use model::{Decoder, Family, models};
use serde_json::Value;
use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::Mutex;

/// Data of a weights file.
pub(crate) const SHARD_BYTES: u64 = 5_000_000_000;

pub struct Save {
    dir: PathBuf,
    draft: Draft,
    layout: Layout,
    files: Writer,
    written: Mutex<Written>,
}

/// By all ranks.
struct Written {
    coverage: HashMap<(Part, String), Coverage>,
    sums: Sums,
}

impl Save {
    /// Begins a directory that must not exist yet, with the tensor names of `family`.
    pub fn create(dir: &Path, decoder: &Decoder, family: Family, with_optimizer: bool) -> Result<Save> {
        Save::sharded(dir, decoder, family, with_optimizer, SHARD_BYTES)
    }

    fn sharded(dir: &Path, decoder: &Decoder, family: Family, with_optimizer: bool, limit: u64) -> Result<Save> {
        let dir: PathBuf = dir.components().collect(); // without a trailing slash
        if disk::exists(&dir)? {
            return Err(CheckpointError::Exists { path: dir });
        }
        let layout = Layout::new(decoder, family, with_optimizer, limit);
        let draft = Draft::create(&dir, Writer::bytes(&layout.contents))?;
        json::write(&draft.0.join(CONFIG), &models::to_json(decoder, family))?;
        let weights = if with_optimizer { layout.contents.len() - 1 } else { layout.contents.len() };
        if weights > 1 {
            json::write(&draft.0.join(INDEX), &contents::index(&layout.contents[..weights]))?;
        }
        if with_optimizer {
            disk::create(&draft.0.join(TRAINING))?;
        }
        let coverage = layout.tensors.iter().map(|(part, name, len)| ((*part, name.clone()), Coverage::new(*len)));
        let written = Mutex::new(Written { coverage: coverage.collect(), sums: Sums::default() });
        let files = Writer::create(&draft.0, &layout.contents)?;
        Ok(Save { dir, draft, layout, files, written })
    }

    /// Elements `start ..` of a parameter of the decoder's table. Each element is written once.
    pub fn write(&self, part: Part, name: &str, start: usize, data: &[f32]) -> Result<()> {
        if data.is_empty() {
            return Ok(());
        }
        let Written { coverage, sums } = &mut *self.written.lock().expect("no writer panics");
        cover(coverage, part, name, start, data.len());
        self.layout.write((&self.files, sums), part, name, start, data)
    }

    /// What a rank has written, as [`crate::Share::finish`] says.
    pub fn add(&self, rank: usize, report: &str) {
        let told = written::Written::decode(report);
        let told = told.unwrap_or_else(|| panic!("rank {rank} tells of no ranges: {report}"));
        let Written { coverage, sums } = &mut *self.written.lock().expect("no writer panics");
        told.ranges().for_each(|(part, name, start, len)| cover(coverage, part, name, start, len));
        sums.merge(told.sums);
    }

    /// The folder under its temporary name: the place for tokenizer files and generation_config.json.
    pub fn path(&self) -> &Path {
        &self.draft.0
    }

    /// Completes a checkpoint. When this returns, it survives a power cut. `about` the run its manifest tells.
    pub fn commit(self, about: Value, state: &Value) -> Result<()> {
        let training = self.draft.0.join(TRAINING);
        if !disk::exists(&training)? {
            disk::create(&training)?;
        }
        json::write(&self.draft.0.join(STATE), state)?;
        let sums = self.complete()?;
        Manifest::of(&self.draft.0, &self.layout.contents, &sums, about)?.write(&self.draft.0)?;
        disk::sync(&training)?;
        disk::sync(&self.draft.0)?;
        disk::rename(&self.draft.0, &self.dir)
    }

    /// Completes a directory that no run continues from.
    pub fn publish(self) -> Result<()> {
        self.complete()?;
        disk::rename(&self.draft.0, &self.dir)
    }

    /// Every element was written, and is on the disk.
    fn complete(&self) -> Result<Sums> {
        let Written { coverage, sums } = &mut *self.written.lock().expect("no writer panics");
        for ((part, name), coverage) in coverage {
            assert_eq!(coverage.hole(), None, "the first element of {name} ({part:?}) that was not written");
        }
        self.layout.normalise_head(&self.files, sums)?;
        disk::sync_tree(&self.draft.0)?;
        Ok(std::mem::take(sums))
    }
}

fn cover(coverage: &mut HashMap<(Part, String), Coverage>, part: Part, name: &str, start: usize, len: usize) {
    let fresh = coverage.get_mut(&(part, name.to_string())).is_some_and(|c| c.add(start, len));
    assert!(fresh, "elements {start} + {len} of {name} ({part:?}) do not exist or are written again");
}

/// The folder under its temporary name. Dropped before it was renamed, it is removed.
struct Draft(PathBuf);

impl Draft {
    /// Where there is room for so many bytes.
    fn create(dir: &Path, bytes: u64) -> Result<Draft> {
        disk::create_all(disk::parent(dir))?;
        let free = disk::free(disk::parent(dir))?;
        if free < bytes {
            let cause = std::io::Error::other(format!("only {free} bytes are free there"));
            return Err(CheckpointError::NoSpace { path: dir.into(), bytes, total: bytes, cause });
        }
        let path = draft_of(dir);
        disk::create(&path)?;
        Ok(Draft(path))
    }
}

impl Drop for Draft {
    fn drop(&mut self) {
        // Nothing is there after a commit. What cannot be removed now is removed before the next run.
        let _ = disk::remove(&self.0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::HfDir;
    use std::fs;

    #[test]
    fn shards_hold_the_same_tensors() {
        let golden = concat!(env!("CARGO_MANIFEST_DIR"), "/../internevo/tests/goldens/internlm2_gqa");
        let from = HfDir::open(Path::new(golden)).unwrap();
        let dir = tempfile::tempdir().unwrap();
        // The two largest tensors, of 113 x 48, are each alone.
        for (limit, files) in [(1 << 20, 1), (100_000, 2), (21_000, 12), (1, 21)] {
            let to = dir.path().join(format!("limit_{limit}"));
            let save = Save::sharded(&to, from.decoder(), Family::Llama, false, limit).unwrap();
            from.copy_to(&save).unwrap();
            save.publish().unwrap();
            let weights = fs::read_dir(&to)
                .unwrap()
                .filter(|f| f.as_ref().unwrap().path().extension().is_some_and(|e| e == "safetensors"));
            assert_eq!((limit, weights.count()), (limit, files));
            let back = HfDir::open(&to).unwrap();
            for spec in from.decoder().table() {
                let (mut a, mut b) = (vec![0.0; spec.len()], vec![1.0; spec.len()]);
                from.read(&spec.name, 0, &mut a).unwrap();
                back.read(&spec.name, 0, &mut b).unwrap();
                assert_eq!(a, b, "{}", spec.name);
            }
        }
    }
}
