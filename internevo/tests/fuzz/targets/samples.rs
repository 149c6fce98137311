//! Training data: token ids, InternEvo's samples, JSON lines, and the cache of what was tokenised.
use super::super::headers::npy_damaged;
use super::super::numbers::Numbers;
use super::super::{bytes, text};
use super::{Reader, of_text, read, repository, write};
use data::{CacheState, DataConfig, Kind, Tokenizer};
use std::fs;
use std::path::{Path, PathBuf};

/// More than bytes need, and as many as the ids of InternEvo's samples do.
const VOCAB: usize = 2000;

fn section(kind: Kind, path: &Path) -> DataConfig {
    DataConfig {
        kind,
        path: Some(path.into()),
        seq_len: 8,
        micro_batch_size: 2,
        shuffle: true,
        text_key: "text".into(),
        dtype: None,
        extensions: None,
        min_length: 0,
        min_length_of: Default::default(),
        cross_documents: false,
        fixed_length: false,
        valid: None,
    }
}

/// Opens the data and reads some batches of each split.
fn opens(section: &DataConfig, tokenizer: Option<&Tokenizer>, cache: &Path) -> bool {
    let Ok(splits) = data::open(section, tokenizer, VOCAB, 1, 1, cache) else { return false };
    let sets = splits.valid.iter().map(|(_, set)| set).chain([&splits.train]);
    sets.into_iter().all(|set| (0..3).all(|k| set.micro_batch(k).is_ok() && set.eval_batch(k).is_ok()))
}

/// Flat files and NumPy's.
pub fn tokens(folder: &Path) -> Reader {
    let folder = folder.to_owned();
    let flat: Vec<u8> = (0..200u16).flat_map(|i| (i * 7 % 257).to_le_bytes()).collect();
    let npy = [npy_header("<u2", "(200,)"), flat.clone()].concat();
    let good = [("ids.bin", flat.clone()), ("ids.u32", flat), ("ids.npy", npy)];
    let put = move |name: &str, bytes: &[u8]| {
        write(&folder.join(name), bytes);
        opens(&section(Kind::Tokens, &folder.join(name)), None, &folder)
    };
    assert!(put("ids.bin", &good[0].1) && put("ids.npy", &good[2].1), "good ids are refused");
    Box::new(move |numbers| {
        let (name, ids) = numbers.pick(&good);
        let damaged = match *name == "ids.npy" && !numbers.once_in(4) {
            true => npy_damaged(numbers, ids),
            false => bytes::damaged(numbers, ids, std::slice::from_ref(ids)),
        };
        put(name, &damaged)
    })
}

fn npy_header(descr: &str, shape: &str) -> Vec<u8> {
    let header = format!("{{'descr': '{descr}', 'fortran_order': False, 'shape': {shape}, }}\n");
    [b"\x93NUMPY\x01\0", &(header.len() as u16).to_le_bytes()[..], header.as_bytes()].concat()
}

/// A file of samples and its table, in both orders of the table's rows.
pub fn internevo(folder: &Path) -> Reader {
    let folder = folder.to_owned();
    let from = repository().join("data/tests/goldens/internevo/train");
    let pairs: Vec<(String, Vec<u8>)> = ["en/long.bin", "en/few.bin", "cn/whole.bin", "cn/a/signed.bin"]
        .map(|name| {
            let (bin, meta) = (read(&from.join(name)), read(&from.join(format!("{name}.meta"))));
            (String::from_utf8(bin).expect("lines of JSON"), meta)
        })
        .into();
    let lines: Vec<String> = pairs.iter().map(|(bin, _)| bin.clone()).collect();
    let metas: Vec<Vec<u8>> = pairs.iter().map(|(_, meta)| meta.clone()).collect();
    let put = move |bin: &[u8], meta: &[u8]| {
        write(&folder.join("train/en/x.bin"), bin);
        write(&folder.join("train/en/x.bin.meta"), meta);
        opens(&section(Kind::Internevo, &folder.join("train")), None, &folder)
    };
    assert!(put(pairs[0].0.as_bytes(), &pairs[0].1), "good samples are refused");
    Box::new(move |numbers| {
        let (bin, meta) = numbers.pick(&pairs);
        match numbers.below(3) {
            0 => put(&text::damaged(numbers, bin, &lines), meta),
            1 => put(bin.as_bytes(), &npy_damaged(numbers, meta)),
            _ => put(bin.as_bytes(), &numbers_changed(numbers, meta, &metas)),
        }
    })
}

/// The header stays, and what it is the header of does not.
fn numbers_changed(numbers: &mut Numbers, good: &[u8], others: &[Vec<u8>]) -> Vec<u8> {
    let start = 10 + u16::from_le_bytes([good[8], good[9]]) as usize;
    let mut table = bytes::damaged(numbers, &good[start..], others);
    table.resize(table.len().max(good.len() - start), 0);
    [&good[..start], &table].concat()
}

const LINES: &str = "{\"text\": \"a first text that is long enough\"}\n\n{\"id\": 2, \"text\": \"und noch ein Text, é\"}\n\
    {\"text\": \"third\", \"meta\": {\"a\": [1, 2.5, null]}}\n{\"text\": \"fourth text, the last of them all\"}\n";

fn of_bytes() -> Tokenizer {
    Tokenizer::train(std::iter::empty::<&str>(), 257).expect("bytes alone are a vocabulary")
}

pub fn jsonl(folder: &Path) -> Reader {
    documents(folder, Kind::Jsonl)
}

pub fn plain(folder: &Path) -> Reader {
    documents(folder, Kind::Text)
}

fn documents(folder: &Path, kind: Kind) -> Reader {
    let (tokenizer, cache) = (of_bytes(), folder.join("cache"));
    of_text(folder.join("documents"), vec![LINES.into(), LINES.repeat(3)], move |file| {
        drop(fs::remove_dir_all(&cache));
        opens(&section(kind, file), Some(&tokenizer), &cache)
    })
}

/// A damaged cache is built again: nothing is refused.
pub fn cache(folder: &Path) -> Reader {
    let (tokenizer, cache, file) = (of_bytes(), folder.join("cache"), folder.join("lines.jsonl"));
    write(&file, LINES);
    let open = move || {
        let splits = data::open(&section(Kind::Jsonl, &file), Some(&tokenizer), VOCAB, 1, 1, &cache);
        splits.expect("a cache is never an obstacle").caches.remove(0)
    };
    let there = open().path;
    let names = ["meta.json", "tokens.bin", "documents.bin"];
    let good: Vec<(PathBuf, Vec<u8>)> = names.map(|name| (there.join(name), read(&there.join(name)))).into();
    Box::new(move |numbers| {
        let (file, clean) = numbers.pick(&good);
        let others: Vec<Vec<u8>> = good.iter().map(|(_, bytes)| bytes.clone()).collect();
        write(file, bytes::damaged(numbers, clean, &others));
        open().state == CacheState::Reused
    })
}
