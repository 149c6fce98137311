//! Directories of models and checkpoints: shape, weights in one file or several, training state.
use super::super::headers::Tensors;
use super::super::numbers::Numbers;
use super::super::{bytes, headers, json, text};
use super::{Reader, golden, of_json, read, write};
use checkpoint::{HfDir, Part, Save, Told, Training, inspect, verify};
use model::{Decoder, models};
use safetensors::SafeTensors;
use serde_json::{Value, json};
use std::fs;
use std::path::Path;

/// One of every family, and of what families have.
const MODELS: [&str; 9] = [
    "baichuan2",
    "baichuan_alibi",
    "gemma",
    "gemma2",
    "internlm2_gqa",
    "layernorm_gelu",
    "many_variants",
    "mistral",
    "qwen3",
];

fn config_of(model: &str) -> Value {
    serde_json::from_slice(&read(&golden(model).join("config.json"))).expect("a good config")
}

/// Shapes alone; what is accepted is written again, as a checkpoint would be.
pub fn config(folder: &Path) -> Reader {
    let mut good: Vec<Value> = MODELS.map(config_of).into();
    for config in good.clone() {
        let decoder = models::from_json(&config).expect("a good config");
        good.push(models::to_json(&decoder, model::Family::Internevo));
    }
    of_json(folder.join("config.json"), good, |file| {
        let Ok(value) = serde_json::from_slice::<Value>(&fs::read(file).expect("just written")) else { return false };
        let decoder = models::from_json(&value);
        decoder.is_ok_and(|decoder| models::to_json(&decoder, models::directory(&decoder)).is_object())
    })
}

pub fn weights(folder: &Path) -> Reader {
    let folder = folder.to_owned();
    let good: Vec<(Value, Tensors)> =
        MODELS.iter().map(|m| (config_of(m), Tensors::of(&read(&golden(m).join("model.safetensors"))))).collect();
    let put = |folder: &Path, config: &[u8], weights: &[u8]| {
        write(&folder.join("config.json"), config);
        write(&folder.join("model.safetensors"), weights);
        opens(folder)
    };
    for (config, weights) in &good {
        assert!(put(&folder, config.to_string().as_bytes(), &weights.file()), "a good directory is refused");
    }
    Box::new(move |numbers| {
        let (config, weights) = numbers.pick(&good);
        match numbers.below(3) {
            0 => {
                let config = json::damaged(numbers, std::slice::from_ref(config));
                put(&folder, &config, &weights.file())
            }
            _ => {
                let weights = weights.damaged(numbers);
                put(&folder, config.to_string().as_bytes(), &weights)
            }
        }
    })
}

/// A directory of two files and their index.
pub fn index(folder: &Path) -> Reader {
    let folder = folder.to_owned();
    write(&folder.join("config.json"), config_of("mistral").to_string());
    let whole = read(&golden("mistral").join("model.safetensors"));
    let tensors = SafeTensors::deserialize(&whole).expect("a good file").tensors();
    let names = ["model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"];
    let mut map = serde_json::Map::new();
    let mut files = vec![];
    for (part, name) in tensors.chunks(tensors.len().div_ceil(2)).zip(names) {
        map.extend(part.iter().map(|(tensor, _)| (tensor.clone(), name.into())));
        let bytes = safetensors::serialize(part.to_vec(), None).expect("good tensors");
        files.push((folder.join(name), Tensors::of(&bytes)));
    }
    let good = vec![json!({ "metadata": { "total_size": whole.len() }, "weight_map": map })];
    let put = move |index: &[u8], files: &[Vec<u8>]| {
        write(&folder.join("model.safetensors.index.json"), index);
        names.iter().zip(files).for_each(|(name, bytes)| write(&folder.join(name), bytes));
        opens(&folder)
    };
    let bytes: Vec<Vec<u8>> = files.iter().map(|(_, tensors)| tensors.file()).collect();
    assert!(put(good[0].to_string().as_bytes(), &bytes), "a good directory is refused");
    Box::new(move |numbers| match numbers.below(4) {
        0 => {
            let mut bytes = bytes.clone();
            let at = numbers.below(2);
            bytes[at] = files[at].1.damaged(numbers);
            put(good[0].to_string().as_bytes(), &bytes)
        }
        1 => put(&names_changed(numbers, &good[0]), &bytes),
        _ => put(&json::damaged(numbers, &good), &bytes),
    })
}

/// Some tensors in files of hostile names.
fn names_changed(numbers: &mut Numbers, good: &Value) -> Vec<u8> {
    let mut index = good.clone();
    let map = index["weight_map"].as_object_mut().expect("a good index");
    let every = numbers.count(8);
    for file in map.values_mut().step_by(every) {
        *file = text::hostile_name(numbers).into();
    }
    index.to_string().into()
}

fn opens(folder: &Path) -> bool {
    let Ok(opened) = HfDir::open(folder) else { return false };
    let all = opened.decoder().table();
    all.iter().all(|spec| opened.read(&spec.name, 0, &mut vec![0.0; spec.len()]).is_ok())
}

