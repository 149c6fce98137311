//! What is written is read again, bit by bit, whichever the spelling and whoever wrote which part.
mod common;
use checkpoint::{CheckpointError, HfDir, Part, Save, Training};
use common::*;

use model::{Decoder, Family, Pairs, Position, Rope, models};
use serde_json::json;
use std::fs;

const FAMILIES: [Family; 10] = [
    Family::Llama,
    Family::Internlm,
    Family::Internlm2,
    Family::Mistral,
    Family::Qwen2,
    Family::Qwen3,
    Family::Baichuan,
    Family::Gemma,
    Family::Gemma2,
    Family::Internevo,
];

#[test]
fn every_spelling_random_ranges_many_threads() {
    let mut spellings = 0;
    for name in GOLDENS {
        let from = HfDir::open(&golden(name)).unwrap();
        let decoder = from.decoder().clone();
        for family in FAMILIES.into_iter().filter(|f| models::holds(*f, &decoder)) {
            spellings += 1;
            let dir = tempfile::tempdir().unwrap();
            let step = dir.path().join("runs/x/checkpoints/step_7");
            let save = Save::create(&step, &decoder, family, true).unwrap();
            write_in_pieces(&from, &save);
            let state = json!({ "step": 7, "loss": 0.1 + 0.2, "tokens": u64::MAX });
            save.commit(json!({}), &state).unwrap();

            let training = Training::open(&step, &decoder).unwrap();
            assert_eq!(training.state(), &state);
            let weights = HfDir::open(&step).unwrap();
            let unit_head = models::stores_unit_rows(family, &decoder);
            let norm_head = decoder.norm_head && !unit_head;
            assert_eq!(weights.decoder(), &Decoder { family, norm_head, ..decoder.clone() });
            for spec in decoder.table() {
                let x = read_all(spec.len(), |out| from.read(&spec.name, 0, out).unwrap());
                for part in PARTS {
                    let want: Vec<u32> = x.iter().map(|x| value(part, f32::from_bits(*x)).to_bits()).collect();
                    let got = read_all(spec.len(), |out| training.read(part, &spec.name, 0, out).unwrap());
                    assert_eq!(got, want, "{name} {family:?} {part:?} {}", spec.name);
                }
                let got = read_all(spec.len(), |out| {
                    let (a, b) = out.split_at_mut(spec.len() / 3);
                    weights.read(&spec.name, a.len(), b).unwrap();
                    weights.read(&spec.name, 0, a).unwrap();
                });
                let stored = if unit_head && spec.name == "lm_head.weight" { unit_rows(&x, decoder.hidden) } else { x };
                assert_eq!(got, stored, "{name} {family:?} in two parts: {}", spec.name);
            }
        }
    }
    assert_eq!(spellings, 42, "each model as ours and as its own, and in some others");
}

fn unit_rows(x: &[u32], width: usize) -> Vec<u32> {
    let unit = |row: &[u32]| -> Vec<u32> {
        let row: Vec<f64> = row.iter().map(|x| f32::from_bits(*x) as f64).collect();
        let norm = row.iter().map(|x| x * x).sum::<f64>().sqrt();
        row.into_iter().map(|x| ((x / norm) as f32).to_bits()).collect()
    };
    x.chunks(width).flat_map(unit).collect()
}

/// Interleaved pairs are in memory only: a run with them writes what a run with halves reads, moments too.
#[test]
fn runs_with_other_pairs_continue_each_other() {
    for name in ["many_variants", "internlm", "internlm2_gqa", "baichuan2"] {
        let golden = HfDir::open(&golden(name)).unwrap();
        let [halves, interleaved] = [Pairs::Half, Pairs::Interleaved].map(|pairs| match golden.decoder().position {
            Position::Rope(rope) => {
                Decoder { position: Position::Rope(Rope { pairs, ..rope }), ..golden.decoder().clone() }
            }
            Position::Alibi => panic!("{name} has no pairs"),
        });
        let dir = tempfile::tempdir().unwrap();
        let write = |from: &HfDir, run: &Decoder, to: &std::path::Path| {
            let save = Save::create(to, run, models::directory(run), true).unwrap();
            write_in_pieces(from, &save);
            save.commit(json!({}), &json!({})).unwrap();
        };
        let (a, b) = (dir.path().join("a"), dir.path().join("b"));
        let from = golden.for_run(&halves);
        write(&from, &halves, &a);
        let from = from.for_run(&interleaved);
        write(&from, &interleaved, &b);
        let mut moved = 0;
        for file in ["model.safetensors", "training/optimizer.safetensors"] {
            assert!(fs::read(a.join(file)).unwrap() == fs::read(b.join(file)).unwrap(), "{name} {file}");
        }
        let [x, y] = [(&b, &halves), (&a, &interleaved)].map(|(dir, run)| Training::open(dir, run).unwrap());
        for spec in halves.table() {
            for part in PARTS {
                let x = read_all(spec.len(), |out| x.read(part, &spec.name, 0, out).unwrap());
                let y = read_all(spec.len(), |out| y.read(part, &spec.name, 0, out).unwrap());
                let sorted = |mut of: Vec<u32>| {
                    of.sort();
                    of
                };
                moved += (x != y) as usize;
                assert_eq!(sorted(x), sorted(y), "{name} {part:?} {}", spec.name);
            }
        }
        assert!(moved >= 3 * 2 * halves.layers, "{name}: queries and keys lie elsewhere");
    }
}

