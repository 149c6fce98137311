//! Text to ids and back: a thin wrapper over the `tokenizers` crate.
//!
//! A tokenizer is loaded from a Hugging Face `tokenizer.json` or a SentencePiece `.model` (`sentencepiece.rs`), or
//! trained here, and saved as a folder that `transformers` opens. Encoding adds nothing to a text (no begin, no end);
//! the caller says where one ends.

use std::fs;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};

use serde_json::{Map, Value};
use tokenizers::decoders::byte_level::ByteLevel;
use tokenizers::models::TrainerWrapper;
use tokenizers::models::bpe::{BPE, BpeTrainer};
use tokenizers::{AddedToken, Tokenizer as Inner};

use crate::config::{DataConfig, TokenizerConfig};
use crate::error::{DataError, Result};
use crate::hash::{hash, hash_words};
use crate::open::training_text;
use crate::sentencepiece;

/// Every byte, and the end of text.
pub(crate) const MIN_VOCAB: usize = 257;

const END_OF_TEXT: &str = "<|endoftext|>";

const CONFIG: &str = "tokenizer_config.json";

/// Ends of text that model families use, for a `tokenizer.json` that comes alone.
const KNOWN_EOS: [&str; 4] = ["</s>", END_OF_TEXT, "<|im_end|>", "<eos>"];

pub struct Tokenizer {
    inner: Inner,
    /// `tokenizer.json` as it was loaded or trained, to be saved unchanged.
    json: String,
    /// `tokenizer_config.json` likewise: a chat template in it survives.
    config: Map<String, Value>,
    vocab_size: usize,
    eos_id: u32,
}

impl Tokenizer {
    /// What `[tokenizer]` asks for: one that is loaded, one trained on the training text of `data`, or none.
    /// Training is deterministic in (data, seed), and as costly as the text is long: save the result.
    pub fn from_config(cfg: &TokenizerConfig, data: &DataConfig, seed: u64) -> Result<Option<Tokenizer>> {
        let mut problems = Vec::new();
        cfg.validate(&mut problems);
        data.validate(&mut problems);
        if !problems.is_empty() {
            return Err(DataError::Config(problems));
        }
        match (&cfg.path, cfg.vocab_size) {
            (Some(path), _) => Tokenizer::load(path).map(Some),
            (None, Some(vocab_size)) => Tokenizer::train(training_text(data, seed)?.into_iter(), vocab_size).map(Some),
            (None, None) => Ok(None),
        }
    }

    /// Train a byte-level BPE, split into words as GPT-2 does. A text with too few pairs that occur twice
    /// gives a smaller vocabulary than asked for: `vocab_size()` tells.
    pub fn train(
        documents: impl Iterator<Item = impl AsRef<str> + Send> + Send,
        vocab_size: usize,
    ) -> Result<Tokenizer> {
        if vocab_size < MIN_VOCAB {
            return Err(DataError::NoRoomForBytes { vocab_size });
        }
        let byte_level = ByteLevel::new(false, false, true);
        let mut inner = Inner::new(BPE::default());
        inner.with_pre_tokenizer(Some(byte_level)).with_decoder(Some(byte_level));
        let mut trainer = TrainerWrapper::from(
            BpeTrainer::builder()
                .vocab_size(vocab_size)
                .min_frequency(2)
                .show_progress(false)
                .special_tokens(vec![AddedToken::from(END_OF_TEXT, true)])
                .initial_alphabet(ByteLevel::alphabet().into_iter().collect())
                .build(),
        );
        inner.train(&mut trainer, documents).map_err(|error| DataError::Encode { problem: error.to_string() })?;
        let json = inner.to_string(true).map_err(|error| DataError::Encode { problem: error.to_string() })?;
        let eos_id = inner.token_to_id(END_OF_TEXT).expect("the trainer was given this token");
        let mut config = plain_config(END_OF_TEXT);
        config.insert("bos_token".into(), END_OF_TEXT.into());
        Ok(Tokenizer::new(inner, json, config, eos_id))
    }

    /// Load a `tokenizer.json` or a SentencePiece `.model`, or from a folder its `tokenizer.json` or else its
    /// `tokenizer.model`. The end of text is what the files beside it say.
    pub fn load(path: &Path) -> Result<Tokenizer> {
        let (json, model) = (path.join("tokenizer.json"), path.join("tokenizer.model"));
        let file = match path.is_dir() {
            true if model.exists() && !json.exists() => model,
            true => json,
            false => path.to_owned(),
        };
        if file.extension().is_some_and(|ending| ending == "model") {
            Tokenizer::load_sentencepiece(&file)
        } else {
            Tokenizer::load_json(&file)
        }
    }