/// A checkpoint of a run, as it is saved; mostly with a manifest that lists what is damaged as if it had been written so, so
/// that more than the manifest looks at it.
pub fn training(folder: &Path) -> Reader {
    let dir = folder.join("step_2");
    let decoder = save(&dir);
    let files = [OPTIMIZER, STATE].map(|file| dir.join(file));
    let (optimizer, state, manifest) = (Tensors::of(&read(&files[0])), read(&files[1]), manifest_of(&dir));
    let good: Vec<Value> = vec![serde_json::from_slice(&state).expect("a good state")];
    assert!(resumes(&dir, &decoder), "a good checkpoint is refused");
    Box::new(move |numbers| {
        let (mut bytes, mut text, mut manifest) = (optimizer.file(), state.clone(), manifest.clone());
        match numbers.below(4) {
            0 => text = json::damaged(numbers, &good),
            _ => bytes = optimizer.damaged(numbers),
        }
        if !numbers.once_in(8) {
            list(&mut manifest, OPTIMIZER, &bytes, headers::of(&bytes));
            list(&mut manifest, STATE, &text, &text);
        }
        write(&files[0], bytes);
        write(&files[1], text);
        write(&dir.join(MANIFEST), summed(&manifest));
        resumes(&dir, &decoder)
    })
}

const OPTIMIZER: &str = "training/optimizer.safetensors";
const STATE: &str = "training/state.json";
const MANIFEST: &str = "training/manifest.json";

fn list(manifest: &mut Value, file: &str, bytes: &[u8], of: &[u8]) {
    let entry = &mut manifest["files"][file];
    (entry["bytes"], entry["sum"]) = (bytes.len().into(), format!("{:016x}", sum(of)).into());
}

/// What a checkpoint consists of, damaged and then summed again: whoever means it can.
pub fn manifest(folder: &Path) -> Reader {
    let dir = folder.join("step_2");
    let decoder = save(&dir);
    let (file, good) = (dir.join(MANIFEST), vec![manifest_of(&dir)]);
    let clean = read(&file);
    write(&file, summed(&good[0]));
    assert!(resumes(&dir, &decoder), "a good manifest is refused");
    Box::new(move |numbers| {
        let damaged = match numbers.below(4) {
            0 => bytes::damaged(numbers, &clean, std::slice::from_ref(&clean)),
            _ => {
                let mut value = good[0].clone();
                (0..numbers.count(6)).for_each(|_| json::change(numbers, &mut value, &good));
                summed(&value).into()
            }
        };
        write(&file, damaged);
        resumes(&dir, &decoder)
    })
}

/// Without its last line, the checksum.
fn manifest_of(dir: &Path) -> Value {
    let mut manifest: Value = serde_json::from_slice(&read(&dir.join(MANIFEST))).expect("a good manifest");
    manifest.as_object_mut().expect("an object").remove("sum").expect("a manifest has a checksum");
    manifest
}

/// With a checksum that fits.
fn summed(manifest: &Value) -> String {
    let text = format!("{manifest:#}");
    let body = text.strip_suffix("\n}").unwrap_or(&text);
    format!("{body},\n  \"sum\": \"{:016x}\"\n}}\n", sum(body.as_bytes()))
}

/// The checksum of a text, whose mixer is the one of [`Numbers`].
fn sum(text: &[u8]) -> u64 {
    let words = text.iter().zip(0u64..).map(|(byte, place)| place << 32 | u64::from(*byte));
    words.fold(0, |sum, word| sum.wrapping_add(Numbers::from(word).next()))
}

fn save(dir: &Path) -> Decoder {
    let from = HfDir::open(&golden("baichuan2")).expect("a good directory");
    let decoder = from.decoder().clone();
    let save = Save::create(dir, &decoder, models::directory(&decoder), true).expect("the desk can be written");
    from.copy_to(&save).expect("it is read and written");
    for spec in decoder.table() {
        for part in [Part::ExpAvg, Part::ExpAvgSq] {
            save.write(part, &spec.name, 0, &vec![0.5; spec.len()]).expect("it is written");
        }
    }
    save.commit(json!({ "step": 2 }), &json!({ "step": 2, "tokens": 1024 })).expect("it is published");
    decoder
}

/// It is looked at in each of the ways there are.
fn resumes(dir: &Path, decoder: &Decoder) -> bool {
    let whole = verify(dir, 1, &|_, _| ()).is_empty();
    let shown = inspect(dir).is_ok();
    let Ok(opened) = Training::open(dir, decoder) else { return false };
    let mut told = Told::default();
    for spec in decoder.table() {
        for part in [Part::Param, Part::ExpAvg, Part::ExpAvgSq] {
            let mut values = vec![0.0; spec.len()];
            if opened.read(part, &spec.name, 0, &mut values).is_err() {
                return false;
            }
            opened.tell(&mut told, part, &spec.name, 0, &values);
        }
    }
    whole && shown && opened.damage([told]).is_empty()
}
