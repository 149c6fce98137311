//! The data of InternEvo, batch for batch: against goldens that `goldens/internevo.py` worked out with NumPy.

use std::collections::BTreeMap;

use crate::bench::{Bench, SEED, STEP};
use data::{Batch, DataConfig, Dataset, IGNORE, Kind, Splits, ValidConfig};
use serde::Deserialize;
use serde_json::Value;

const GOLDENS: &str = "tests/goldens/internevo";
const VOCAB: usize = 400;

/// The fields of a batch.
#[derive(Deserialize)]
struct Golden {
    ids: Vec<u32>,
    labels: Vec<u32>,
    positions: Vec<u32>,
    cu_seqlens: Vec<u32>,
    types: Vec<u32>,
}

impl Golden {
    fn batch(&self) -> Batch {
        Batch {
            ids: self.ids.clone(),
            labels: self.labels.clone(),
            positions: self.positions.clone(),
            cu_seqlens: self.cu_seqlens.clone(),
            types: self.types.clone(),
        }
    }
}

#[derive(Deserialize)]
struct Case {
    keys: Value,
    seed: u64,
    step: usize,
    types: Vec<String>,
    packs: Vec<Golden>,
    /// Which pack is micro-batch 0, 1, ... of each epoch.
    order: Vec<Vec<usize>>,
    valid: Vec<(String, Vec<Golden>)>,
}

#[derive(Deserialize)]
struct RandomCase {
    keys: Value,
    seed: u64,
    step: usize,
    total: u64,
    packs: BTreeMap<u64, Golden>,
    /// How each epoch begins.
    order: Vec<Vec<u64>>,
    largest: usize,
    /// The first and the last batch.
    valid: Vec<Golden>,
    valid_len: u64,
}

fn goldens<T: for<'a> Deserialize<'a>>(name: &str) -> T {
    serde_json::from_str(&std::fs::read_to_string(format!("{GOLDENS}/{name}")).unwrap()).unwrap()
}

/// `[data]` with what a case says, and shuffled.
fn config(keys: &Value, kind: &str) -> DataConfig {
    let mut all = keys.clone();
    (all["kind"], all["shuffle"]) = (kind.into(), true.into());
    serde_json::from_value(all).unwrap()
}

fn open(cfg: &DataConfig, seed: u64, step: usize) -> Splits {
    data::open(cfg, None, VOCAB, seed, step, "no cache".as_ref()).unwrap()
}

#[test]
fn files_are_packed_and_shuffled_as_internevo_does() {
    for case in goldens::<Vec<Case>>("batches.json") {
        let mut cfg = config(&case.keys, "internevo");
        cfg.path = Some(format!("{GOLDENS}/train").into());
        let path = Some(format!("{GOLDENS}/valid").into());
        cfg.valid = Some(ValidConfig { path, min_length: Some(cfg.min_length), ..Default::default() });
        let splits = open(&cfg, case.seed, case.step);
        assert_eq!(splits.types, case.types, "{}", case.keys);

        let train = &splits.train;
        assert_eq!(train.eval_len(), case.packs.len() as u64, "{}", case.keys);
        assert_eq!(train.rows(), (case.packs.len() * cfg.micro_batch_size) as u64);
        for (k, pack) in case.packs.iter().enumerate() {
            assert_eq!(train.eval_batch(k as u64).unwrap(), pack.batch(), "{}, pack {k}", case.keys);
        }
        assert!(case.order.len() == 3 && case.order[0].len() % case.step == 0);
        for (number, pack) in case.order.iter().flatten().enumerate() {
            let expected = case.packs[*pack].batch();
            assert_eq!(train.micro_batch(number as u64).unwrap(), expected, "{}, micro-batch {number}", case.keys);
        }

        let names: Vec<&String> = splits.valid.iter().map(|(name, _)| name).collect();
        assert_eq!(names, case.valid.iter().map(|(name, _)| name).collect::<Vec<_>>(), "{}", case.keys);
        for ((name, set), (_, expected)) in splits.valid.iter().zip(&case.valid) {
            let batches: Vec<Batch> = set.eval_batches().map(Result::unwrap).collect();
            assert_eq!(batches, expected.iter().map(Golden::batch).collect::<Vec<_>>(), "{}, {name}", case.keys);
        }
    }
}

