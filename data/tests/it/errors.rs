//! Every mistake of a user gets a message with the place, the value and the way out.

use std::collections::BTreeMap;

use crate::bench::{Bench, SEED, STEP, u16s};
use data::{DataConfig, Dtype, Kind, Tokenizer, TokenizerConfig, ValidConfig};

#[test]
fn config_problems_are_reported_all_at_once() {
    let bench = Bench::new();
    let mut cfg = bench.config(Kind::Jsonl, "");
    cfg.path = Some("".into());
    (cfg.seq_len, cfg.micro_batch_size, cfg.text_key) = (0, 0, String::new());
    (cfg.dtype, cfg.extensions) = (Some(Dtype::U16), Some(vec![]));
    cfg.valid = Some(ValidConfig { fraction: Some(1.0), path: Some("v".into()), ..Default::default() });
    let message = bench.open(&cfg).err().unwrap().to_string();
    let expected = [
        "data.path is empty: name a file or a folder",
        "data.seq_len = 0: must be at least 1; try 512",
        "data.micro_batch_size = 0: must be at least 1; try 1",
        "data.text_key is empty: name the field that holds the text; try \"text\"",
        "data.dtype is for kind = \"tokens\", not \"jsonl\"; remove it",
        "data.extensions is for kind = \"text\", not \"jsonl\"; remove it",
        "data.extensions = []: no file would be read; try [\"txt\"], or remove it",
        "data.valid needs one of fraction, path, sets; try fraction = 0.02",
        "data.valid.fraction = 1: must be at least 0 and below 1; try 0.02",
    ];
    assert_eq!(message.lines().collect::<Vec<_>>(), expected);

    let mut problems = Vec::new();
    let mut cfg = bench.config(Kind::Tokens, "t.npy");
    (cfg.seq_len, cfg.micro_batch_size, cfg.dtype) = (1 << 20, 1 << 11, Some(Dtype::U16));
    cfg.validate(&mut problems);
    TokenizerConfig { path: Some("t".into()), vocab_size: Some(256) }.validate(&mut problems);
    let expected = [
        "data.seq_len = 1048576 times data.micro_batch_size = 2048 is more than 2^31 - 1 tokens; lower one",
        "data.dtype is for flat files, a .npy names its own type; remove it",
        "tokenizer.path and tokenizer.vocab_size are both set; keep path to load, vocab_size to train",
        "tokenizer.vocab_size = 256: a byte-level vocabulary needs 257 (every byte and the end of text); try 4096",
    ];
    assert_eq!(problems, expected);
}

#[test]
fn keys_of_another_kind_are_refused() {
    let bench = Bench::new();
    let problems = |cfg: &DataConfig| {
        let mut problems = Vec::new();
        cfg.validate(&mut problems);
        problems
    };
    let mut cfg = bench.config(Kind::Random, "");
    cfg.path = Some("p".into());
    (cfg.min_length, cfg.min_length_of) = (1, BTreeMap::from([("a".into(), 1)]));
    cfg.valid = Some(ValidConfig { path: Some("v".into()), ..Default::default() });
    let expected = [
        "data.path is not for kind = \"random\", which reads no files; remove it",
        "data.min_length is for kind = \"internevo\", not \"random\"; remove it",
        "data.min_length_of is for kind = \"internevo\", not \"random\"; remove it",
        "data.valid of kind = \"random\" has random alone; try random = true",
    ];
    assert_eq!(problems(&cfg), expected);

    let mut cfg = bench.config(Kind::Internevo, "");
    cfg.path = None;
    (cfg.fixed_length, cfg.min_length_of) = (true, BTreeMap::from([(String::new(), 1)]));
    cfg.valid = Some(ValidConfig { fraction: Some(0.1), ..Default::default() });
    let expected = [
        "data.path is missing; write path = \"corpus/\" under [data]",
        "data.min_length_of has an empty key, which is part of every path; set data.min_length instead",
        "data.fixed_length is for kind = \"random\", not \"internevo\"; remove it",
        "data.valid needs one of path, sets; try path = \"valid/\"",
    ];
    assert_eq!(problems(&cfg), expected);

    let mut cfg = bench.config(Kind::Text, "a");
    cfg.cross_documents = true;
    let sets = BTreeMap::from([("".into(), "a".into())]);
    cfg.valid = Some(ValidConfig { sets: Some(sets), random: true, min_length: Some(0), ..Default::default() });
    let expected = [
        "data.cross_documents is for kind = \"internevo\" and \"random\", not \"text\"; remove it",
        "data.valid needs one of fraction, path, sets; try fraction = 0.02",
        "data.valid.sets: every set needs a name and a path, as in sets = { news = \"news.txt\" }",
        "data.valid.min_length is for kind = \"internevo\", not \"text\"; remove it",
    ];
    assert_eq!(problems(&cfg), expected);

    cfg.cross_documents = false;
    cfg.valid = Some(ValidConfig { sets: Some(BTreeMap::new()), ..Default::default() });
    let expected = ["data.valid.sets is empty: name a set, as in sets = { news = \"news.txt\" }"];
    assert_eq!(problems(&cfg), expected);
}

