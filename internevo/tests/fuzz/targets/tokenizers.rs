//! Tokenizers of every kind, loaded and used.
use super::super::numbers::Numbers;
use super::super::{bytes, text};
use super::{Reader, of_json, read, write};
use data::Tokenizer;
use serde_json::{Value, json};
use std::path::Path;

const TEXT: &str = "the cat, the hat: naïve 猫 and\n\tthe  end</s> of it 123";

/// Loads a folder, and takes a text through it and back.
fn works(folder: &Path) -> bool {
    let Ok(tokenizer) = Tokenizer::load(folder) else { return false };
    let Ok(ids) = tokenizer.encode(TEXT) else { return false };
    tokenizer.decode(&ids).is_ok() && tokenizer.decode(&[0, 1, 2, tokenizer.eos_id(), u32::MAX]).is_ok()
}

/// What the program trains, and each kind of model, of normalizer, of pre-tokenizer and of decoder that others have.
pub fn json(folder: &Path) -> Reader {
    let file = folder.join("tokenizer.json");
    Tokenizer::train([TEXT].into_iter(), 300).expect("it learns").save(folder).expect("the desk can be written");
    let trained: Value = serde_json::from_slice(&read(&file)).expect("a good tokenizer");
    std::fs::remove_file(folder.join("tokenizer_config.json")).expect("it was written");
    let folder = folder.to_owned();
    of_json(file, [vec![trained], kinds()].concat(), move |_| works(&folder))
}

fn kinds() -> Vec<Value> {
    let special = |id: u32, content: &str| {
        json!({ "id": id, "content": content, "single_word": false, "lstrip": false, "rstrip": false,
            "normalized": false, "special": true })
    };
    let whole = |model: Value, normalizer: Value, pre: Value, post: Value, decoder: Value| {
        json!({ "version": "1.0", "truncation": null, "padding": null, "added_tokens": [special(0, "</s>")],
            "normalizer": normalizer, "pre_tokenizer": pre, "post_processor": post, "decoder": decoder, "model": model })
    };
    let sequence = |key: &str, steps: Value| json!({ "type": "Sequence", key: steps });
    let vocab = json!({ "</s>": 0, "[UNK]": 1, "the": 2, "c": 3, "##at": 4, "t": 5, "h": 6, "e": 7, "th": 8 });
    // A trie of 256 empty nodes, in base 64: it replaces nothing.
    let charsmap = "AAQA".to_string() + &"AAAA".repeat(342);
    vec![
        whole(
            json!({ "type": "WordPiece", "unk_token": "[UNK]", "continuing_subword_prefix": "##",
                "max_input_chars_per_word": 100, "vocab": vocab }),
            json!({ "type": "BertNormalizer", "clean_text": true, "handle_chinese_chars": true, "strip_accents": null,
                "lowercase": true }),
            json!({ "type": "BertPreTokenizer" }),
            json!({ "type": "BertProcessing", "sep": ["</s>", 0], "cls": ["</s>", 0] }),
            json!({ "type": "WordPiece", "prefix": "##", "cleanup": true }),
        ),
        whole(
            json!({ "type": "Unigram", "unk_id": 1, "byte_fallback": false,
                "vocab": [["</s>", 0.0], ["<unk>", 0.0], ["the", -1.5], ["t", -3.0], ["at", -2.0], ["▁", -1.0]] }),
            sequence(
                "normalizers",
                json!([{ "type": "NFKC" }, { "type": "Strip", "strip_left": true, "strip_right": true },
                { "type": "Replace", "pattern": { "Regex": " {2,}" }, "content": " " },
                { "type": "Prepend", "prepend": "▁" }, { "type": "Lowercase" }, { "type": "StripAccents" }]),
            ),
            sequence(
                "pretokenizers",
                json!([{ "type": "WhitespaceSplit" },
                { "type": "Metaspace", "replacement": "▁", "prepend_scheme": "always", "split": true }]),
            ),
            json!({ "type": "TemplateProcessing", "single": [{ "Sequence": { "id": "A", "type_id": 0 } }],
                "pair": [{ "Sequence": { "id": "A", "type_id": 0 } }, { "Sequence": { "id": "B", "type_id": 1 } }],
                "special_tokens": {} }),
            json!({ "type": "Metaspace", "replacement": "▁", "prepend_scheme": "always", "split": true }),
        ),
        whole(
            json!({ "type": "WordLevel", "vocab": vocab, "unk_token": "[UNK]" }),
            json!({ "type": "Precompiled", "precompiled_charsmap": charsmap }),
            sequence(
                "pretokenizers",
                json!([{ "type": "Digits", "individual_digits": true },
                { "type": "Split", "pattern": { "Regex": "\\p{L}+|\\s+(?!\\S)" }, "behavior": "Isolated", "invert": false },
                { "type": "Punctuation", "behavior": "Isolated" }]),
            ),
            Value::Null,
            sequence(
                "decoders",
                json!([{ "type": "Replace", "pattern": { "String": "▁" }, "content": " " },
                { "type": "ByteFallback" }, { "type": "Fuse" }, { "type": "Strip", "content": " ", "start": 1, "stop": 0 },
                { "type": "CTC", "pad_token": "</s>", "word_delimiter_token": "|", "cleanup": true }]),
            ),
        ),
        whole(
            json!({ "type": "BPE", "dropout": null, "unk_token": "[UNK]", "continuing_subword_prefix": "",
                "end_of_word_suffix": "", "fuse_unk": true, "byte_fallback": true, "ignore_merges": false,
                "vocab": vocab, "merges": [["t", "h"], ["th", "e"]] }),
            Value::Null,
            json!({ "type": "ByteLevel", "add_prefix_space": true, "trim_offsets": true, "use_regex": true }),
            json!({ "type": "ByteLevel", "add_prefix_space": true, "trim_offsets": true, "use_regex": true }),
            json!({ "type": "BPEDecoder", "suffix": "</w>" }),
        ),
    ]
}