#[test]
fn random_data_is_that_of_internevo() {
    for case in goldens::<Vec<RandomCase>>("random.json") {
        let mut cfg = config(&case.keys, "random");
        cfg.valid = Some(ValidConfig { random: true, ..Default::default() });
        let vocab = if cfg.fixed_length { 1 << 17 } else { VOCAB };
        let open = |vocab| data::open(&cfg, None, vocab, case.seed, case.step, "no cache".as_ref());
        let splits = open(vocab).unwrap();
        let train = &splits.train;
        assert_eq!((train.eval_len(), splits.types.len()), (case.total, 0), "{}", case.keys);
        for (k, pack) in &case.packs {
            assert_eq!(train.eval_batch(*k).unwrap(), pack.batch(), "{}, pack {k}", case.keys);
        }
        let epoch = case.total / case.step as u64 * case.step as u64;
        for (e, head) in case.order.iter().enumerate() {
            for (place, pack) in head.iter().enumerate() {
                let micro_batch = train.micro_batch(e as u64 * epoch + place as u64).unwrap();
                assert_eq!(micro_batch, train.eval_batch(*pack).unwrap(), "{}, epoch {e}", case.keys);
            }
        }
        let (name, valid) = &splits.valid[0];
        assert_eq!((name.as_str(), valid.eval_len(), splits.valid.len()), ("val", case.valid_len, 1));
        let ends = [0, case.valid_len - 1].map(|i| valid.eval_batch(i).unwrap());
        assert_eq!(ends.to_vec(), case.valid.iter().map(Golden::batch).collect::<Vec<_>>(), "{}", case.keys);

        assert!(open(case.largest + 1).is_ok());
        let expected = format!(
            "data.kind = \"random\" makes ids up to {}; set model.vocab_size = {} or more, it is {}",
            case.largest,
            case.largest + 1,
            case.largest
        );
        assert_eq!(open(case.largest).err().unwrap().to_string(), expected);
    }
}

/// `X.bin` with one line a sample, and its `.meta`.
fn write(bench: &Bench, name: &str, samples: &[&[i64]]) {
    let (mut text, mut rows) = (String::new(), Vec::new());
    for tokens in samples {
        rows.extend([text.len() as i64, tokens.len() as i64]);
        text += &format!("{{\"tokens\":{tokens:?}}}\n");
    }
    bench.write(name, text);
    bench.write(&format!("{name}.meta"), npy("<i8", &rows));
}

fn npy(descr: &str, rows: &[i64]) -> Vec<u8> {
    let shape = format!("({}, 2)", rows.len() / 2);
    let header = format!("{{'descr': '{descr}', 'fortran_order': False, 'shape': {shape}, }}\n");
    let values: Vec<u8> = match descr {
        "<i4" => rows.iter().flat_map(|value| (*value as i32).to_le_bytes()).collect(),
        _ => rows.iter().flat_map(|value| value.to_le_bytes()).collect(),
    };
    [b"\x93NUMPY\x01\x00".as_slice(), &(header.len() as u16).to_le_bytes(), header.as_bytes(), &values].concat()
}

/// What the batches of a pass begin with, and the type of that token.
fn firsts(set: &Dataset) -> Vec<(u32, u32)> {
    set.eval_batches().map(|batch| batch.map(|batch| (batch.ids[0], batch.types[0])).unwrap()).collect()
}

