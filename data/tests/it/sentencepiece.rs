//! SentencePiece models: the ids of the library, for a small model worked out by hand and for real ones where they
//! are at hand; and files that are refused.

use std::collections::BTreeMap;
use std::path::Path;

use crate::bench::Bench;
use data::Tokenizer;

// The part of Protocol Buffers that a model file needs.

fn varint(mut value: u64) -> Vec<u8> {
    let mut bytes = Vec::new();
    while value >= 0x80 {
        bytes.push(value as u8 | 0x80);
        value >>= 7;
    }
    bytes.push(value as u8);
    bytes
}

fn number(field: u64, value: u64) -> Vec<u8> {
    [varint(field << 3), varint(value)].concat()
}

fn float(field: u64, value: f32) -> Vec<u8> {
    [varint(field << 3 | 5), value.to_le_bytes().to_vec()].concat()
}

fn bytes(field: u64, value: impl AsRef<[u8]>) -> Vec<u8> {
    [varint(field << 3 | 2), varint(value.as_ref().len() as u64), value.as_ref().to_vec()].concat()
}

// Numbers of `sentencepiece_model.proto`.

const NORMAL: u64 = 1;
const UNKNOWN: u64 = 2;
const CONTROL: u64 = 3;
const USER_DEFINED: u64 = 4;
const UNUSED: u64 = 5;
const BYTE: u64 = 6;

const BPE: (u64, u64) = (3, 2);
const SPACE_IS_SUFFIX: (u64, u64) = (24, 1);
const BYTE_FALLBACK: (u64, u64) = (35, 1);

const PREFIX: u64 = 3;
const EXTRA: u64 = 4;
const ESCAPE: u64 = 5;

type Piece = (String, f32, u64);

fn piece(text: &str, score: f32, kind: u64) -> Piece {
    (text.to_owned(), score, kind)
}

fn model(pieces: &[Piece], trainer: &[(u64, u64)], normalizer: &[(u64, u64)]) -> Vec<u8> {
    let spec = |fields: &[(u64, u64)]| fields.iter().flat_map(|(field, value)| number(*field, *value)).collect();
    let pieces = pieces
        .iter()
        .flat_map(|(text, score, kind)| bytes(1, [bytes(1, text), float(2, *score), number(3, *kind)].concat()));
    let (trainer, normalizer): (Vec<u8>, Vec<u8>) = (spec(trainer), spec(normalizer));
    [pieces.collect(), bytes(2, trainer), bytes(3, normalizer)].concat()
}

fn special() -> Vec<Piece> {
    vec![piece("<unk>", 0.0, UNKNOWN), piece("<s>", 0.0, CONTROL), piece("</s>", 0.0, CONTROL)]
}

fn all_bytes() -> Vec<Piece> {
    (0..256).map(|byte| piece(&format!("<0x{byte:02X}>"), 0.0, BYTE)).collect()
}

/// Nine pieces, in which "bc" is joined before "ab", although its id is larger.
fn words() -> Vec<Piece> {
    let texts =
        [("▁", -1), ("a", -2), ("b", -3), ("c", -4), ("ab", -8), ("bc", -7), ("abc", -9), ("▁a", -10), ("▁▁", -11)];
    texts.map(|(text, score)| piece(text, score as f32, NORMAL)).to_vec()
}

fn load(file: &[u8]) -> Result<Tokenizer, String> {
    let bench = Bench::new();
    bench.write("any.model", file);
    Tokenizer::load(&bench.path("any.model")).map_err(|error| error.to_string())
}

fn check(tokenizer: &Tokenizer, cases: &[(&str, &[u32])]) {
    for (text, ids) in cases {
        assert_eq!(tokenizer.encode(text).unwrap(), *ids, "{text:?}");
    }
}

#[test]
fn pieces_are_joined_by_score() {
    // 0 to 2 are special, 3 to 258 bytes, 259 to 267 the words, then:
    let more = vec![piece("bb", 0.0, USER_DEFINED), piece("\0", -12.0, NORMAL)];
    let pieces = [special(), all_bytes(), words(), more].concat();
    let tokenizer = load(&model(&pieces, &[BPE, BYTE_FALLBACK], &[(PREFIX, 0), (EXTRA, 0)])).unwrap();
    assert_eq!((tokenizer.vocab_size(), tokenizer.eos_id()), (270, 2));
    let cases: [(&str, &[u32]); 15] = [
        ("", &[]),
        ("ab", &[263]),
        ("abc", &[265]),
        ("bab", &[261, 263]),
        (" a", &[266]),
        ("▁a", &[266]),
        (" ab", &[259, 263]),
        ("   ", &[267, 259]),
        ("abb", &[260, 268]),
        ("bbb", &[268, 261]),
        ("aé", &[260, 3 + 0xc3, 3 + 0xa9]),
        ("a\r\nb", &[260, 3 + 13, 3 + 10, 261]),
        ("<0x41>", &[63, 51, 123, 55, 52, 65]),
        ("c\0", &[262, 3]),
        // The one text that SentencePiece would take apart: see the module.
        ("a</s>b", &[260, 2, 261]),
    ];
    check(&tokenizer, &cases);

    let folder = tempfile::tempdir().unwrap();
    tokenizer.save(folder.path()).unwrap();
    let saved = Tokenizer::load(folder.path()).unwrap();
    check(&saved, &cases);
    for (text, ids) in cases {
        assert_eq!(saved.decode(ids).unwrap(), text.replace('▁', " "));
    }
    assert_eq!(saved.decode(&[269]).unwrap(), "\0", "the piece that is never used");
}

