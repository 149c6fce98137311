//! Tokenizers: trained the same every time, saved and loaded without loss, decoded a token at a time.

use crate::bench::{Bench, SEED};
use data::{Kind, Tokenizer, TokenizerConfig, ValidConfig};
use proptest::prelude::*;

const MIXED: [&str; 7] = [
    "The quick brown fox jumps over the lazy dog. It's 2024, isn't it?\n\n",
    "深度学习框架:把大模型的训练变得简单。你好,世界!",
    "fn main() {\n    let x: u32 = 0x1f; // comment\n\tprintln!(\"{x:?}\");\n}\n",
    "👩‍👩‍👧‍👦 🇨🇳 ½ é e\u{301} \u{200b} \u{fffd} \0 \u{7f} \r\n",
    "   leading, trailing   and \t tabs   ",
    "mixed 中文 and English, 价格是 $3.50。",
    "",
];

fn trained() -> Tokenizer {
    Tokenizer::train(MIXED.iter().cycle().take(200), 600).unwrap()
}

#[test]
fn training_is_deterministic() {
    // Many words of few letters: pairs with equal counts everywhere, the hard case for a stable order.
    let words = |n: u32| (0..n).map(|i| format!("{:b} {:o} ", i * 4_435 % 4096, i * 40_503 % 4096));
    let text: Vec<String> = words(3000).collect();
    let json = |threads: usize| {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
        let folder = tempfile::tempdir().unwrap();
        pool.install(|| Tokenizer::train(text.iter(), 700).unwrap()).save(folder.path()).unwrap();
        std::fs::read_to_string(folder.path().join("tokenizer.json")).unwrap()
    };
    let first = json(1);
    for threads in [1, 2, 3, 4, 4, 4] {
        assert!(json(threads) == first, "{threads} threads");
    }
}

#[test]
fn every_text_comes_back_after_save_and_load() {
    let tokenizer = trained();
    let folder = tempfile::tempdir().unwrap();
    tokenizer.save(folder.path()).unwrap();
    for path in [folder.path().to_owned(), folder.path().join("tokenizer.json")] {
        let loaded = Tokenizer::load(&path).unwrap();
        assert_eq!((loaded.vocab_size(), loaded.eos_id()), (tokenizer.vocab_size(), tokenizer.eos_id()));
        for text in MIXED {
            let ids = loaded.encode(text).unwrap();
            assert_eq!(ids, tokenizer.encode(text).unwrap());
            assert_eq!(loaded.decode(&ids).unwrap(), text);
        }
    }
    assert!(tokenizer.encode(MIXED[0]).unwrap().len() < MIXED[0].len() / 2, "common words are merged");
}

#[test]
fn every_byte_has_an_id() {
    let bytes = Bench::new().bytes;
    assert_eq!((bytes.vocab_size(), bytes.eos_id()), (257, 0));
    // Together these hold every byte that occurs in UTF-8.
    let ascii = (0..128u8).map(char::from);
    let two = (0xc2..0xe0u32).flat_map(|lead| (0..64).map(move |tail| (lead & 0x1f) << 6 | tail));
    let more = (1..16u32).map(|lead| lead << 12 | 0xabc).filter(|c| c >> 11 != 27);
    let four = [0x10000, 0x50000, 0x90000, 0xd0000, 0x10ffff];
    let text: String = ascii.chain(two.chain(more).chain(four).filter_map(char::from_u32)).collect();
    let ids = bytes.encode(&text).unwrap();
    assert_eq!((ids.len(), bytes.decode(&ids).unwrap()), (text.len(), text));
}

#[test]
fn a_small_text_gives_a_small_vocabulary() {
    assert_eq!(Tokenizer::train(["ab ab"].iter(), 5000).unwrap().vocab_size(), 258);
    assert_eq!(Tokenizer::train(MIXED.iter().cycle().take(200), 300).unwrap().vocab_size(), 300);
}

#[test]
fn only_whole_characters_stream_out() {
    let bytes = Bench::new().bytes;
    let mut stream = bytes.stream();
    let ids = bytes.encode("a中🙂").unwrap();
    let pieces: Vec<String> = ids.iter().map(|id| stream.push(*id).unwrap()).collect();
    assert_eq!(pieces, ["a", "", "", "中", "", "", "", "🙂"]);
    assert_eq!(stream.finish().unwrap(), "");

    let mut stream = bytes.stream();
    for id in &ids[..3] {
        stream.push(*id).unwrap();
    }
    assert_eq!(stream.finish().unwrap(), "\u{fffd}", "what is left of a cut character");
}

