//! Ranks that share no memory write one checkpoint: the bytes of one that a single rank has written.
mod common;

use checkpoint::{HfDir, Save, Share};
use common::{PARTS, golden, save, value};
use model::Family;
use serde_json::json;
use std::fs;
use std::path::Path;

const RANKS: usize = 3;

/// Every rank has some columns of each row.
fn columns(rank: usize, width: usize) -> std::ops::Range<usize> {
    rank * width / RANKS..(rank + 1) * width / RANKS
}

#[test]
fn shares_make_one_checkpoint() {
    for name in ["llama_mha", "internlm2_gqa", "baichuan2"] {
        let from = HfDir::open(&golden(name)).unwrap();
        let dir = tempfile::tempdir().unwrap();
        let [whole, shared] = ["whole", "shared"].map(|name| dir.path().join(name));
        save(&from, &whole, &json!({})).unwrap();

        let own = Save::create(&shared, from.decoder(), Family::Llama, true).unwrap();
        let open = |_| Share::of(own.path(), from.decoder(), Family::Llama, true);
        let mut shares: Vec<Share> = (1..RANKS).map(open).collect();
        for spec in from.decoder().table() {
            let width = *spec.shape.last().unwrap();
            let mut row = vec![0.0; width];
            for part in PARTS {
                for start in (0..spec.len()).step_by(width) {
                    from.read(&spec.name, start, &mut row).unwrap();
                    row.iter_mut().for_each(|x| *x = value(part, *x));
                    for rank in 0..RANKS {
                        let columns = columns(rank, width);
                        let (at, data) = (start + columns.start, &row[columns]);
                        match rank {
                            0 => own.write(part, &spec.name, at, data).unwrap(),
                            _ => shares[rank - 1].write(part, &spec.name, at, data).unwrap(),
                        }
                    }
                }
            }
        }
        for (i, share) in shares.into_iter().enumerate() {
            let report = share.finish().unwrap();
            assert!(report.len() < 240 * PARTS.len() * from.decoder().table().len(), "rows are not told one by one");
            own.add(i + 1, &report);
        }
        own.commit(json!({ "layout": "one rank" }), &json!({})).unwrap();
        for file in ["model.safetensors", "training/optimizer.safetensors", "training/manifest.json"] {
            let read = |dir: &Path| fs::read(dir.join(file)).unwrap();
            assert!(read(&whole) == read(&shared), "{name}: {file}");
        }
    }
}

#[test]
#[should_panic(expected = "elements 2 + 2 of model.norm.weight (Param) do not exist or are written again")]
fn elements_of_two_ranks_are_our_mistake() {
    let dir = tempfile::tempdir().unwrap();
    let from = HfDir::open(&golden("llama_mha")).unwrap();
    let own = Save::create(&dir.path().join("step_1"), from.decoder(), Family::Llama, true).unwrap();
    for rank in 1..3 {
        let mut share = Share::of(own.path(), from.decoder(), Family::Llama, true);
        share.write(checkpoint::Part::Param, "model.norm.weight", 2, &[1.0; 2]).unwrap();
        own.add(rank, &share.finish().unwrap());
    }
}

#[test]
fn a_draft_that_is_not_there_is_on_another_file_system() {
    let dir = tempfile::tempdir().unwrap();
    let from = HfDir::open(&golden("llama_mha")).unwrap();
    let mut share = Share::of(&dir.path().join("step_1.tmp-0"), from.decoder(), Family::Llama, true);
    let error = share.write(checkpoint::Part::Param, "model.norm.weight", 0, &[1.0; 2]).unwrap_err().to_string();
    assert!(error.contains("a file system that all ranks share"), "{error}");
}