#[test]
fn spaces_are_treated_as_the_model_says() {
    let pieces = [special(), words()].concat();
    let load = |prefix, extra| load(&model(&pieces, &[BPE], &[(PREFIX, prefix), (EXTRA, extra)])).unwrap();
    // Without bytes to fall back on, unknown characters in a row are one unknown piece.
    check(&load(0, 0), &[("", &[]), (" ", &[3]), ("  a  ", &[3, 10, 11]), ("aéüb", &[4, 0, 5])]);
    check(&load(1, 0), &[("", &[]), (" ", &[11]), ("a", &[10]), ("  a  ", &[11, 10, 11]), ("éüb", &[3, 0, 5])]);
    check(&load(0, 1), &[("", &[]), ("   ", &[]), ("  a   b  ", &[4, 3, 5]), ("a ▁", &[4]), ("▁ a", &[3, 10])]);
    check(&load(1, 1), &[("", &[]), ("   ", &[]), ("  a   b  ", &[10, 3, 5]), ("\n a\n ", &[3, 0, 10, 0])]);
    assert_eq!(load(1, 0).decode(&[10, 11, 5]).unwrap(), "a  b");
    assert_eq!(load(0, 0).decode(&[10, 11, 5]).unwrap(), " a  b");
}

#[test]
fn a_folder_may_hold_a_model_and_rename_its_pieces() {
    let bench = Bench::new();
    let pieces = [special(), words(), vec![piece("[SPARE]", 0.0, USER_DEFINED)]].concat();
    bench.write("chat/tokenizer.model", model(&pieces, &[BPE], &[(PREFIX, 0), (EXTRA, 0)]));
    let added = |content: &str| serde_json::to_value(tokenizers::AddedToken::from(content, true)).unwrap();
    let config = |added: serde_json::Value| {
        serde_json::json!({
            "added_tokens_decoder": added,
            "auto_map": { "AutoTokenizer": ["tokenization_x.XTokenizer", null] },
            "chat_template": "{{ x }}",
            "eos_token": "<|end|>",
            "tokenizer_class": "XTokenizer",
        })
        .to_string()
    };
    let names = serde_json::json!({ "2": added("</s>"), "12": added("<|end|>"), "13": added("<|pad|>") });
    bench.write("chat/tokenizer_config.json", config(names));
    let tokenizer = Tokenizer::load(&bench.path("chat")).unwrap();
    assert_eq!((tokenizer.vocab_size(), tokenizer.eos_id()), (14, 12));
    check(&tokenizer, &[("ab<|end|><|pad|>", &[7, 12, 13]), ("[SPARE]", &[0])]);

    tokenizer.save(&bench.path("saved")).unwrap();
    let saved = std::fs::read_to_string(bench.path("saved/tokenizer_config.json")).unwrap();
    for (key, kept) in
        [("PreTrainedTokenizerFast", true), ("{{ x }}", true), ("auto_map", false), ("XTokenizer\"", false)]
    {
        assert_eq!(saved.contains(key), kept, "{key}");
    }

    bench.write("chat/tokenizer_config.json", config(serde_json::json!({ "40": added("<|pad|>") })));
    let message = Tokenizer::load(&bench.path("chat")).err().unwrap().to_string();
    assert!(
        message.contains("added_tokens_decoder in tokenizer_config.json: id 40 is beyond the 13 pieces"),
        "{message}"
    );

    // A tokenizer.json goes before the model.
    bench.bytes.save(&bench.path("chat")).unwrap();
    assert_eq!(Tokenizer::load(&bench.path("chat")).unwrap().vocab_size(), 257);
}

#[test]
fn the_model_names_its_end_of_text() {
    let pieces = [special(), vec![piece("<fin>", 0.0, CONTROL)]].concat();
    let end = |name: &str| {
        let trainer = [number(BPE.0, BPE.1), bytes(47, name)].concat();
        let pieces = model(&pieces, &[], &[]);
        load(&[pieces, bytes(2, trainer)].concat()).map(|tokenizer| tokenizer.eos_id())
    };
    assert_eq!(end("<fin>"), Ok(3));
    assert!(end("<other>").unwrap_err().contains("no end-of-text token found"));
}