#[test]
fn a_folder_beside_one_of_its_name_without_z_is_of_that_type_and_comes_last() {
    let bench = Bench::new();
    for (i, folder) in ["en/a", "z_en", "zen", "cn", "z_ja", "z_z_cn/b/c"].into_iter().enumerate() {
        write(&bench, &format!("train/{folder}/x.bin"), &[&[i as i64 + 1; 8]]);
    }
    bench.write("train/read.me", "a file is no type");
    #[cfg(unix)]
    std::os::unix::fs::symlink(bench.path("train"), bench.path("train/en/a/loop")).unwrap();
    let splits = bench.open(&bench.config(Kind::Internevo, "train")).unwrap();
    assert_eq!(splits.types, ["cn", "en", "z_ja", "zen"]);
    assert_eq!(firsts(&splits.train), [(4, 0), (1, 1), (2, 1), (5, 2), (6, 0), (3, 3)]);
}

#[test]
fn what_is_not_used_is_said() {
    let bench = Bench::new();
    write(&bench, "train/a/long.bin", &[&[1; 9], &[2; 3], &[]]);
    write(&bench, "train/a/short.bin", &[&[3; 7]]);
    write(&bench, "valid/full/x.bin", &[&[4; 50], &[5; 49], &[6; 50]]);
    write(&bench, "valid/one/x.bin", &[&[7; 50]]);
    let mut cfg = bench.config(Kind::Internevo, "train");
    cfg.min_length = 4;
    cfg.min_length_of = BTreeMap::from([("elsewhere".into(), 1)]);
    cfg.valid = Some(ValidConfig { path: Some(bench.path("valid")), ..Default::default() });
    let splits = bench.open(&cfg).unwrap();
    let train = bench.path("train");
    let expected = [
        "data.min_length_of: no file has \"elsewhere\" in its path".into(),
        format!("{}: 2 samples shorter than data.min_length are left out", train.display()),
        format!("{}: 1 of 2 files hold fewer than the 8 tokens of a micro-batch and are not used", train.display()),
        "validation set one: 1 samples are fewer than data.micro_batch_size = 2, so it is left out".into(),
    ];
    assert_eq!(splits.notes, expected);
    // By default validation takes samples of 50 tokens and more, as InternEvo does.
    let [(name, full)] = &splits.valid[..] else { panic!("one set") };
    assert_eq!((name.as_str(), full.eval_batch(0).unwrap().ids), ("full", vec![4, 4, 4, 4, 6, 6, 6, 6]));

    let sets = BTreeMap::from([("news".into(), bench.path("valid/full/x.bin")), ("all".into(), bench.path("valid"))]);
    cfg.valid = Some(ValidConfig { sets: Some(sets), min_length: Some(0), ..Default::default() });
    let valid = bench.open(&cfg).unwrap().valid;
    let rows: Vec<_> = valid.iter().map(|(name, set)| (name.as_str(), set.rows())).collect();
    assert_eq!(rows, [("all", 4), ("news", 3)]);
}

#[test]
fn without_shuffle_packs_come_as_they_lie_and_none_is_dropped() {
    let bench = Bench::new();
    write(
        &bench,
        "train/a/x.bin",
        &[&[1, -2, 3, 0, 5, -6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16, 17, 18, 19, 20, 21, 22, 23, 24]],
    );
    let cfg = bench.config(Kind::Internevo, "train");
    let train = bench.open(&cfg).unwrap().train;
    assert_eq!((STEP, train.eval_len()), (2, 3));
    let first = |k| train.micro_batch(k).unwrap().ids[0];
    assert_eq!([0, 1, 2, 3, 4, 5].map(first), [1, 9, 17, 1, 9, 17]);
    let batch = train.micro_batch(0).unwrap();
    assert_eq!(batch.ids, [1, 2, 3, 0, 5, 6, 7, 8]);
    assert_eq!(batch.labels, [IGNORE, 3, IGNORE, 5, IGNORE, 7, 8, 9]);
}

