//! The checkpoints of a run through crashes, damage and a full disk.
mod common;
use checkpoint::{CheckpointError, HfDir, Keep, Kind, Save, list, newest, prune, rewind};
use common::*;
use model::Family;
use serde_json::json;
use std::fs;
use std::path::Path;
use std::process::Command;

fn names(dir: &Path) -> Vec<String> {
    let mut out: Vec<_> = fs::read_dir(dir).unwrap().map(|f| f.unwrap().file_name().into_string().unwrap()).collect();
    out.sort();
    out
}

fn steps(dir: &Path) -> Vec<u64> {
    list(dir).unwrap().into_iter().map(|found| found.step).collect()
}

fn keep(steps: usize) -> Keep {
    Keep { steps, snapshots: 2, every: 0 }
}

/// Names, without what is random in those of drafts.
fn shown(dir: &Path) -> Vec<String> {
    let cut = |name: String| name.split_once(".tmp-").map_or(name.clone(), |(step, _)| format!("{step}.tmp-X"));
    names(dir).into_iter().map(cut).collect()
}

#[test]
fn steps_in_order_and_the_oldest_go() {
    let dir = tempfile::tempdir().unwrap();
    assert!(steps(&dir.path().join("not yet")).is_empty());
    assert!(newest(dir.path()).unwrap().is_none());
    let from = saved(dir.path(), &[9, 100, 20]);
    for other in ["step_x", "step_", "step_5.tmp-0a", "step_6.abandoned", "notes"] {
        fs::create_dir(dir.path().join(other)).unwrap();
    }
    assert_eq!(steps(dir.path()), [9, 20, 100]);
    let (found, broken) = newest(dir.path()).unwrap().unwrap();
    assert_eq!((found.step, step_of(&found.path, &from), broken.len()), (100, 100, 0));
    prune(dir.path(), &keep(5)).unwrap();
    assert_eq!(steps(dir.path()), [9, 20, 100]);
    prune(dir.path(), &keep(2)).unwrap();
    assert_eq!(steps(dir.path()), [20, 100]);
    assert!(!names(dir.path()).iter().any(|name| name.starts_with("step_9")));
}

#[test]
fn some_steps_and_two_snapshots_stay() {
    let dir = tempfile::tempdir().unwrap();
    let from = saved(dir.path(), &[10, 20, 30, 40]);
    for step in [12, 24, 36, 40] {
        save(&from, &Kind::Snapshot.folder(dir.path(), step), &json!({ "step": step })).unwrap();
    }
    prune(dir.path(), &Keep { steps: 1, snapshots: 2, every: 20 }).unwrap();
    assert_eq!(names(dir.path()), ["snapshot_36", "snapshot_40", "step_20", "step_40"]);
    let (found, _) = newest(dir.path()).unwrap().unwrap();
    assert_eq!((found.step, found.kind), (40, Kind::Step));
    fs::remove_dir_all(dir.path().join("step_40")).unwrap();
    let (found, _) = newest(dir.path()).unwrap().unwrap();
    assert_eq!((found.step, found.kind), (40, Kind::Snapshot));
}

#[test]
fn what_is_read_is_not_pruned() {
    let dir = tempfile::tempdir().unwrap();
    let from = saved(dir.path(), &[1, 2, 3]);
    let reader = HfDir::open(&dir.path().join("step_1")).unwrap();
    prune(dir.path(), &keep(1)).unwrap();
    assert_eq!(names(dir.path()), ["step_1", "step_3"]);
    let mut x = [0.0; 4];
    reader.read("model.norm.weight", 0, &mut x).unwrap();
    drop(reader);
    prune(dir.path(), &keep(1)).unwrap();
    assert_eq!(names(dir.path()), ["step_3"]);
    assert_eq!(step_of(&dir.path().join("step_3"), &from), 3);
}