    fn load_json(file: &Path) -> Result<Tokenizer> {
        let json = fs::read_to_string(file).map_err(DataError::io("read", file))?;
        let refuse = |problem: String| DataError::Tokenizer { path: file.into(), problem };
        let value = serde_json::from_str::<Value>(&json).map_err(|error| error.to_string());
        let inner = value.and_then(|value| charsmaps_are_whole(&value));
        let inner = inner.and_then(|()| guarded(|| json.parse::<Inner>()));
        let mut inner = inner.map_err(|problem| {
            refuse(format!("{problem}; a tokenizer.json of the Hugging Face tokenizers library is needed"))
        })?;
        // A saved truncation would cut documents short without a word, a padding would lengthen them.
        inner.with_truncation(None).map_err(|error| refuse(error.to_string()))?.with_padding(None);
        let config = read_json(&file.with_file_name(CONFIG))?;
        let eos_id = find_eos(&inner, config.as_ref(), file, &KNOWN_EOS)?;
        let config = config.unwrap_or_else(|| {
            plain_config(&inner.id_to_token(eos_id).expect("find_eos looked it up in this vocabulary"))
        });
        Ok(Tokenizer::new(inner, json, config, eos_id))
    }

    fn load_sentencepiece(file: &Path) -> Result<Tokenizer> {
        let model = fs::read(file).map_err(DataError::io("read", file))?;
        let refuse = |problem: String| DataError::Tokenizer { path: file.into(), problem };
        let mut config = read_json(&file.with_file_name(CONFIG))?.unwrap_or_default();
        let (inner, eos_piece) = sentencepiece::read(&model, &config).map_err(refuse)?;
        let json = inner.to_string(false).map_err(|error| refuse(error.to_string()))?;
        let eos_id = find_eos(&inner, Some(&config), file, &[&eos_piece])?;
        // It is saved as a tokenizer.json, which the class that reads the .model would not open.
        config.remove("auto_map");
        let eos = inner.id_to_token(eos_id).expect("find_eos looked it up in this vocabulary");
        config.extend(plain_config(&eos));
        Ok(Tokenizer::new(inner, json, config, eos_id))
    }

    /// Write `tokenizer.json` and `tokenizer_config.json`; `AutoTokenizer.from_pretrained(dir)` opens them.
    pub fn save(&self, dir: &Path) -> Result<()> {
        fs::create_dir_all(dir).map_err(DataError::io("create", dir))?;
        let config = serde_json::to_string_pretty(&self.config).expect("a JSON object is JSON");
        for (name, contents) in [("tokenizer.json", &self.json), (CONFIG, &config)] {
            let path = dir.join(name);
            fs::write(&path, contents).map_err(DataError::io("write", &path))?;
        }
        Ok(())
    }

    /// The ids of a text, without special tokens around it. One that is spelled out in the text becomes its id,
    /// as in `transformers`.
    pub fn encode(&self, text: &str) -> Result<Vec<u32>> {
        let encoding = guarded(|| self.inner.encode_fast(text, false));
        Ok(encoding.map_err(|problem| DataError::Encode { problem })?.get_ids().to_vec())
    }

    /// The text of `ids`, special tokens included. Bytes that are no UTF-8 become U+FFFD.
    pub fn decode(&self, ids: &[u32]) -> Result<String> {
        guarded(|| self.inner.decode(ids, false)).map_err(|problem| DataError::Decode { problem })
    }

    /// Decode ids one by one, as a model generates them.
    pub fn stream(&self) -> TextStream<'_> {
        TextStream { tokenizer: self, ids: Vec::new(), printed: 0 }
    }

    /// One more than the largest id.
    pub fn vocab_size(&self) -> usize {
        self.vocab_size
    }

    pub fn eos_id(&self) -> u32 {
        self.eos_id
    }

    /// A hash of all that decides the ids of a document.
    pub(crate) fn fingerprint(&self) -> u64 {
        hash_words(&[hash(self.json.as_bytes()), self.eos_id.into()])
    }

    fn new(inner: Inner, json: String, config: Map<String, Value>, eos_id: u32) -> Tokenizer {
        let vocab_size = inner.get_vocab(true).values().max().map_or(0, |id| *id as usize + 1);
        Tokenizer { inner, json, config, vocab_size, eos_id }
    }
}

/// Text from ids one at a time: only whole characters come out.
pub struct TextStream<'t> {
    tokenizer: &'t Tokenizer,
    /// The ids of the last piece that came out, then those not yet printed. The former are context: a decoder
    /// may treat the first token of what it is given differently (a leading space is dropped).
    ids: Vec<u32>,
    printed: usize,
}

impl TextStream<'_> {
    /// The text that `id` completes; empty while a character is still in parts.
    pub fn push(&mut self, id: u32) -> Result<String> {
        self.ids.push(id);
        let text = self.pending()?;
        if text.is_empty() || text.ends_with(char::REPLACEMENT_CHARACTER) {
            return Ok(String::new());
        }
        self.ids.drain(..self.printed);
        self.printed = self.ids.len();
        Ok(text)
    }

    /// What is left when no more ids come: bytes that never became a character, as U+FFFD.
    pub fn finish(self) -> Result<String> {
        self.pending()
    }

    fn pending(&self) -> Result<String> {
        let context = self.tokenizer.decode(&self.ids[..self.printed])?;
        let all = self.tokenizer.decode(&self.ids)?;
        Ok(all.get(context.len()..).unwrap_or_default().to_owned())
    }
}