/// Four threads write pieces of every part of every parameter, in an order of their own.
fn write_in_pieces(from: &HfDir, save: &Save) {
    const THREADS: usize = 4;
    let mut numbers = Numbers(1);
    let mut jobs: [Vec<(Part, String, usize, usize)>; THREADS] = Default::default();
    for spec in from.decoder().table() {
        for part in PARTS {
            let mut start = 0;
            while start < spec.len() {
                let len = (1 + numbers.below(spec.len())).min(spec.len() - start);
                jobs[numbers.below(THREADS)].push((part, spec.name.clone(), start, len));
                start += len;
            }
        }
    }
    std::thread::scope(|scope| {
        for (seed, mut jobs) in jobs.into_iter().enumerate() {
            let mut numbers = Numbers(seed as u64);
            scope.spawn(move || {
                while !jobs.is_empty() {
                    let (part, name, start, len) = jobs.swap_remove(numbers.below(jobs.len()));
                    let mut x = vec![0.0; len];
                    from.read(&name, start, &mut x).unwrap();
                    x.iter_mut().for_each(|x| *x = value(part, *x));
                    save.write(part, &name, start, &x).unwrap();
                }
            });
        }
    });
}

/// There and back again gives the tensors of the file, not only the parameters.
#[test]
fn a_converted_directory_converts_back() {
    let from = HfDir::open(&golden("internlm2_gqa")).unwrap();
    let dir = tempfile::tempdir().unwrap();
    let (llama, back) = (dir.path().join("llama/"), dir.path().join("back"));
    let save = Save::create(&llama, from.decoder(), Family::Llama, false).unwrap();
    fs::write(save.path().join("tokenizer.json"), "{}").unwrap();
    from.copy_to(&save).unwrap();
    save.publish().unwrap();
    assert_eq!(names(&llama), ["config.json", "model.safetensors", "tokenizer.json"]);

    let llama = HfDir::open(&llama).unwrap();
    let save = Save::create(&back, llama.decoder(), Family::Internlm2, false).unwrap();
    llama.copy_to(&save).unwrap();
    save.publish().unwrap();
    let tensors = |dir| {
        let bytes = fs::read(std::path::Path::join(dir, "model.safetensors")).unwrap();
        let file = safetensors::SafeTensors::deserialize(&bytes).unwrap();
        let mut all: Vec<_> = file.tensors().into_iter().map(|(n, t)| (n, t.data().to_vec())).collect();
        all.sort();
        all
    };
    assert_eq!(tensors(&back), tensors(&golden("internlm2_gqa")));
}

fn names(dir: &std::path::Path) -> Vec<String> {
    let mut out: Vec<_> = fs::read_dir(dir).unwrap().map(|f| f.unwrap().file_name().into_string().unwrap()).collect();
    out.sort();
    out
}

#[test]
fn narrower_and_wider_types_are_converted() {
    use half::{bf16, f16};
    use safetensors::Dtype;
    let golden = HfDir::open(&golden("llama_mha")).unwrap();
    // (type, its bytes of a number, the number they hold)
    type Store = fn(f32) -> (Vec<u8>, f32);
    let types: [(Dtype, Store); 4] = [
        (Dtype::F32, |x| (x.to_le_bytes().into(), x)),
        (Dtype::F16, |x| (f16::from_f32(x).to_le_bytes().into(), f16::from_f32(x).to_f32())),
        (Dtype::BF16, |x| (bf16::from_f32(x).to_le_bytes().into(), bf16::from_f32(x).to_f32())),
        (Dtype::F64, |x| ((x as f64 + 1e-12).to_le_bytes().into(), (x as f64 + 1e-12) as f32)),
    ];
    for (dtype, store) in types {
        let dir = tempfile::tempdir().unwrap();
        copy("llama_mha", dir.path());
        let table = golden.decoder().table();
        let stored: Vec<(Vec<u8>, Vec<u32>)> = table
            .iter()
            .map(|spec| {
                let x = read_all(spec.len(), |out| golden.read(&spec.name, 0, out).unwrap());
                let (bytes, held): (Vec<_>, Vec<_>) = x.iter().map(|x| store(f32::from_bits(*x))).unzip();
                (bytes.concat(), held.into_iter().map(f32::to_bits).collect())
            })
            .collect();
        let views = table.iter().zip(&stored).map(|(spec, (bytes, _))| {
            (&spec.name, safetensors::tensor::TensorView::new(dtype, spec.shape.clone(), bytes).unwrap())
        });
        safetensors::serialize_to_file(views, None, &dir.path().join("model.safetensors")).unwrap();
        let model = HfDir::open(dir.path()).unwrap();
        for (spec, (_, held)) in table.iter().zip(&stored) {
            let got = read_all(spec.len() - 1, |out| model.read(&spec.name, 1, out).unwrap());
            assert_eq!(got, held[1..], "{dtype} {}", spec.name);
        }
    }
}