/// The files beside a tokenizer.json that say where a text ends.
pub fn config(folder: &Path) -> Reader {
    Tokenizer::train([TEXT].into_iter(), 300).expect("it learns").save(folder).expect("the desk can be written");
    let mut good: Vec<Value> =
        vec![serde_json::from_slice(&read(&folder.join("tokenizer_config.json"))).expect("good")];
    good.push(
        json!({ "eos_token": { "content": "<|endoftext|>" }, "added_tokens_decoder": {}, "eos_token_id": [0, 5] }),
    );
    good.push(json!({ "eos_token_id": 0 }));
    let folder = folder.to_owned();
    let mut other = true;
    let others = ["tokenizer_config.json", "generation_config.json", "config.json"].map(|name| folder.join(name));
    let mut readers = others.map(|file| {
        let folder = folder.clone();
        let reader = of_json(file.clone(), good.clone(), move |_| works(&folder));
        std::fs::remove_file(file).expect("it was written");
        reader
    });
    Box::new(move |numbers| {
        // The second is looked at where the first says nothing.
        other = !other;
        readers[if other { 0 } else { numbers.below(3) }](numbers)
    })
}

/// Fields of a Protocol Buffers message, each a message or text.
type Fields = Vec<(u8, Vec<u8>)>;

fn varint(mut value: usize) -> Vec<u8> {
    let mut out = vec![];
    while value > 127 {
        out.push(value as u8 | 128);
        value >>= 7;
    }
    out.push(value as u8);
    out
}

fn message(fields: &Fields) -> Vec<u8> {
    fields.iter().flat_map(|(field, of)| [vec![field << 3 | 2], varint(of.len()), of.clone()].concat()).collect()
}

/// A SentencePiece model with bytes to fall back on, and one without.
pub fn sentencepiece(folder: &Path) -> Reader {
    let piece = |text: &str, score: f32, kind: u8| {
        let text = message(&vec![(1, text.into())]);
        (1, [text, vec![2 << 3 | 5], score.to_le_bytes().into(), vec![3 << 3, kind]].concat())
    };
    let special = [piece("<unk>", 0.0, 2), piece("<s>", 0.0, 3), piece("</s>", 0.0, 3)];
    let words = ["▁", "t", "h", "e", "th", "the", "▁the", "at", "a"];
    let words: Fields = words.iter().zip(1..).map(|(word, i)| piece(word, -(i as f32), 1)).collect();
    let bytes: Fields = (0..256).map(|byte| piece(&format!("<0x{byte:02X}>"), 0.0, 6)).collect();
    let (bpe, fallback, plain) = (vec![3 << 3, 2], vec![35u8 << 3 | 128, 2, 1], vec![4 << 3, 0]);
    let good: Vec<Fields> = vec![
        [&special[..], &bytes, &words, &[(2, [bpe.clone(), fallback].concat()), (3, plain.clone())]].concat(),
        [&special[..], &words, &[(2, bpe), (3, plain)]].concat(),
    ];
    let folder = folder.to_owned();
    let put = move |bytes: &[u8]| {
        write(&folder.join("tokenizer.model"), bytes);
        works(&folder)
    };
    good.iter().for_each(|fields| assert!(put(&message(fields)), "a good model is refused"));
    Box::new(move |numbers| {
        let fields = numbers.pick(&good);
        let damaged = match numbers.below(3) {
            0 => bytes::damaged(numbers, &message(fields), &[message(&good[1])]),
            _ => message(&changed(numbers, fields.clone())),
        };
        put(&damaged)
    })
}

/// Some fields gone, moved, repeated or with something else in them; the lengths stay right.
fn changed(numbers: &mut Numbers, mut fields: Fields) -> Fields {
    for _ in 0..numbers.count(8) {
        let (at, to) = (numbers.below(fields.len()), numbers.below(fields.len()));
        match numbers.below(6) {
            0 if fields.len() > 1 => drop(fields.remove(at)),
            1 => fields.swap(at, to),
            2 => {
                let again = vec![fields[at].clone(); numbers.count(1000)];
                fields.splice(to..to, again);
            }
            3 => fields[at].0 = numbers.below(16) as u8,
            4 => fields[at].1.extend(message(&vec![(1, text::hostile_name(numbers).into())])),
            _ => {
                let other = fields[to].1.clone();
                fields[at].1 = bytes::damaged(numbers, &fields[at].1, &[other]);
            }
        }
    }
    fields
}