#[test]
fn an_order_of_epochs_does_not_depend_on_what_was_asked_before() {
    let bench = Bench::new();
    let samples: Vec<Vec<i64>> = (1..60).map(|id| vec![id; 8]).collect();
    write(&bench, "train/a/x.bin", &samples.iter().map(Vec::as_slice).collect::<Vec<_>>());
    let mut cfg = bench.config(Kind::Internevo, "train");
    cfg.shuffle = true;
    let train = bench.open(&cfg).unwrap().train;
    // Of 59 packs a step of 2 leaves one over in every epoch.
    let forward: Vec<Batch> = (0..580).map(|k| train.micro_batch(k).unwrap()).collect();
    for epoch in forward.chunks(58) {
        let mut ids: Vec<u32> = epoch.iter().map(|batch| batch.ids[0]).collect();
        ids.sort_unstable();
        ids.dedup();
        assert_eq!(ids.len(), 58);
    }
    let resumed = bench.open(&cfg).unwrap().train;
    for k in [579, 0, 300, 57, 58] {
        assert_eq!(resumed.micro_batch(k).unwrap(), forward[k as usize], "micro-batch {k}");
    }
    std::thread::scope(|scope| {
        for rank in 0..4 {
            let (resumed, forward) = (&resumed, &forward);
            scope.spawn(move || {
                for k in (rank..580).step_by(4) {
                    assert_eq!(resumed.micro_batch(k as u64).unwrap(), forward[k], "micro-batch {k}");
                }
            });
        }
    });
}

#[test]
fn every_error_names_the_place_and_the_way_out() {
    let bench = Bench::new();
    let good: &[&[i64]] = &[&[1, 2, 3, 4, 5, 6, 7, 8]];
    let place = |name: &str| {
        let name = format!("{name}/a/x.bin");
        write(&bench, &name, good);
        name
    };
    let meta = |folder: &str, bytes: Vec<u8>| bench.write(&format!("{}.meta", place(folder)), bytes);
    std::fs::remove_file(bench.path(&format!("{}.meta", place("without")))).unwrap();
    write(&bench, "outside/x.bin", good);
    place("outside");
    bench.write("nothing/a/x.txt", "");
    write(&bench, "small/a/x.bin", &[&[1; 3], &[1; 4]]);
    place("two");
    meta("cut", npy("<i8", &[0, 8])[..70].to_vec());
    meta("flat", b"\x93NUMPY\x01\x00\x3c\x00{'descr': '<i8', 'fortran_order': False, 'shape': (0,), }     ".to_vec());
    meta("float", npy("<f8", &[0, 8]));
    meta("negative", npy("<i4", &[-2147483000, 8]));
    meta("beyond", npy("<i4", &[36, 8]));
    meta("length", npy("<i8", &[0, -1]));
    meta("many", npy("<i8", &[0, 4_000_000_000]));
    let mut cfg = bench.config(Kind::Internevo, "two");
    let table = "; write it with numpy.save(file, numpy.array(rows, numpy.int64)), for each line of the .bin a row: byte offset, tokens";
    for (folder, expected) in [
        ("absent", "cannot list {}: No such file or directory (os error 2); check the path".to_owned()),
        ("two/a/x.bin", "cannot list {}: Not a directory (os error 20); check the path".into()),
        ("nothing", "{}: no files ending in .bin here; check the path".into()),
        (
            "outside",
            "{}/x.bin: a file outside the folders of data.path; put it into one, whose name is the type".into(),
        ),
        ("without", "{}/a/x.bin.meta: not found, and {}/a/x.bin cannot be read without it".to_owned() + table),
        (
            "small",
            "{}: no file holds the 8 tokens of a micro-batch, the largest 7; lower data.micro_batch_size or".into(),
        ),
        ("cut", "{}/a/x.bin.meta: the header promises 2 numbers and 0 are there".to_owned() + table),
        ("flat", "{}/a/x.bin.meta: shape (0,), not rows of two or more".to_owned() + table),
        ("float", "{}/a/x.bin.meta: numbers of type <f8, not |u1, <u2, <i2, <u4, <i4 or <i8".to_owned() + table),
        ("negative", "{}/a/x.bin.meta: row 0 begins at byte -2147483000, as where an int32 ran over".into()),
        ("beyond", "{}/a/x.bin.meta: row 0 begins at byte 36 and {}/a/x.bin has 36".to_owned() + table),
        ("length", "{}/a/x.bin.meta: row 0 has -1 tokens".to_owned() + table),
        ("many", "{}/a/x.bin.meta: 4000000000 tokens in all, and {}/a/x.bin has 36 bytes".to_owned() + table),
    ] {
        cfg.path = Some(bench.path(folder));
        let message = bench.open(&cfg).err().unwrap_or_else(|| panic!("{folder} was accepted")).to_string();
        let expected = expected.replace("{}", bench.path(folder).to_str().unwrap());
        assert!(message.starts_with(&expected), "expected {expected}\n     got {message}");
    }

    cfg.path = Some(bench.path("two"));
    cfg.min_length_of = BTreeMap::from([("a/".into(), 1), ("x.bin".into(), 2), ("elsewhere".into(), 3)]);
    let message = bench.open(&cfg).err().unwrap().to_string();
    let expected = "a/x.bin: data.min_length_of has more than one key for it (a/, x.bin); let at most one be part";
    assert!(message.contains(expected), "{message}");
    cfg.min_length_of.clear();

    cfg.shuffle = true;
    let message = bench.open(&cfg).err().unwrap().to_string();
    assert!(message.starts_with("the training data makes 1 micro-batches and a step takes 2; lower train.micro_b"));
    let message = data::open(&cfg, None, 257, 1 << 32, 1, "".as_ref()).err().unwrap().to_string();
    assert!(message.starts_with("seed = 4294967296: data.kind = \"internevo\" shuffles with a generator of NumPy"));

    write(&bench, "valid/a/news/x.bin", good);
    write(&bench, "valid/b/news/x.bin", good);
    cfg.valid = Some(ValidConfig { path: Some(bench.path("valid")), ..Default::default() });
    let message = data::open(&cfg, None, 257, SEED, 1, "".as_ref()).err().unwrap().to_string();
    assert!(message.ends_with("two validation sets of the name \"news\"; rename a folder"), "{message}");
}

