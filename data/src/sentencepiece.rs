//! A SentencePiece `.model` of the BPE kind, turned into the pipeline a `tokenizer.json` would hold.
//!
//! The ids are those of the SentencePiece library, but for one deliberate difference, which `transformers` makes
//! too: a control piece that is spelled out in a text (`</s>`) becomes its id. What the pipeline cannot express is
//! refused, but for two rare cases that [`Model::merges`] names. The file format is `sentencepiece_model.proto` of
//! that project.

use std::collections::{BTreeMap, HashMap, HashSet};

use serde::Deserialize;
use serde_json::{Map, Value as Json};
use tokenizers::decoders::byte_fallback::ByteFallback;
use tokenizers::decoders::fuse::Fuse;
use tokenizers::decoders::sequence::Sequence as Decoders;
use tokenizers::decoders::strip::Strip;
use tokenizers::models::bpe::{BPE, Vocab};
use tokenizers::normalizers::replace::ReplacePattern;
use tokenizers::normalizers::{Prepend, Replace, Sequence as Normalizers};
use tokenizers::{AddedToken, Tokenizer as Inner};

use crate::protobuf::{Value, fields};

type Result<T> = std::result::Result<T, String>;

/// How a piece spells a space: U+2581, lower one eighth block.
const SPACE: &str = "\u{2581}";

/// `TrainerSpec.ModelType.BPE`.
const BPE_TYPE: u64 = 2;

/// The longest piece that SentencePiece accepts.
const MAX_PIECE_BYTES: usize = 8000;

/// What `remove_extra_whitespaces` takes away: spaces before another one, and those at both ends.
const EXTRA_SPACES: &str = r"\A +|[ \x{2581}]+\z| +(?= )";

/// The pipeline, and the piece that ends a text. `config` is the `tokenizer_config.json` that came along.
pub(crate) fn read(file: &[u8], config: &Map<String, Json>) -> Result<(Inner, String)> {
    let mut model = Model::parse(file)?;
    model.rename(config)?;
    model.check_supported()?;
    model.check_pieces()?;
    model.spell_nul_as_byte();
    let inner = model.pipeline().map_err(|error| error.to_string())?;
    Ok((inner, model.trainer.eos_piece))
}

/// The parts of a `ModelProto` that decide ids.
struct Model {
    pieces: Vec<Piece>,
    trainer: Trainer,
    normalizer: Normalizer,
    /// What `tokenizer_config.json` says of single ids.
    added: BTreeMap<usize, AddedToken>,
}

struct Piece {
    text: String,
    score: f32,
    kind: Kind,
}

#[derive(Clone, Copy, Eq, PartialEq)]
enum Kind {
    Normal,
    Unknown,
    Control,
    UserDefined,
    Unused,
    Byte,
}

struct Trainer {
    model_type: u64,
    treat_whitespace_as_suffix: bool,
    byte_fallback: bool,
    eos_piece: String,
}

struct Normalizer {
    name: String,
    has_charsmap: bool,
    add_dummy_prefix: bool,
    remove_extra_whitespaces: bool,
    escape_whitespaces: bool,
}

impl Model {
    fn parse(message: &[u8]) -> Result<Model> {
        let (mut pieces, mut trainer, mut normalizer) = (Vec::new(), None, None);
        for field in fields(message) {
            match field? {
                (1, Value::Bytes(piece)) => {
                    let at = |problem| format!("piece {}: {problem}", pieces.len());
                    let piece = Piece::parse(piece).map_err(at)?;
                    pieces.push(piece);
                }
                (2, Value::Bytes(spec)) => trainer = Some(Trainer::parse(spec)?),
                (3, Value::Bytes(spec)) => normalizer = Some(Normalizer::parse(spec)?),
                _ => {}
            }
        }
        // A file that is cut between two fields ends without them.
        match (trainer, normalizer) {
            (Some(trainer), Some(normalizer)) if !pieces.is_empty() => {
                Ok(Model { pieces, trainer, normalizer, added: BTreeMap::new() })
            }
            _ => Err("not a whole SentencePiece model; copy the file again".into()),
        }
    }

    /// Take over `added_tokens_decoder`: a chat model gives spare pieces the names of the marks of its turns.
    fn rename(&mut self, config: &Map<String, Json>) -> Result<()> {
        let Some(added) = config.get("added_tokens_decoder") else { return Ok(()) };
        let refuse = |problem: String| format!("added_tokens_decoder in tokenizer_config.json: {problem}");
        self.added = BTreeMap::deserialize(added).map_err(|error| refuse(error.to_string()))?;
        for (&id, token) in &self.added {
            let count = self.pieces.len();
            let named = Piece { text: token.content.clone(), score: 0.0, kind: Kind::Control };
            match self.pieces.get_mut(id) {
                Some(piece) if piece.text == named.text => {}
                Some(piece) => *piece = named,
                None if id == count => self.pieces.push(named),
                None => return Err(refuse(format!("id {id} is beyond the {count} pieces; correct one of the two"))),
            }
        }
        Ok(())
    }