#[test]
fn what_has_no_equal_pipeline_is_refused() {
    let plain = [special(), words()].concat();
    let with = |text: &str, kind| [plain.clone(), vec![piece(text, -20.0, kind)]].concat();
    let bpe = |pieces: &[Piece]| model(pieces, &[BPE], &[]);
    let rules = bytes(3, [bytes(1, "nmt_nfkc"), bytes(2, "charsmap")].concat());
    let unscored = [special(), vec![piece("a", f32::NAN, NORMAL)]].concat();
    for (file, expected) in [
        (Vec::new(), "not a whole SentencePiece model; copy the file again"),
        (b"text, not a model".to_vec(), "damaged or cut short; copy the file again"),
        (model(&plain, &[], &[]), "a unigram model is not supported; let transformers convert it"),
        (model(&plain, &[(3, 4)], &[]), "a char model is not supported"),
        (model(&plain, &[(3, 9)], &[]), "a ? model is not supported"),
        ([bpe(&plain), rules].concat(), "the normalization nmt_nfkc is not supported"),
        (model(&plain, &[BPE], &[(ESCAPE, 0)]), "escape_whitespaces = false is not supported"),
        (model(&plain, &[BPE, SPACE_IS_SUFFIX], &[]), "treat_whitespace_as_suffix is not supported"),
        (bpe(&with("x", UNUSED)), "a piece of type UNUSED is not supported"),
        (bpe(&with("x", USER_DEFINED)), "a USER_DEFINED piece together with add_dummy_prefix or"),
        (bpe(&with("x", 7)), "piece 12: type 7 is none of 1 to 6; copy the file again"),
        (bpe(&with("", NORMAL)), "piece 12 has 0 bytes, between 1 and 7999 are possible"),
        (bpe(&with(&"x".repeat(8000), NORMAL)), "piece 12 has 8000 bytes"),
        (bpe(&with("a\0", NORMAL)), "piece 12 holds a NUL"),
        (bpe(&with("\0", NORMAL)), "piece 12 holds a NUL"),
        (bpe(&with("ab", NORMAL)), "piece 12 repeats piece 7"),
        (bpe(&unscored), "piece 3 has no score"),
        (bpe(&with("<u>", UNKNOWN)), "exactly one piece has to be of type UNKNOWN"),
        (bpe(&words()), "exactly one piece has to be of type UNKNOWN"),
        (model(&plain, &[BPE, BYTE_FALLBACK], &[]), "byte_fallback is on and there is no piece <0x00>"),
    ] {
        let message = load(&file).err().unwrap_or_else(|| panic!("accepted; expected {expected}"));
        assert!(message.contains(&format!("any.model: {expected}")), "expected {expected}\n     got {message}");
    }
}

#[test]
fn a_damaged_file_is_refused_or_read_but_never_a_panic() {
    let bench = Bench::new();
    let path = bench.path("any.model");
    let pieces = [special(), words(), vec![piece("bb", 0.0, USER_DEFINED)]].concat();
    let whole = model(&pieces, &[BPE], &[(PREFIX, 0), (EXTRA, 0)]);
    for len in 0..whole.len() {
        bench.write("any.model", &whole[..len]);
        assert!(Tokenizer::load(&path).is_err(), "the first {len} of {} bytes", whole.len());
    }
    for position in 0..whole.len() {
        for flip in [0x01, 0x04, 0x80, 0xff] {
            let mut damaged = whole.clone();
            damaged[position] ^= flip;
            bench.write("any.model", &damaged);
            if let Ok(tokenizer) = Tokenizer::load(&path) {
                tokenizer.encode("ab abc é</s>").unwrap();
            }
        }
    }
}

/// The models are not ours to hand on: put `tokenizer_internlm.model` and `tokenizer_internlm2.model` into
/// `shared/data` beside the repository to run this. The ids come from `goldens/sentencepiece.py`.
#[test]
fn real_models_give_the_ids_of_the_library() {
    let goldens: BTreeMap<String, Vec<(String, Vec<u32>)>> =
        serde_json::from_str(include_str!("../goldens/sentencepiece.json")).unwrap();
    for (name, cases) in goldens {
        let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../shared/data").join(&name);
        if !file.exists() {
            println!("skipped: no {}", file.display());
            continue;
        }
        let tokenizer = Tokenizer::load(&file).unwrap();
        let folder = tempfile::tempdir().unwrap();
        tokenizer.save(folder.path()).unwrap();
        let saved = Tokenizer::load(folder.path()).unwrap();
        for (text, ids) in cases {
            assert_eq!(tokenizer.encode(&text).unwrap(), ids, "{name}: {text:?}");
            assert_eq!(saved.encode(&text).unwrap(), ids, "{name}, saved: {text:?}");
            assert_eq!(saved.decode(&ids).unwrap(), text.replace('▁', " "));
        }
    }
}
