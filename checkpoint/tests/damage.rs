//! Whatever happens to the files of a checkpoint is found and named, and an older checkpoint is taken.
mod common;
use checkpoint::{CheckpointError, Told, Training, newest, verify};
use common::*;
use model::Decoder;
use std::fs::{self, File, OpenOptions};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

const FILES: [&str; 5] = [
    "config.json",
    "model.safetensors",
    "training/optimizer.safetensors",
    "training/state.json",
    "training/manifest.json",
];

/// What is done to one file, and which file that is.
fn damage(dir: &Path, other: &Path, numbers: &mut Numbers) -> String {
    let name = FILES[numbers.below(FILES.len())];
    let path = dir.join(name);
    let len = fs::metadata(&path).unwrap().len() as usize;
    let open = || OpenOptions::new().read(true).write(true).open(&path).unwrap();
    match numbers.below(8) {
        0 => fs::remove_file(&path).unwrap(),
        1 => open().set_len(numbers.below(len) as u64).unwrap(),
        2 => open().set_len((len + 1 + numbers.below(1000)) as u64).unwrap(),
        // Config and manifest of two steps may be the same.
        3 if !["config.json"].contains(&name) => {
            fs::copy(other.join(name), &path).unwrap();
        }
        4 => {
            let foreign = ["model-00001-of-00002.safetensors", "pytorch_model.bin", "training/extra.json"];
            let foreign = foreign[numbers.below(3)];
            fs::write(dir.join(foreign), "x").unwrap();
            return foreign.into();
        }
        // A block that never reached the disk.
        5 => {
            let (at, file) = (numbers.below(len), open());
            let mut zeros = vec![0; (1 + numbers.below(4096)).min(len - at)];
            let mut before = zeros.clone();
            file.read_exact_at(&mut before, at as u64).unwrap();
            if zeros == before {
                zeros[0] = 1;
            }
            file.write_all_at(&zeros, at as u64).unwrap();
        }
        _ => flip(&open(), numbers.below(len), numbers.below(8)),
    }
    name.into()
}

fn flip(file: &File, at: usize, bit: usize) {
    let mut byte = [0];
    file.read_exact_at(&mut byte, at as u64).unwrap();
    file.write_all_at(&[byte[0] ^ 1 << bit], at as u64).unwrap();
}

fn copy_all(from: &Path, to: &Path) {
    fs::create_dir_all(to.join("training")).unwrap();
    for name in FILES {
        fs::copy(from.join(name), to.join(name)).unwrap();
    }
}

/// As a run reads all of it: what is wrong.
fn load(dir: &Path, decoder: &Decoder) -> Result<(), Vec<CheckpointError>> {
    let training = Training::open(dir, decoder).map_err(|error| vec![error])?;
    let mut told = Told::default();
    for spec in decoder.table() {
        for part in PARTS {
            let mut values = vec![0.0; spec.len()];
            training.read(part, &spec.name, 0, &mut values).map_err(|error| vec![error])?;
            training.tell(&mut told, part, &spec.name, 0, &values);
        }
    }
    let damage = training.damage([told]);
    if damage.is_empty() { Ok(()) } else { Err(damage) }
}

#[test]
fn all_damage_is_named_and_the_older_checkpoint_is_whole() {
    damages(500);
}

#[test]
#[ignore = "two minutes"]
fn so_is_all_damage_of_a_large_number() {
    damages(10_000);
}

fn damages(n: u64) {
    let dir = tempfile::tempdir().unwrap();
    let from = saved(dir.path(), &[1, 2]);
    let [older, newer, whole] = ["step_1", "step_2", "whole"].map(|name| dir.path().join(name));
    // Another step has other values.
    scale(&older, &from, 1.5);
    fs::rename(&newer, &whole).unwrap();
    for seed in 0..n {
        copy_all(&whole, &newer);
        let file = damage(&newer, &older, &mut Numbers(seed));
        let told: Vec<String> = verify(&newer, 1, &|_, _| {}).iter().map(CheckpointError::to_string).collect();
        assert!(told.iter().any(|t| t.contains(&file) || file == "training/manifest.json"), "{seed}: {file}: {told:?}");
        let loaded = load(&newer, from.decoder());
        let told: Vec<String> = loaded.unwrap_err().iter().map(CheckpointError::to_string).collect();
        assert!(told[0].contains(&file) || file == "training/manifest.json", "{seed}: {file}: {told:?}");
        if seed % 50 == 0 {
            let (found, _) = newest(dir.path()).unwrap().unwrap();
            assert!(found.path == older || load(&found.path, from.decoder()).is_err());
        }
        fs::remove_dir_all(&newer).unwrap();
    }
    assert!(load(&older, from.decoder()).is_ok() && verify(&older, 2, &|_, _| {}).is_empty());
}

/// Writes a checkpoint again with all values times a factor.
fn scale(dir: &PathBuf, from: &checkpoint::HfDir, factor: f32) {
    fs::remove_dir_all(dir).unwrap();
    let save = checkpoint::Save::create(dir, from.decoder(), model::Family::Llama, true).unwrap();
    for spec in from.decoder().table() {
        let mut x = vec![0.0; spec.len()];
        from.read(&spec.name, 0, &mut x).unwrap();
        for part in PARTS {
            let data: Vec<f32> = x.iter().map(|x| value(part, factor * x)).collect();
            save.write(part, &spec.name, 0, &data).unwrap();
        }
    }
    save.commit(serde_json::json!({ "step": 1 }), &serde_json::json!({ "step": 1, "other": true })).unwrap();
}

#[test]
fn a_flipped_bit_is_named_with_its_tensor_and_bytes() {
    let dir = tempfile::tempdir().unwrap();
    let from = saved(dir.path(), &[1]);
    let step = dir.path().join("step_1");
    let file = OpenOptions::new().read(true).write(true).open(step.join("training/optimizer.safetensors")).unwrap();
    let at = file.metadata().unwrap().len() as usize - 4;
    flip(&file, at, 3);
    let last = format!("exp_avg_sq.{}", from.decoder().table().last().unwrap().name);
    for error in [verify(&step, 2, &|_, _| {}), load(&step, from.decoder()).unwrap_err()] {
        let [CheckpointError::Damaged { path, tensor, bytes }] = &error[..] else { panic!("{error:?}") };
        assert_eq!((path.file_name().unwrap().to_str(), tensor), (Some("optimizer.safetensors"), &last));
        assert!(bytes.contains(&(at as u64)) && bytes.end == at as u64 + 4, "{bytes:?}");
    }
    assert!(newest(dir.path()).unwrap().is_some(), "values are checked when they are read");
}

#[test]
fn whole_checkpoints_raise_no_alarm() {
    for name in GOLDENS {
        let dir = tempfile::tempdir().unwrap();
        let from = checkpoint::HfDir::open(&golden(name)).unwrap();
        let step = dir.path().join("step_7");
        save(&from, &step, &serde_json::json!({ "step": 7 })).unwrap();
        // A file of the user's own is no damage.
        fs::write(step.join("README.md"), "mine").unwrap();
        let problems = verify(&step, 2, &|_, _| {});
        assert!(problems.is_empty(), "{name}: {problems:?}");
    }
}