    /// Refuse what would silently get other ids here than from SentencePiece.
    fn check_supported(&self) -> Result<()> {
        let Model { trainer, normalizer, .. } = self;
        let has = |kind| self.pieces.iter().any(|piece| piece.kind == kind);
        let type_name = ["?", "unigram", "BPE", "word", "char"].get(trainer.model_type as usize).unwrap_or(&"?");
        let changes_ends = normalizer.add_dummy_prefix || normalizer.remove_extra_whitespaces;
        for (found, what) in [
            (trainer.model_type != BPE_TYPE, format!("a {type_name} model")),
            (normalizer.has_charsmap, format!("the normalization {}", normalizer.name)),
            (!normalizer.escape_whitespaces, "escape_whitespaces = false".into()),
            (trainer.treat_whitespace_as_suffix, "treat_whitespace_as_suffix".into()),
            (has(Kind::Unused), "a piece of type UNUSED".into()),
            (
                has(Kind::UserDefined) && changes_ends,
                "a USER_DEFINED piece together with add_dummy_prefix or remove_extra_whitespaces".into(),
            ),
        ] {
            if found {
                return Err(format!("{what} is not supported; let transformers convert it to a tokenizer.json"));
            }
        }
        Ok(())
    }

    /// Refuse a vocabulary that SentencePiece would not load either.
    fn check_pieces(&self) -> Result<()> {
        let byte_fallback = self.trainer.byte_fallback;
        let mut ids = HashMap::new();
        for (id, Piece { text, score, .. }) in self.pieces.iter().enumerate() {
            let refuse = |what: String| Err(format!("piece {id} {what}; copy the file again"));
            if text.is_empty() || text.len() >= MAX_PIECE_BYTES {
                return refuse(format!("has {} bytes, between 1 and {} are possible", text.len(), MAX_PIECE_BYTES - 1));
            }
            if score.is_nan() {
                return refuse("has no score".into());
            }
            if text.contains('\0') && !(text == "\0" && byte_fallback) {
                return refuse("holds a NUL".into());
            }
            if let Some(first) = ids.insert(text.as_str(), id) {
                return refuse(format!("repeats piece {first}"));
            }
        }
        if self.pieces.iter().filter(|piece| piece.kind == Kind::Unknown).count() != 1 {
            return Err("exactly one piece has to be of type UNKNOWN; copy the file again".into());
        }
        let is_byte = |text: &str| ids.get(text).is_some_and(|id| self.pieces[*id].kind == Kind::Byte);
        match (0..=255).map(byte_piece).find(|text| byte_fallback && !is_byte(text)) {
            Some(text) => Err(format!("byte_fallback is on and there is no piece {text}; copy the file again")),
            None => Ok(()),
        }
    }

    /// SentencePiece never uses a piece that is NUL, it falls back on the byte. Here a character that is in the
    /// vocabulary comes before its bytes, so that the two pieces change places: either id still decodes to NUL.
    fn spell_nul_as_byte(&mut self) {
        let find = |text: &str| self.pieces.iter().position(|piece| piece.text == text);
        if let (Some(nul), Some(byte)) = (find("\0"), find(&byte_piece(0))) {
            self.pieces.swap(nul, byte);
        }
    }

    fn pipeline(&self) -> tokenizers::Result<Inner> {
        let vocab: Vocab = (0..).zip(&self.pieces).map(|(id, piece)| (piece.text.clone(), id)).collect();
        let unknown = self.pieces.iter().find(|piece| piece.kind == Kind::Unknown).expect("check_pieces counted it");
        let bpe = BPE::builder()
            .vocab_and_merges(vocab, self.merges())
            .unk_token(unknown.text.clone())
            .fuse_unk(true)
            .byte_fallback(self.trainer.byte_fallback)
            .build()?;

        let Normalizer { add_dummy_prefix, remove_extra_whitespaces, .. } = self.normalizer;
        let mut normalizers = Vec::new();
        if remove_extra_whitespaces {
            normalizers.push(Replace::new(ReplacePattern::Regex(EXTRA_SPACES.into()), "")?.into());
        }
        if add_dummy_prefix {
            normalizers.push(Prepend::new(SPACE.into()).into());
        }
        normalizers.push(Replace::new(" ", SPACE)?.into());

        let mut decoders = vec![Replace::new(SPACE, " ")?.into(), ByteFallback::new().into(), Fuse::new().into()];
        if add_dummy_prefix || remove_extra_whitespaces {
            decoders.push(Strip::new(' ', 1, 0).into());
        }

        let mut inner = Inner::new(bpe);
        inner.with_normalizer(Some(Normalizers::new(normalizers)))?.with_decoder(Some(Decoders::new(decoders)));
        let added = self.pieces.iter().enumerate().filter_map(|(id, Piece { text, kind, .. })| {
            let by_kind = match kind {
                Kind::Unknown | Kind::Control => Some(AddedToken::from(text, true)),
                Kind::UserDefined => Some(AddedToken::from(text, false)),
                Kind::Normal | Kind::Unused | Kind::Byte => None,
            };
            self.added.get(&id).cloned().or(by_kind)
        });
        inner.add_tokens(added)?;
        Ok(inner)
    }