#[test]
fn a_damaged_line_is_refused_when_it_is_read() {
    let bench = Bench::new();
    let good = "{\"tokens\":[1,2,3,4]}\n";
    for (line, expected) in [
        ("{\"tokens\":[1,2,3", "not a JSON object such as {\"tokens\": [1, 2]} (EOF while parsing a list"),
        ("oken\":[1,2,3,4]}", "not a JSON object such as {\"tokens\": [1, 2]} (expected value"),
        ("{\"ids\":[1,2,3,4]}", "not a JSON object such as {\"tokens\": [1, 2]} (missing field `tokens`"),
        ("{\"tokens\":[1,2,3,4.5]}", "not a JSON object such as {\"tokens\": [1, 2]} (invalid type: floating point"),
        ("{\"tokens\":[1,2,3]}", "3 tokens, and 4 in the .meta; write both again together"),
        ("{\"tokens\":[1,2,-257,4]}", "tokens[2] = -257 is outside the vocabulary of 257; raise model.vocab_size"),
        ("{\"tokens\":[9223372036854775807,2,3,4]}", "tokens[0] = 9223372036854775807 is outside the vocabulary"),
    ] {
        bench.write("train/a/x.bin", format!("{good}{line}\n"));
        bench.write("train/a/x.bin.meta", npy("<i8", &[0, 4, good.len() as i64, 4]));
        let train = bench.open(&bench.config(Kind::Internevo, "train")).unwrap().train;
        let message = train.micro_batch(0).unwrap_err().to_string();
        let expected = format!("{}: the line at byte 21: {expected}", bench.path("train/a/x.bin").display());
        assert!(message.starts_with(&expected), "expected {expected}\n     got {message}");
    }
}