proptest! {
    #[test]
    fn streamed_text_is_the_decoded_text(ids in prop::collection::vec(0u32..470, 0..60)) {
        // Any ids, most of them no text at all: a model at its first step.
        let tokenizer = small();
        let mut stream = tokenizer.stream();
        let mut streamed = String::new();
        for id in &ids {
            streamed += &stream.push(*id).unwrap();
        }
        streamed += &stream.finish().unwrap();
        prop_assert_eq!(streamed, tokenizer.decode(&ids).unwrap());
    }

    #[test]
    fn any_text_comes_back(text in "\\PC{0,200}") {
        let tokenizer = small();
        prop_assert_eq!(tokenizer.decode(&tokenizer.encode(&text).unwrap()).unwrap(), text);
    }
}

/// One tokenizer for all cases of a property.
fn small() -> &'static Tokenizer {
    static SMALL: std::sync::LazyLock<Tokenizer> = std::sync::LazyLock::new(trained);
    &SMALL
}

#[test]
fn the_end_of_text_is_what_the_files_beside_it_say() {
    let bench = Bench::new();
    bench.bytes.save(&bench.path("saved")).unwrap();
    let json = std::fs::read_to_string(bench.path("saved/tokenizer.json")).unwrap();
    for (i, (file, contents, eos_id)) in [
        ("unrelated.json", "{}", 0),
        ("tokenizer_config.json", r#"{"eos_token": "a"}"#, 65),
        ("tokenizer_config.json", r#"{"eos_token": {"content": "b", "lstrip": false}}"#, 66),
        ("tokenizer_config.json", r#"{"eos_token": null}"#, 0),
        ("generation_config.json", r#"{"eos_token_id": [67, 0]}"#, 67),
        ("config.json", r#"{"eos_token_id": 68}"#, 68),
    ]
    .into_iter()
    .enumerate()
    {
        bench.write(&format!("{i}/tokenizer.json"), &json);
        bench.write(&format!("{i}/{file}"), contents);
        assert_eq!(Tokenizer::load(&bench.path(&i.to_string())).unwrap().eos_id(), eos_id, "{contents}");
    }
}

#[test]
fn a_foreign_folder_keeps_its_config_and_loses_its_truncation() {
    let bench = Bench::new();
    bench.bytes.save(&bench.path("plain")).unwrap();
    let json = std::fs::read_to_string(bench.path("plain/tokenizer.json")).unwrap();
    let truncated = json.replace(
        "\"truncation\": null",
        r#""truncation": {"direction": "Right", "max_length": 2, "strategy": "LongestFirst", "stride": 0}"#,
    );
    assert_ne!(json, truncated);
    let config = "{\n  \"chat_template\": \"{{ x }}\",\n  \"eos_token\": \"<|endoftext|>\"\n}";
    bench.write("foreign/tokenizer.json", &truncated);
    bench.write("foreign/tokenizer_config.json", config);
    let foreign = Tokenizer::load(&bench.path("foreign")).unwrap();
    assert_eq!(foreign.encode("abcdef").unwrap().len(), 6);
    foreign.save(&bench.path("copy")).unwrap();
    for (name, contents) in [("tokenizer.json", truncated.as_str()), ("tokenizer_config.json", config)] {
        assert_eq!(std::fs::read_to_string(bench.path("copy").join(name)).unwrap(), contents);
    }
}

#[test]
fn it_is_trained_on_what_is_not_held_out() {
    let bench = Bench::new();
    bench.write("a.jsonl", crate::bench::jsonl(&["qqqq qqqq qqqq", "zzzz zzzz zzzz"]));
    let mut data = bench.config(Kind::Jsonl, "a.jsonl");
    let cfg = TokenizerConfig { path: None, vocab_size: Some(300) };
    let merges = |tokenizer: &Tokenizer| {
        ["qqqq", "zzzz"].iter().filter(|word| tokenizer.encode(word).unwrap().len() < 4).count()
    };
    let all = Tokenizer::from_config(&cfg, &data, SEED).unwrap().unwrap();
    data.valid = Some(ValidConfig { fraction: Some(0.5), ..Default::default() });
    let half = Tokenizer::from_config(&cfg, &data, SEED).unwrap().unwrap();
    assert_eq!((merges(&all), merges(&half)), (2, 1));
    assert!(Tokenizer::from_config(&TokenizerConfig::default(), &data, SEED).unwrap().is_none());
}
