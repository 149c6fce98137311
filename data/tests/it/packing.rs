//! What is in a micro-batch, spelled out; and that micro-batch k depends on nothing but k.

use std::collections::HashSet;

use crate::bench::{Bench, SEED, STEP, jsonl, u16s};
use data::{Batch, Dtype, IGNORE, Kind, ValidConfig};

const X: u32 = IGNORE;

/// The ids that the byte tokenizer gives to a text; `|` is the end of text.
fn ids(text: &str) -> Vec<u32> {
    text.bytes().map(|byte| if byte == b'|' { 0 } else { byte as u32 - 32 }).collect()
}

/// Labels likewise; `_` carries no loss.
fn labels(text: &str) -> Vec<u32> {
    ids(text).into_iter().map(|id| if id == b'_' as u32 - 32 { X } else { id }).collect()
}

fn batch(text: &str, label: &str, positions: &str, cu_seqlens: &[u32]) -> Batch {
    let positions = positions.bytes().map(|digit| (digit - b'0').into()).collect();
    let types = vec![0; text.len()];
    Batch { ids: ids(text), labels: labels(label), positions, cu_seqlens: cu_seqlens.to_vec(), types }
}

#[test]
fn documents_are_packed_end_to_end() {
    let bench = Bench::new();
    bench.write("d.jsonl", jsonl(&["abc", "de", "fghij"]));
    // The stream is abc|de|fghij| and rows are 4: abc| de|f ghij; the last | fills no row.
    let train = bench.open(&bench.config(Kind::Jsonl, "d.jsonl")).unwrap().train;
    assert_eq!(train.rows(), 3);
    let expected = [
        batch("abc|de|f", "bc|_e|_g", "01230120", &[0, 4, 7, 8]),
        batch("ghijabc|", "hij|bc|_", "01230123", &[0, 4, 8]),
        batch("de|fghij", "e|_ghij|", "01200123", &[0, 3, 4, 8]),
    ];
    for (k, expected) in expected.iter().enumerate() {
        assert_eq!(train.micro_batch(k as u64).unwrap(), *expected, "micro-batch {k}");
        assert_eq!(train.micro_batch(k as u64 + 3).unwrap(), *expected, "two epochs later");
    }
    let evaluation: Vec<Batch> = train.eval_batches().map(Result::unwrap).collect();
    let filled = batch("ghijabc|", "hij|____", "01230123", &[0, 4, 8]);
    assert_eq!(evaluation, [expected[0].clone(), filled]);
    let filler = batch("abc|abc|", "________", "01230123", &[0, 4, 8]);
    assert_eq!((train.eval_len(), train.eval_batch(2).unwrap()), (2, filler));
}

#[test]
fn a_row_of_tokens_has_a_label_for_each() {
    let bench = Bench::new();
    let npy = |descr: &str| format!("{{'descr': '{descr}', 'fortran_order': False, 'shape': (14,), }}\n");
    let npy = |descr: &str, bytes: Vec<u8>| {
        let header = npy(descr);
        [b"\x93NUMPY\x01\x00".as_slice(), &(header.len() as u16).to_le_bytes(), header.as_bytes(), &bytes].concat()
    };
    bench.write("t.bin", u16s(10..24));
    bench.write("t.u32", (10u32..24).flat_map(u32::to_le_bytes).collect::<Vec<_>>());
    bench.write("named", (10u32..24).flat_map(u32::to_le_bytes).collect::<Vec<_>>());
    bench.write("u1.npy", npy("|u1", (10..24).collect()));
    bench.write("i8.npy", npy("<i8", (10i64..24).flat_map(i64::to_le_bytes).collect()));
    for (name, dtype) in
        [("t.bin", None), ("t.u32", None), ("named", Some(Dtype::U32)), ("u1.npy", None), ("i8.npy", None)]
    {
        let mut cfg = bench.config(Kind::Tokens, name);
        cfg.dtype = dtype;
        // Three rows of 4 need 13 ids; the fourteenth is not enough for another.
        let train = bench.open(&cfg).unwrap().train;
        assert_eq!(train.rows(), 3, "{name}");
        let expected = Batch {
            ids: vec![18, 19, 20, 21, 10, 11, 12, 13],
            labels: vec![19, 20, 21, 22, 11, 12, 13, 14],
            positions: vec![0, 1, 2, 3, 0, 1, 2, 3],
            cu_seqlens: vec![0, 4, 8],
            types: vec![0; 8],
        };
        assert_eq!(train.micro_batch(1).unwrap(), expected, "{name}");
    }
}

#[test]
fn held_out_rows_are_the_last_and_a_path_is_another_file() {
    let bench = Bench::new();
    bench.write("t.bin", u16s(0..41));
    bench.write("v.bin", u16s(100..105));
    let mut cfg = bench.config(Kind::Tokens, "t.bin");
    let valid = |fraction, path| Some(ValidConfig { fraction, path, ..Default::default() });
    for (held_out, train_rows, valid_rows) in [
        (None, 10, None),
        (valid(Some(0.0), None), 10, None),
        (valid(Some(0.2), None), 8, Some((2, 32))),
        (valid(Some(0.01), None), 9, Some((1, 36))),
        (valid(Some(0.99), None), 1, Some((9, 4))),
        (valid(None, Some(bench.path("v.bin"))), 10, Some((1, 100))),
    ] {
        cfg.valid = held_out;
        let splits = bench.open(&cfg).unwrap();
        assert_eq!(splits.train.rows(), train_rows, "{:?}", cfg.valid);
        let found = splits.valid.first().map(|(_, valid)| (valid.rows(), valid.eval_batch(0).unwrap().ids[0]));
        assert_eq!(found, valid_rows, "{:?}", cfg.valid);
    }
}

