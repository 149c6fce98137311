//! The goldens, and directories made from them.
#![allow(dead_code)] // each test file uses some of it
use checkpoint::{HfDir, Part, Save, Training};
use model::Family;
use serde_json::{Value, json};
use std::fs;
use std::path::{Path, PathBuf};

pub const GOLDENS: [&str; 14] = [
    "llama_mha",
    "llama_gqa_tied",
    "internlm",
    "internlm2_gqa",
    "internlm2_mqa",
    "mistral",
    "qwen2",
    "qwen3",
    "baichuan2",
    "baichuan_alibi",
    "gemma",
    "gemma2",
    "layernorm_gelu",
    "many_variants",
];
pub const PARTS: [Part; 3] = [Part::Param, Part::ExpAvg, Part::ExpAvgSq];

pub fn golden(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../internevo/tests/goldens").join(name)
}

/// A copy of a golden's directory that a test may damage.
pub fn copy(name: &str, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for file in ["config.json", "model.safetensors"] {
        fs::copy(golden(name).join(file), to.join(file)).unwrap();
    }
}

pub fn read_all(len: usize, read: impl FnOnce(&mut [f32])) -> Vec<u32> {
    let mut out = vec![f32::NAN; len];
    read(&mut out);
    out.into_iter().map(f32::to_bits).collect()
}

/// Values of a part of a parameter that are not its own values.
pub fn value(part: Part, x: f32) -> f32 {
    match part {
        Part::Param => x,
        Part::ExpAvg => 0.25 * x - 1.0,
        Part::ExpAvgSq => x * x,
    }
}

/// Saves a checkpoint of a golden.
pub fn save(from: &HfDir, dir: &Path, state: &Value) -> Result<(), checkpoint::CheckpointError> {
    let save = Save::create(dir, from.decoder(), Family::Llama, true)?;
    for spec in from.decoder().table() {
        let mut x = vec![0.0; spec.len()];
        from.read(&spec.name, 0, &mut x)?;
        for part in PARTS {
            let data: Vec<f32> = x.iter().map(|x| value(part, *x)).collect();
            save.write(part, &spec.name, 0, &data)?;
        }
    }
    save.commit(json!({ "layout": "one rank" }), state)
}

/// A run folder's checkpoints.
pub fn saved(checkpoints: &Path, steps: &[u64]) -> HfDir {
    let from = HfDir::open(&golden("llama_mha")).unwrap();
    for step in steps {
        save(&from, &checkpoints.join(format!("step_{step}")), &json!({ "step": step })).unwrap();
    }
    from
}

pub fn step_of(dir: &Path, from: &HfDir) -> u64 {
    Training::open(dir, from.decoder()).unwrap().state()["step"].as_u64().unwrap()
}

pub fn edit_json(path: &Path, edit: impl FnOnce(&mut Value)) {
    let mut value: Value = serde_json::from_slice(&fs::read(path).unwrap()).unwrap();
    edit(&mut value);
    fs::write(path, value.to_string()).unwrap();
}

/// A small generator: the same numbers every time.
pub struct Numbers(pub u64);

impl Numbers {
    pub fn below(&mut self, n: usize) -> usize {
        self.0 = self.0.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        (self.0 >> 33) as usize % n
    }
}