#[test]
fn both_rope_spellings_give_the_same_decoder() {
    let llama3 = json!({ "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_max_position_embeddings": 64 });
    let yarn = json!({ "factor": 4.0, "original_max_position_embeddings": 32, "beta_fast": 16.0 });
    let one = json!({ "factor": 2.0 });
    let table = [("default", json!({})), ("linear", one.clone()), ("dynamic", one), ("llama3", llama3), ("yarn", yarn)];
    for (kind, fields) in table {
        let rope_of = |new: bool, key: &str| {
            let dir = tempfile::tempdir().unwrap();
            copy("llama_gqa_tied", dir.path());
            edit_json(&dir.path().join("config.json"), |config| {
                let mut rope = fields.clone();
                rope[key] = kind.into();
                config.as_object_mut().unwrap().remove("rope_parameters");
                if new {
                    rope["rope_theta"] = json!(500000.0);
                    config["rope_parameters"] = rope;
                } else {
                    config["rope_theta"] = json!(500000.0);
                    config["rope_scaling"] = rope;
                }
            });
            match HfDir::open(dir.path()).unwrap().decoder().position {
                Position::Rope(rope) => rope,
                Position::Alibi => panic!("a LLaMA with ALiBi"),
            }
        };
        let rope = rope_of(true, "rope_type");
        assert_eq!((rope.theta, rope.scaling.is_some()), (500000.0, kind != "default"));
        assert_eq!(rope_of(false, "type"), rope);
        assert_eq!(rope_of(false, "rope_type"), rope);
    }
}

#[test]
fn another_model_is_told_field_by_field() {
    let dir = tempfile::tempdir().unwrap();
    let from = saved(dir.path(), &[1]);
    let open = |run: &Decoder| Training::open(&dir.path().join("step_1"), run).map(drop);
    // The family is a spelling; the longest context and the initial weights are not in the parameters.
    let same = Decoder { family: Family::Internlm2, max_positions: 9, init_std: 1.0, ..from.decoder().clone() };
    open(&same).unwrap();
    let mut run = Decoder { hidden: 512, tied: true, norm_eps: 1e-5, ..from.decoder().clone() };
    run.heads.kv = 1;
    let Err(CheckpointError::OtherModel { mut fields, .. }) = open(&run) else { panic!("opened") };
    fields.sort();
    assert_eq!(
        fields,
        [
            "hidden_size: 24 in the checkpoint, 512 in the run",
            "num_key_value_heads: 3 in the checkpoint, 1 in the run",
            "rms_norm_eps: 1e-6 in the checkpoint, 0.00001 in the run",
            "tie_word_embeddings: false in the checkpoint, true in the run",
        ]
    );
}

#[test]
#[should_panic(expected = "the first element of model.layers.1.mlp.up_proj.weight (ExpAvg) that was not written")]
fn a_hole_is_our_mistake() {
    let dir = tempfile::tempdir().unwrap();
    let from = HfDir::open(&golden("llama_mha")).unwrap();
    let save = Save::create(&dir.path().join("step_1"), from.decoder(), Family::Llama, true).unwrap();
    for spec in from.decoder().table() {
        for part in PARTS {
            let hole = part == Part::ExpAvg && spec.name == "model.layers.1.mlp.up_proj.weight";
            save.write(part, &spec.name, 0, &vec![0.0; spec.len() - hole as usize]).unwrap();
        }
    }
    save.commit(json!({}), &json!({})).unwrap();
}

#[test]
#[should_panic(expected = "elements 5 + 3 of model.norm.weight (Param) do not exist or are written again")]
fn an_element_written_twice_is_our_mistake() {
    let dir = tempfile::tempdir().unwrap();
    let from = HfDir::open(&golden("llama_mha")).unwrap();
    let save = Save::create(&dir.path().join("step_1"), from.decoder(), Family::Llama, false).unwrap();
    save.write(Part::Param, "model.norm.weight", 0, &[1.0; 6]).unwrap();
    save.write(Part::Param, "model.norm.weight", 5, &[1.0; 3]).unwrap();
}