#[test]
fn config_files_are_read_strictly() {
    for (json, expected) in [
        (r#"{"kind": "text", "path": "p", "seq_len": 8, "micro_batch_size": 1}"#, None),
        (r#"{"kind": "text", "path": "p", "seq_len": 8, "micro_batch_size": 1, "x": 1}"#, Some("unknown field `x`")),
        (r#"{"kind": "random", "seq_len": 8, "micro_batch_size": 1, "valid": {"random": true}}"#, None),
        (r#"{"kind": "parquet", "path": "p"}"#, Some("unknown variant `parquet`, expected one of `text`")),
        (r#"{"kind": "tokens", "path": "p", "dtype": "f32"}"#, Some("unknown variant `f32`, expected `u16` or `u32`")),
        (r#"{"kind": "text", "path": "p"}"#, Some("missing field `seq_len`")),
    ] {
        let error = serde_json::from_str::<DataConfig>(json).err().map(|error| error.to_string());
        match (expected, error) {
            (None, None) => {}
            (Some(expected), Some(error)) if error.contains(expected) => {}
            (expected, error) => panic!("{json}: expected {expected:?}, got {error:?}"),
        }
    }
}

#[test]
fn every_data_error_names_the_place_and_the_way_out() {
    let bench = Bench::new();
    bench.write("empty/a.txt", "");
    bench.write("none/a.png", "x");
    bench.write("latin.txt", b"caf\xe9 and more");
    bench.write("short.txt", "ab");
    bench.write("syntax.jsonl", "{\"text\": \"fine\"}\n\n{oops}\n");
    bench.write("list.jsonl", "[1]\n");
    bench.write("key.jsonl", "{\"text\": \"fine\"}\n{\"body\": \"b\", \"id\": 1}\n");
    bench.write("number.jsonl", "{\"text\": 5}\n");
    bench.write("odd.bin", b"123");
    bench.write("outside.bin", u16s((0..300_000).map(|i| if i >= 290_000 { 300 } else { 5 })));
    bench.write("tiny.bin", u16s([1, 2, 3, 4]));
    bench.write("one.bin", u16s([1, 2, 3, 4, 5]));
    bench.write("bad.npy", "no");
    let valid = |fraction| Some(ValidConfig { fraction: Some(fraction), ..Default::default() });
    for (kind, name, valid, expected) in [
        (Kind::Text, "absent", None, "cannot read {}: No such file or directory (os error 2); check the path"),
        (Kind::Tokens, "absent", None, "cannot open {}: No such file or directory (os error 2); check the path"),
        (Kind::Text, "empty", None, "{}: no text here, every file is empty; point data.path at a corpus"),
        (Kind::Text, "none", None, "{}: no files ending in .txt, .text, .md"),
        (Kind::Jsonl, "none", None, "{}: no files ending in .jsonl here; check the path"),
        (Kind::Text, "latin.txt", None, "{}: byte 3 is not UTF-8; convert the file"),
        (Kind::Text, "short.txt", None, "{}: the training split holds 3 tokens and a row needs 4; lower data.seq_len"),
        (Kind::Text, "short.txt", valid(0.5), "{}: too few documents (1) to hold some out"),
        (Kind::Jsonl, "syntax.jsonl", None, "{}:3: not a JSON object (key must be a string at line 1 column 2)"),
        (Kind::Jsonl, "list.jsonl", None, "{}:1: not a JSON object (invalid type: sequence"),
        (Kind::Jsonl, "key.jsonl", None, "{}:2: no field \"text\"; set data.text_key to one of: body, id"),
        (Kind::Jsonl, "number.jsonl", None, "{}:1: \"text\" is a number, not a string; set data.text_key"),
        (Kind::Tokens, "odd.bin", None, "{}: 3 bytes are not whole 2-byte ids; check data.dtype"),
        (Kind::Tokens, "outside.bin", None, "{}: ids[290000] = 300 is outside the vocabulary of 257; check data.dtype"),
        (Kind::Tokens, "tiny.bin", None, "{}: the training split holds 4 tokens and a row needs 5"),
        (Kind::Tokens, "one.bin", valid(0.5), "{}: too few rows (1) to hold some out"),
        (Kind::Tokens, "bad.npy", None, "{}: not a .npy file; write it again with numpy.save"),
    ] {
        let mut cfg = bench.config(kind, name);
        cfg.valid = valid;
        let message = bench.open(&cfg).err().unwrap_or_else(|| panic!("{name} was accepted")).to_string();
        let expected = expected.replace("{}", bench.path(name).to_str().unwrap());
        assert!(message.starts_with(&expected), "expected {expected}\n     got {message}");
        assert!(!message.ends_with('.'), "{message}");
    }
}

#[test]
fn tokenizer_and_model_have_to_fit() {
    let bench = Bench::new();
    bench.write("a.txt", "some text");
    let cfg = bench.config(Kind::Text, "a.txt");
    let open = |tokenizer, vocab_size| {
        data::open(&cfg, tokenizer, vocab_size, SEED, STEP, &bench.path("cache")).err().unwrap().to_string()
    };
    assert_eq!(open(None, 257), "data.kind = \"text\" needs a tokenizer; set tokenizer.path or tokenizer.vocab_size");
    assert_eq!(
        open(Some(&bench.bytes), 256),
        "the tokenizer has 257 ids and the model 256; set model.vocab_size = 257 or more"
    );
    let train = TokenizerConfig { path: None, vocab_size: Some(300) };
    let error = Tokenizer::from_config(&train, &bench.config(Kind::Tokens, "a.txt"), SEED).err().unwrap();
    assert!(error.to_string().starts_with("tokenizer.vocab_size trains on text and data.kind is \"tokens\""));
}

#[test]
fn every_tokenizer_error_names_the_place_and_the_way_out() {
    let bench = Bench::new();
    bench.bytes.save(&bench.path("good")).unwrap();
    let json = std::fs::read_to_string(bench.path("good/tokenizer.json")).unwrap();
    let unnamed = json.replace("<|endoftext|>", "<|fin|>");
    bench.write("broken/tokenizer.json", "{}");
    bench.write("cut/tokenizer.json", &json[..json.len() / 2]);
    // Longer than what it is cut from, which the library does not look at.
    bench.write("prefix/tokenizer.json", json.replace("prefix\": null", "prefix\": \"much longer than any piece\""));
    bench.write("unnamed/tokenizer.json", &unnamed);
    bench.write("config/tokenizer.json", &json);
    bench.write("config/tokenizer_config.json", "{");
    bench.write("token/tokenizer.json", &json);
    bench.write("token/tokenizer_config.json", r#"{"eos_token": "</s>"}"#);
    bench.write("id/tokenizer.json", &json);
    bench.write("id/config.json", r#"{"eos_token_id": 900}"#);
    for (folder, file, expected) in [
        ("absent", "", "cannot read {}: No such file"),
        ("broken", "tokenizer.json", "a tokenizer.json of the Hugging Face tokenizers library is needed"),
        ("cut", "tokenizer.json", "{}: EOF while parsing"),
        ("unnamed", "tokenizer.json", "{}: no end-of-text token found; put a tokenizer_config.json"),
        ("config", "tokenizer_config.json", "{}: EOF while parsing an object at line 1 column 1; correct the file"),
        ("token", "tokenizer_config.json", "{}: eos_token </s> is not in the vocabulary of tokenizer.json"),
        ("id", "config.json", "{}: eos_token_id 900 is not in the vocabulary of tokenizer.json"),
    ] {
        let error = Tokenizer::load(&bench.path(folder)).err().unwrap_or_else(|| panic!("{folder} was accepted"));
        let path = bench.path(folder).join(file);
        let expected = expected.replace("{}", path.to_str().unwrap().trim_end_matches('/'));
        assert!(error.to_string().contains(&expected), "expected {expected}\n     got {error}");
    }
    assert!(Tokenizer::train(std::iter::empty::<&str>(), 256).err().unwrap().to_string().ends_with("try 4096"));
}

#[test]
fn a_text_that_a_tokenizer_has_no_ids_for_is_refused() {
    let bench = Bench::new();
    let model = r#"{"type": "WordLevel", "vocab": {"</s>": 0, "known": 1}, "unk_token": "<unk>"}"#;
    bench.write("words/tokenizer.json", format!(r#"{{"version": "1.0", "added_tokens": [], "model": {model}}}"#));
    let words = Tokenizer::load(&bench.path("words")).unwrap();
    assert_eq!(words.encode("known").unwrap(), [1]);
    let message = words.encode("unheard of").unwrap_err().to_string();
    assert!(message.starts_with("the tokenizer refuses a text: ") && message.contains("unknown token"), "{message}");
}