/// What the library answers. Where a tokenizer.json is damaged, it does not always: it indexes and unwraps, when the file is
/// read and when it is used.
fn guarded<T>(work: impl FnOnce() -> tokenizers::Result<T>) -> std::result::Result<T, String> {
    match catch_unwind(AssertUnwindSafe(work)) {
        Ok(answer) => answer.map_err(|error| error.to_string()),
        Err(_) => Err("the tokenizers library gave up on it, so it is damaged".into()),
    }
}

/// A normalizer's charsmap, in base64, begins with the bytes of its trie, for which the library makes room before it looks
/// whether they are there.
fn charsmaps_are_whole(value: &Value) -> std::result::Result<(), String> {
    const DIGITS: &[u8] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let whole = |map: &str| {
        let digit = |c: &u8| DIGITS.iter().position(|d| d == c).unwrap_or(0);
        // Four bytes, the lowest first, are the first 32 of 36 bits.
        let bits = map.as_bytes().iter().take(6).fold(0, |bits, c| bits << 6 | digit(c));
        let trie = u32::swap_bytes((bits >> 4) as u32) as usize;
        map.len() < 6 || trie <= map.len() / 4 * 3
    };
    match value {
        Value::Object(map) => map.iter().try_for_each(|(key, value)| match value {
            Value::String(text) if key == "precompiled_charsmap" && !whole(text) => Err(format!("{key} is cut short")),
            value => charsmaps_are_whole(value),
        }),
        Value::Array(values) => values.iter().try_for_each(charsmaps_are_whole),
        _ => Ok(()),
    }
}

/// What `transformers` has to know where no `tokenizer_config.json` came along.
fn plain_config(eos_token: &str) -> Map<String, Value> {
    Map::from_iter([
        ("tokenizer_class".to_owned(), "PreTrainedTokenizerFast".into()),
        ("eos_token".to_owned(), eos_token.into()),
        ("clean_up_tokenization_spaces".to_owned(), false.into()),
    ])
}

/// The end of text of a foreign tokenizer: its own config, the model's, or a name that is `known` for it.
fn find_eos(inner: &Inner, config: Option<&Map<String, Value>>, file: &Path, known: &[&str]) -> Result<u32> {
    let missing = |what: String, path: PathBuf| DataError::Tokenizer {
        path,
        problem: format!(
            "{what} is not in the vocabulary of {}; correct one of the two",
            file.file_name().unwrap_or_default().display()
        ),
    };
    let token = config.and_then(|config| config.get("eos_token")).map(|token| token.get("content").unwrap_or(token));
    if let Some(token) = token.and_then(Value::as_str) {
        return inner
            .token_to_id(token)
            .ok_or_else(|| missing(format!("eos_token {token}"), file.with_file_name(CONFIG)));
    }
    for name in ["generation_config.json", "config.json"] {
        let model = read_json(&file.with_file_name(name))?.unwrap_or_default();
        // Chat models list several; the first is the one that ends a turn.
        let id = model.get("eos_token_id").map(|id| id.get(0).unwrap_or(id)).and_then(Value::as_u64);
        if let Some(id) = id {
            let known = u32::try_from(id).ok().filter(|id| inner.id_to_token(*id).is_some());
            return known.ok_or_else(|| missing(format!("eos_token_id {id}"), file.with_file_name(name)));
        }
    }
    let known = known.iter().find_map(|token| inner.token_to_id(token));
    known.ok_or_else(|| DataError::NoEos { path: file.into() })
}

/// The object in a file that may be absent, but not broken.
fn read_json(path: &Path) -> Result<Option<Map<String, Value>>> {
    if !path.exists() {
        return Ok(None);
    }
    let bytes = fs::read(path).map_err(DataError::io("read", path))?;
    let object = serde_json::from_slice(&bytes).map_err(|error| DataError::Tokenizer {
        path: path.into(),
        problem: format!("{error}; correct the file or remove it"),
    })?;
    Ok(Some(object))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_charsmap_holds_its_trie() {
        let of = |map: &str| charsmaps_are_whole(&serde_json::json!({ "a": [{ "precompiled_charsmap": map }] }));
        // 4 and 8 bytes of a trie in the 8 that there are, and what begins with 0xc71cc71c.
        assert!(of("BAAAAAAAAAA=").is_ok());
        assert!(of("CAAAAAAAAAA=").is_ok());
        assert!(of("xxxxxxxxxxxx").unwrap_err().contains("precompiled_charsmap is cut short"));
    }
}
