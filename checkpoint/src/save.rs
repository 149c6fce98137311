//! A checkpoint being written.
//!
//! All files have their final size before the first element is written, so a full disk is found while nothing is lost,
//! and ranks write what they own in any order: rank 0 with [`Save::write`], the others each with a [`crate::Share`], of
//! which it hears by [`Save::add`]. [`Save::commit`] flushes everything to the disk before the folder gets its name, and
//! the name itself before it returns. A process that dies before that leaves `step_N.tmp`, which the next save of that
//! name or [`crate::rewind`] removes.
use crate::contents;
use crate::coverage::Coverage;
use crate::disk;
use crate::error::{CheckpointError, Result};
use crate::folder::TMP;
use crate::hf::{CONFIG, INDEX};
use crate::json;
use crate::layout::Layout;
use crate::training::{Part, STATE, TRAINING};
use crate::writer::Writer;
use crate::written::Written;
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
    written: Mutex<HashMap<(Part, String), Coverage>>,
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
        let draft = Draft::create(&dir)?;
        json::write(&draft.0.join(CONFIG), &models::to_json(decoder, family))?;

        let layout = Layout::new(decoder, family, with_optimizer, limit);
        let weights = if with_optimizer { layout.contents.len() - 1 } else { layout.contents.len() };
        if weights > 1 {
            json::write(&draft.0.join(INDEX), &contents::index(&layout.contents[..weights]))?;
        }
        if with_optimizer {
            disk::create(&draft.0.join(TRAINING))?;
        }
        let coverage = layout.tensors.iter().map(|(part, name, len)| ((*part, name.clone()), Coverage::new(*len)));
        let written = Mutex::new(coverage.collect());
        let files = Writer::create(&draft.0, &layout.contents)?;
        Ok(Save { dir, draft, layout, files, written })
    }

    /// Elements `start ..` of a parameter of the decoder's table. Each element is written once.
    pub fn write(&self, part: Part, name: &str, start: usize, data: &[f32]) -> Result<()> {
        if data.is_empty() {
            return Ok(());
        }
        self.cover(part, name, start, data.len());
        self.layout.write(&self.files, part, name, start, data)
    }

    /// What another rank has written, as [`crate::Share::finish`] says.
    pub fn add(&self, rank: usize, report: &str) {
        let written = Written::decode(report);
        let written = written.unwrap_or_else(|| panic!("rank {rank} tells of no ranges: {report}"));
        written.ranges().for_each(|(part, name, start, len)| self.cover(part, name, start, len));
    }

    fn cover(&self, part: Part, name: &str, start: usize, len: usize) {
        let mut written = self.written.lock().expect("no writer panics");
        let fresh = written.get_mut(&(part, name.to_string())).is_some_and(|c| c.add(start, len));
        drop(written);
        assert!(fresh, "elements {start} + {len} of {name} ({part:?}) do not exist or are written again");
    }

    /// The folder under its temporary name: the place for tokenizer files and generation_config.json.
    pub fn path(&self) -> &Path {
        &self.draft.0
    }

    /// Completes a checkpoint. When this returns, it survives a power cut.
    pub fn commit(self, state: &Value) -> Result<()> {
        let training = self.draft.0.join(TRAINING);
        if !disk::exists(&training)? {
            disk::create(&training)?;
        }
        json::write(&self.draft.0.join(STATE), state)?;
        self.publish()
    }

    /// Completes a directory that no run continues from.
    pub fn publish(self) -> Result<()> {
        for ((part, name), coverage) in self.written.lock().expect("no writer panics").iter() {
            assert_eq!(coverage.hole(), None, "the first element of {name} ({part:?}) that was not written");
        }
        self.layout.normalise_head(&self.files)?;
        disk::sync_tree(&self.draft.0)?;
        disk::rename(&self.draft.0, &self.dir)
    }
}

/// The folder under its temporary name. Dropped before it was renamed, it is removed.
struct Draft(PathBuf);

impl Draft {
    fn create(dir: &Path) -> Result<Draft> {
        disk::create_parents(dir)?;
        let path = disk::with_suffix(dir, TMP);
        disk::remove(&path)?;
        disk::create(&path)?;
        Ok(Draft(path))
    }
}

impl Drop for Draft {
    fn drop(&mut self) {
        // Nothing is there after a commit. What cannot be removed now is removed by the next save.
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