#[test]
fn a_broken_checkpoint_is_reported_and_an_older_one_found() {
    let dir = tempfile::tempdir().unwrap();
    let from = saved(dir.path(), &[1, 2, 3, 4]);
    fs::remove_file(dir.path().join("step_4/training/state.json")).unwrap();
    let optimizer = dir.path().join("step_3/training/optimizer.safetensors");
    fs::OpenOptions::new().write(true).open(&optimizer).unwrap().set_len(50_000).unwrap();
    let (found, broken) = newest(dir.path()).unwrap().unwrap();
    assert_eq!(found.step, 2);
    let broken: Vec<String> = broken.iter().map(CheckpointError::to_string).collect();
    assert_eq!(broken.len(), 2);
    assert!(broken[0].contains("step_4/training/state.json"), "{}", broken[0]);
    assert!(broken[1].contains("step_3/training/optimizer.safetensors: holds 50000 bytes"), "{}", broken[1]);

    // The run goes on from step 2 and comes by step 3 again.
    rewind(dir.path(), Some(found.step)).unwrap();
    assert_eq!(names(dir.path()), ["step_1", "step_2", "step_3.abandoned", "step_4.abandoned"]);
    save(&from, &dir.path().join("step_3"), &json!({ "step": 3 })).unwrap();
    rewind(dir.path(), None).unwrap();
    assert_eq!(names(dir.path()), [1, 2, 3, 4].map(|i| format!("step_{i}.abandoned")));

    saved(dir.path(), &[5]);
    fs::remove_dir_all(dir.path().join("step_5/training")).unwrap();
    let text = newest(dir.path()).map(drop).unwrap_err().to_string();
    assert!(text.contains("none of the checkpoints") && text.contains("step_5: no training state"), "{text}");
}

#[test]
fn an_interrupted_save_leaves_no_checkpoint() {
    let dir = tempfile::tempdir().unwrap();
    let from = HfDir::open(&golden("llama_mha")).unwrap();
    let step = dir.path().join("step_1");
    let begin = || Save::create(&step, from.decoder(), Family::Llama, true).unwrap();
    // Dropped, as by an error in the middle.
    drop(begin());
    assert_eq!(names(dir.path()), [""; 0]);
    // Killed: no destructor runs.
    let killed = begin();
    fs::write(killed.path().join("tokenizer.json"), "half of").unwrap();
    std::mem::forget(killed);
    assert_eq!(shown(dir.path()), ["step_1.tmp-X"]);
    assert!(steps(dir.path()).is_empty());
    saved(dir.path(), &[1]);
    assert_eq!(shown(dir.path()), ["step_1", "step_1.tmp-X"]);
    assert_eq!(names(&step), ["config.json", "model.safetensors", "training"]);

    let text = Save::create(&step, from.decoder(), Family::Llama, true).map(drop).unwrap_err().to_string();
    assert!(text.contains("step_1 is there already"), "{text}");
    std::mem::forget(Save::create(&dir.path().join("step_2"), from.decoder(), Family::Llama, true).unwrap());
    rewind(dir.path(), Some(1)).unwrap();
    assert_eq!(names(dir.path()), ["step_1"]);
}

/// A file system of its own, unmounted at the end.
struct Disk(tempfile::TempDir);

impl Disk {
    fn mount(size: &str) -> Option<Disk> {
        let dir = tempfile::tempdir().unwrap();
        let mount = ["-t", "tmpfs", "-o", size, "tmpfs"];
        let done = Command::new("mount").args(mount).arg(dir.path()).output();
        done.is_ok_and(|d| d.status.success()).then_some(Disk(dir))
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg(self.0.path()).status();
    }
}

#[test]
fn a_full_disk_is_found_before_anything_is_written() {
    // A checkpoint has 250 kB: two fit.
    let Some(disk) = Disk::mount("size=600k") else {
        return println!("skipped: mounting a tmpfs is not permitted here");
    };
    let dir = disk.0.path();
    let from = saved(dir, &[1, 2]);
    let bytes = |step: &str| fs::read(dir.join(step).join("model.safetensors")).unwrap();
    let before = bytes("step_2");
    let error = save(&from, &dir.join("step_3"), &json!({})).unwrap_err();
    let CheckpointError::NoSpace { total, .. } = &error else { panic!("{error}") };
    let text = error.to_string();
    for word in ["step_3", "are free there", &format!("{total} bytes are needed in all")] {
        assert!(text.contains(word), "{word:?} is not in {text:?}");
    }
    assert!((250_000..260_000).contains(total), "{text}");
    assert_eq!(names(dir), ["step_1", "step_2"]);
    assert_eq!(bytes("step_2"), before);
    assert_eq!(newest(dir).unwrap().unwrap().0.step, 2);
    prune(dir, &keep(1)).unwrap();
    save(&from, &dir.join("step_3"), &json!({ "step": 3 })).unwrap();
    assert_eq!(step_of(&dir.join("step_3"), &from), 3);
}