    /// SentencePiece joins the neighbours whose text is the piece of the highest score, whatever they are; a list
    /// of merges names the neighbours. So every split of a piece into two is a merge, as early as its score is high.
    ///
    /// On equal scores SentencePiece joins what stands leftmost, and a list has to choose: the lower id goes first.
    /// That matters only where two such pieces overlap in a text, so hardly ever: equal scores come from
    /// vocabularies of different scripts put together. And SentencePiece could join a character that is no piece
    /// itself; its trainer makes a piece of every character that pieces consist of.
    fn merges(&self) -> Vec<(String, String)> {
        let mut pieces: Vec<&Piece> = self.pieces.iter().filter(|piece| piece.kind == Kind::Normal).collect();
        pieces.sort_by(|a, b| b.score.total_cmp(&a.score));
        let known: HashSet<&str> = pieces.iter().map(|piece| piece.text.as_str()).collect();
        let mut merges = Vec::new();
        for piece in &pieces {
            for (middle, _) in piece.text.char_indices() {
                let (left, right) = piece.text.split_at(middle);
                if known.contains(left) && known.contains(right) {
                    merges.push((left.to_owned(), right.to_owned()));
                }
            }
        }
        merges
    }
}

impl Piece {
    fn parse(message: &[u8]) -> Result<Piece> {
        let mut piece = Piece { text: String::new(), score: 0.0, kind: Kind::Normal };
        for field in fields(message) {
            match field? {
                (1, Value::Bytes(text)) => piece.text = string(text)?,
                (2, Value::Fixed32(score)) => piece.score = f32::from_le_bytes(score),
                (3, Value::Varint(kind)) => piece.kind = Kind::parse(kind)?,
                _ => {}
            }
        }
        Ok(piece)
    }
}

impl Kind {
    fn parse(number: u64) -> Result<Kind> {
        Ok(match number {
            1 => Kind::Normal,
            2 => Kind::Unknown,
            3 => Kind::Control,
            4 => Kind::UserDefined,
            5 => Kind::Unused,
            6 => Kind::Byte,
            _ => return Err(format!("type {number} is none of 1 to 6; copy the file again")),
        })
    }
}

impl Trainer {
    fn parse(message: &[u8]) -> Result<Trainer> {
        let mut spec = Trainer {
            model_type: 1,
            treat_whitespace_as_suffix: false,
            byte_fallback: false,
            eos_piece: "</s>".into(),
        };
        for field in fields(message) {
            match field? {
                (3, Value::Varint(number)) => spec.model_type = number,
                (24, Value::Varint(flag)) => spec.treat_whitespace_as_suffix = flag != 0,
                (35, Value::Varint(flag)) => spec.byte_fallback = flag != 0,
                (47, Value::Bytes(text)) => spec.eos_piece = string(text)?,
                _ => {}
            }
        }
        Ok(spec)
    }
}

impl Normalizer {
    fn parse(message: &[u8]) -> Result<Normalizer> {
        let mut spec = Normalizer {
            name: String::new(),
            has_charsmap: false,
            add_dummy_prefix: true,
            remove_extra_whitespaces: true,
            escape_whitespaces: true,
        };
        for field in fields(message) {
            match field? {
                (1, Value::Bytes(text)) => spec.name = string(text)?,
                (2, Value::Bytes(charsmap)) => spec.has_charsmap = !charsmap.is_empty(),
                (3, Value::Varint(flag)) => spec.add_dummy_prefix = flag != 0,
                (4, Value::Varint(flag)) => spec.remove_extra_whitespaces = flag != 0,
                (5, Value::Varint(flag)) => spec.escape_whitespaces = flag != 0,
                _ => {}
            }
        }
        Ok(spec)
    }
}

/// The piece that stands for a byte.
fn byte_piece(byte: u8) -> String {
    format!("<0x{byte:02X}>")
}

fn string(bytes: &[u8]) -> Result<String> {
    String::from_utf8(bytes.into()).map_err(|_| "text that is not UTF-8; copy the file again".into())
}