#[test]
fn held_out_documents_are_in_one_split_only() {
    let bench = Bench::new();
    let documents: Vec<String> = ('A'..='Z').map(|letter| letter.to_string().repeat(7)).collect();
    bench.write("d.jsonl", jsonl(&documents.iter().map(String::as_str).collect::<Vec<_>>()));
    bench.write("v.jsonl", jsonl(&["1234567"]));
    let mut cfg = bench.config(Kind::Jsonl, "d.jsonl");
    cfg.valid = Some(ValidConfig { fraction: Some(0.2), ..Default::default() });
    let letters = |batches: Vec<Batch>| -> HashSet<u32> { batches.into_iter().flat_map(|b| b.ids).collect() };

    let splits = bench.open(&cfg).unwrap();
    let train = letters(splits.train.eval_batches().map(Result::unwrap).collect());
    let valid = letters(splits.valid[0].1.eval_batches().map(Result::unwrap).collect());
    // The end of text is all they have in common.
    assert_eq!((train.len(), valid.len(), train.intersection(&valid).count()), (22, 6, 1));

    let other = data::open(&cfg, Some(&bench.bytes), 257, SEED + 1, STEP, &bench.path("cache")).unwrap();
    assert_ne!(letters(other.valid[0].1.eval_batches().map(Result::unwrap).collect()), valid, "the seed chooses");

    cfg.valid = Some(ValidConfig { path: Some(bench.path("v.jsonl")), ..Default::default() });
    let splits = bench.open(&cfg).unwrap();
    assert_eq!((splits.train.rows(), splits.valid[0].1.rows(), splits.caches.len()), (52, 2, 2));
}

#[test]
fn validation_sets_have_names() {
    let bench = Bench::new();
    bench.write("d.jsonl", jsonl(&["abc", "de", "fghij"]));
    bench.write("v.jsonl", jsonl(&["1234567"]));
    bench.write("t.bin", u16s(0..41));
    bench.write("v.bin", u16s(100..105));
    for (kind, train, valid, rows) in
        [(Kind::Jsonl, "d.jsonl", "v.jsonl", [2, 3]), (Kind::Tokens, "t.bin", "v.bin", [1, 10])]
    {
        let mut cfg = bench.config(kind, train);
        let sets = [("v".into(), bench.path(valid)), ("z".into(), bench.path(train))];
        cfg.valid = Some(ValidConfig { sets: Some(sets.into()), ..Default::default() });
        let splits = bench.open(&cfg).unwrap();
        let found: Vec<_> = splits.valid.iter().map(|(name, set)| (name.as_str(), set.rows())).collect();
        assert_eq!(found, [("v", rows[0]), ("z", rows[1])]);
        assert_eq!(splits.caches.len(), if kind == Kind::Jsonl { 3 } else { 0 });
    }
}

#[test]
fn an_epoch_takes_every_row_once_in_another_order_each_time() {
    let bench = Bench::new();
    bench.write("t.bin", u16s(0..401));
    let mut cfg = bench.config(Kind::Tokens, "t.bin");
    cfg.shuffle = true;
    let open = |seed| data::open(&cfg, None, 512, seed, STEP, &bench.path("cache")).unwrap().train;
    let train = open(SEED);
    let epoch = |e: u64| -> Vec<u32> {
        let batches = (e * 50..e * 50 + 50).map(|k| train.micro_batch(k).unwrap());
        batches.flat_map(|batch| [batch.ids[0], batch.ids[4]]).collect()
    };
    let orders: Vec<Vec<u32>> = (0..20).map(epoch).collect();
    for order in &orders {
        let mut sorted = order.clone();
        sorted.sort_unstable();
        assert_eq!(sorted, (0..100).map(|row| row * 4).collect::<Vec<_>>());
    }
    assert_eq!(orders.iter().collect::<HashSet<_>>().len(), 20);

    // Resume: opened anew and asked from the middle, in any order, it answers the same.
    let resumed = open(SEED);
    for k in [999, 3, 500, 499] {
        assert_eq!(resumed.micro_batch(k).unwrap(), train.micro_batch(k).unwrap(), "micro-batch {k}");
    }
    assert_ne!(open(SEED + 1).micro_batch(0).unwrap(), train.micro_batch(0).unwrap());
    assert_eq!(train.eval_batch(0).unwrap().ids, [0, 1, 2, 3, 4, 5, 6, 7], "evaluation does not shuffle");
}

#[test]
fn datasets_are_shared_between_threads() {
    fn shared<T: Send + Sync>() {}
    shared::<data::Splits>();
    shared::<data::Tokenizer>();
}
