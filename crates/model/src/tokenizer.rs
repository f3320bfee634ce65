//! Text to token ids and back, from a small blob that any host of a model can give.
//!
//! [`TokenizerSpec`] is what a GGUF file says of its tokenizer, as bytes with a digest.
//! [`Tokenizer`] is made of it, on a machine that needs no weights. A kind of tokenizer that is
//! not certainly the one meant is refused by name: a wrong split gives answers that look right.

use tokenizers::models::bpe::{BPE, Vocab};
use tokenizers::pre_tokenizers::PreTokenizerWrapper;
use tokenizers::pre_tokenizers::byte_level::ByteLevel;
use tokenizers::pre_tokenizers::digits::Digits;
use tokenizers::pre_tokenizers::sequence::Sequence;
use tokenizers::pre_tokenizers::split::{Split as ByPattern, SplitPattern};
use tokenizers::tokenizer::SplitDelimiterBehavior;

mod detokenizer;
mod spec;
mod special;
mod spm;

pub use detokenizer::Detokenizer;
pub use spec::{MAX_TOKENIZER, TokenKind, TokenizerSpec};
use special::{Piece, Specials};
use spm::Spm;

/// Why there is no tokenizer.
#[derive(Debug, thiserror::Error)]
pub enum TokenizerError {
    /// The file lacks a key that every tokenizer has.
    #[error("the file's metadata has no usable `{0}`")]
    Key(&'static str),
    /// A kind of tokenizer that is not built in.
    #[error(
        "tokenizers of the model `{0}` are not supported, only `gpt2` (byte-level BPE) and `llama` (SentencePiece)"
    )]
    Model(String),
    /// A way of splitting that is not built in.
    #[error("the pre-tokenizer `{pre}` is not supported, only {}", PRE.join(", "))]
    Pre {
        /// Its name in the file.
        pre: String,
    },
    /// The parts contradict each other.
    #[error("the tokenizer's {0} makes no sense")]
    Nonsense(&'static str),
    /// The bytes are of another kind or version.
    #[error("not a tokenizer of version 1")]
    Domain,
    /// The bytes are no tokenizer.
    #[error("not a tokenizer")]
    Codec(#[from] taimatsu_protocol::codec::CodecError),
    /// More tokens or merges than any tokenizer has.
    #[error("the tokenizer has too many tokens or merges")]
    TooMany(#[from] taimatsu_protocol::codec::OverBound),
    /// The merges do not fit the tokens.
    #[error("the tokenizer cannot be built: {0}")]
    Build(String),
    /// A text that the tokenizer stumbles over.
    #[error("the text cannot be tokenized: {0}")]
    Encode(String),
}

/// Text to ids and back. See the module's page.
pub struct Tokenizer {
    split: Split,
    spec: TokenizerSpec,
    /// What each token prints as; nothing for control tokens.
    bytes: Vec<Vec<u8>>,
    special: Specials,
    end: Vec<u32>,
}

/// How a text without special tokens becomes ids.
enum Split {
    Bpe(Box<tokenizers::Tokenizer>),
    Spm {
        spm: Box<Spm>,
        /// Whether a space is put before it.
        prefix: bool,
    },
}

impl std::fmt::Debug for Tokenizer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Tokenizer({} tokens)", self.bytes.len())
    }
}

impl Tokenizer {
    /// Builds the tokenizer that `spec` describes.
    ///
    /// # Errors
    /// A kind that is not supported, by its name, or parts that do not fit together.
    pub fn new(spec: TokenizerSpec) -> Result<Self, TokenizerError> {
        let all = 0..spec.tokens.len();
        let (split, bytes) = match spec.model.as_str() {
            "gpt2" => {
                let alphabet = detokenizer::ByteAlphabet::new();
                let printed = all.map(|id| match spec.kind(id) {
                    TokenKind::Normal => alphabet.decode(&spec.tokens[id]),
                    TokenKind::UserDefined => spec.tokens[id].clone().into_bytes(),
                    _ => Vec::new(),
                });
                (Split::Bpe(Box::new(bpe(&spec)?)), printed.collect())
            }
            SENTENCE_PIECE => {
                let prefix = spec.add_space_prefix.unwrap_or(true);
                let printed = all.map(|id| Spm::printed(&spec, id)).collect();
                (Split::Spm { spm: Box::new(Spm::new(&spec)?), prefix }, printed)
            }
            _ => return Err(TokenizerError::Model(spec.model)),
        };
        let (special, end) = (Specials::new(&spec)?, end_ids(&spec));
        Ok(Self { split, spec, bytes, special, end })
    }

    /// The ids of a text, without BOS. With `parse_special`, the names of control tokens in the
    /// text (`<|im_start|>`) become those tokens; without, they are letters like any other.
    ///
    /// # Errors
    /// The split's regular expression gives up on the text.
    pub fn encode(&self, text: &str, parse_special: bool) -> Result<Vec<u32>, TokenizerError> {
        let mut ids = Vec::new();
        let mut behind_token = true;
        for piece in self.special.cut(text, parse_special) {
            match (piece, &self.split) {
                (Piece::Token(id), _) => ids.push(id),
                (Piece::Text(text), Split::Bpe(bpe)) => {
                    let encoded = bpe
                        .encode_fast(text, false)
                        .map_err(|error| TokenizerError::Encode(error.to_string()))?;
                    ids.extend_from_slice(encoded.get_ids());
                }
                (Piece::Text(text), Split::Spm { spm, prefix }) => {
                    spm.encode(text, *prefix && behind_token, &mut ids);
                }
            }
            behind_token = matches!(piece, Piece::Token(_));
        }
        Ok(ids)
    }

    /// The token that begins a text, if there is one.
    #[must_use]
    pub const fn bos(&self) -> Option<u32> {
        self.spec.bos
    }

    /// The token that ends a text, if there is one.
    #[must_use]
    pub const fn eos(&self) -> Option<u32> {
        self.spec.eos
    }

    /// Whether the model wants [`Self::bos`] before a raw text.
    #[must_use]
    pub fn adds_bos(&self) -> bool {
        // Where a file does not say: as llama.cpp has it for the kind.
        let usual = self.spec.model == SENTENCE_PIECE;
        self.spec.add_bos.unwrap_or(usual) && self.spec.bos.is_some()
    }

    /// The ids of a raw text with [`Self::bos`] before them, where the model wants it and the text
    /// did not name it.
    #[must_use]
    pub fn with_bos(&self, mut ids: Vec<u32>) -> Vec<u32> {
        let bos = self.spec.bos.filter(|_| self.adds_bos());
        if let Some(bos) = bos.filter(|bos| ids.first() != Some(bos)) {
            ids.insert(0, bos);
        }
        ids
    }

    /// The tokens that end an answer, in rising order.
    #[must_use]
    pub fn end_ids(&self) -> &[u32] {
        &self.end
    }

    /// What a token prints as: raw bytes, not always whole characters; nothing for control tokens
    /// and for ids beyond the vocabulary.
    #[must_use]
    pub fn token_bytes(&self, id: u32) -> &[u8] {
        self.bytes.get(id as usize).map_or(&[], Vec::as_slice)
    }

    /// A token's name in the file, as templates want it for BOS and EOS.
    #[must_use]
    pub fn token_name(&self, id: u32) -> Option<&str> {
        self.spec.tokens.get(id as usize).map(String::as_str)
    }

    /// The number of tokens.
    #[must_use]
    pub fn vocab(&self) -> u32 {
        self.bytes.len() as u32
    }

    /// The text of these ids, broken characters replaced; without the space that
    /// [`Self::encode`] put before it.
    #[must_use]
    pub fn decode(&self, ids: &[u32]) -> String {
        let bytes: Vec<u8> = ids.iter().flat_map(|id| self.token_bytes(*id)).copied().collect();
        let put = match (&self.split, bytes.first()) {
            (Split::Spm { prefix, .. }, Some(b' ')) => usize::from(*prefix),
            _ => 0,
        };
        String::from_utf8_lossy(&bytes[put..]).into_owned()
    }
}

fn bpe(spec: &TokenizerSpec) -> Result<tokenizers::Tokenizer, TokenizerError> {
    let bytes_level = ByteLevel::new(false, false, true);
    // As llama.cpp's list of regular expressions per name has them.
    let split: PreTokenizerWrapper = match spec.pre.as_str() {
        "gpt-2" => bytes_level.into(),
        "qwen2" => by_pattern(&words("\\p{N}"))?,
        "llama-bpe" => by_pattern(&words("\\p{N}{1,3}"))?,
        "smollm" => Sequence::new(vec![Digits::new(true).into(), bytes_level.into()]).into(),
        _ => return Err(TokenizerError::Pre { pre: spec.pre.clone() }),
    };
    if spec.merges.is_empty() {
        return Err(TokenizerError::Key("tokenizer.ggml.merges"));
    }
    let ids = (0_u32..).zip(spec.tokens.iter());
    let vocab: Vocab = ids.map(|(id, text)| (text.clone(), id)).collect();
    let merges = spec.merges.iter().map(|merge| {
        let pair = merge.split_once(' ').ok_or(TokenizerError::Nonsense("list of merges"))?;
        Ok((pair.0.to_owned(), pair.1.to_owned()))
    });
    let merges = merges.collect::<Result<Vec<_>, TokenizerError>>()?;
    let build = |error: tokenizers::Error| TokenizerError::Build(error.to_string());
    // A word that is a token is not looked for in the merges.
    let whole_words = spec.pre == "llama-bpe";
    let bpe = BPE::builder()
        .vocab_and_merges(vocab, merges)
        .ignore_merges(whole_words)
        .build()
        .map_err(build)?;
    let mut inner = tokenizers::Tokenizer::new(bpe);
    inner.with_pre_tokenizer(Some(split));
    Ok(inner)
}

/// The words of the newer families, which differ in how many digits are one.
fn words(digits: &str) -> String {
    format!(
        "(?:'[sS]|'[tT]|'[rR][eE]|'[vV][eE]|'[mM]|'[lL][lL]|'[dD])|[^\\r\\n\\p{{L}}\\p{{N}}]?\\p{{L}}+|\
         {digits}| ?[^\\s\\p{{L}}\\p{{N}}]+[\\r\\n]*|\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+"
    )
}

fn by_pattern(pattern: &str) -> Result<PreTokenizerWrapper, TokenizerError> {
    let build = |error: tokenizers::Error| TokenizerError::Build(error.to_string());
    let pattern = SplitPattern::Regex(pattern.to_owned());
    let split = ByPattern::new(pattern, SplitDelimiterBehavior::Isolated, false);
    let bytes = ByteLevel::new(false, false, false);
    Ok(Sequence::new(vec![split.map_err(build)?.into(), bytes.into()]).into())
}

fn end_ids(spec: &TokenizerSpec) -> Vec<u32> {
    let named = (0_u32..).zip(spec.tokens.iter()).filter(|(id, name)| {
        spec.kind(*id as usize) == TokenKind::Control && END_NAMES.contains(&name.as_str())
    });
    let mut end: Vec<u32> = named.map(|(id, _)| id).collect();
    end.extend([spec.eos, spec.eot, spec.eom].into_iter().flatten());
    end.sort_unstable();
    end.dedup();
    end
}

/// The ways of splitting that are built in.
const PRE: [&str; 4] = ["`gpt-2`", "`smollm`", "`qwen2`", "`llama-bpe`"];

/// The name of SentencePiece in GGUF files.
const SENTENCE_PIECE: &str = "llama";

/// Control tokens that end an answer whatever the file's keys say (llama.cpp's list).
const END_NAMES: [&str; 15] = [
    "<|eot_id|>",
    "<|im_end|>",
    "<|end|>",
    "<|return|>",
    "<|call|>",
    "<end_of_turn>",
    "<|endoftext|>",
    "<|eom_id|>",
    "<EOT>",
    "_<EOT>",
    "[EOT]",
    "[EOS]",
    "<|end_of_text|>",
    "<end_of_utterance>",
    "</s>",
];

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use tokenizers::{OffsetReferential, OffsetType, PreTokenizedString, PreTokenizer};

    /// Every byte's letter, three merges, and one token of each special kind.
    fn sample() -> Tokenizer {
        let alphabet = detokenizer::ByteAlphabet::new();
        let mut tokens: Vec<String> = vec!["<|end|>".into(), "<tool>".into(), "<unk>".into()];
        tokens.extend((0..=255).map(|byte| alphabet.letter(byte).to_string()));
        tokens.extend(["he".into(), "ll".into(), "hell".into()]);
        let mut kinds = vec![1; tokens.len()];
        kinds[..3].copy_from_slice(&[3, 4, 2]);
        let merges = ["h e", "l l", "he ll"].map(str::to_owned).to_vec();
        Tokenizer::new(TokenizerSpec {
            model: "gpt2".into(),
            pre: "smollm".into(),
            tokens: tokens.try_into().unwrap(),
            kinds: kinds.try_into().unwrap(),
            merges: merges.try_into().unwrap(),
            eos: Some(0),
            ..TokenizerSpec::default()
        })
        .unwrap()
    }

    #[test]
    fn special_tokens_are_read_only_where_asked_for() {
        let tokenizer = sample();
        let parsed = tokenizer.encode("hell<|end|><tool>", true).unwrap();
        assert_eq!(parsed, [261, 0, 1]);
        let plain = tokenizer.encode("<|end|><tool>", false).unwrap();
        assert_eq!((plain.len(), plain.last()), (8, Some(&1)));
        assert_eq!(tokenizer.decode(&plain), "<|end|><tool>");
        assert_eq!(tokenizer.decode(&parsed), "hell<tool>");
        assert_eq!(tokenizer.end_ids(), [0]);
    }

    /// As llama.cpp splits by these names.
    #[test]
    fn words_are_split_as_the_family_does() {
        let text = "It's 12345, I'LL go…\r\n\n  naïve ñandú!! x=1\t\ttail  ";
        let split = |digits: &str| {
            let pattern = by_pattern(&words(digits)).unwrap();
            let mut text = PreTokenizedString::from(text);
            pattern.pre_tokenize(&mut text).unwrap();
            let parts = text.get_splits(OffsetReferential::Original, OffsetType::Byte);
            parts.into_iter().map(|(_, (from, to), _)| (from, to)).collect::<Vec<_>>()
        };
        let cut = |digits| split(digits).into_iter().map(|(a, b)| &text[a..b]).collect::<Vec<_>>();
        let rest = [
            ",",
            " I",
            "'LL",
            " go",
            "…\r\n\n",
            " ",
            " naïve",
            " ñandú",
            "!!",
            " x",
            "=",
            "1",
            "\t",
            "\ttail",
            "  ",
        ];
        let one = ["It", "'s", " ", "1", "2", "3", "4", "5"];
        assert_eq!(cut("\\p{N}"), [&one[..], &rest].concat());
        let three = ["It", "'s", " ", "123", "45"];
        assert_eq!(cut("\\p{N}{1,3}"), [&three[..], &rest].concat());
    }

    #[test]
    fn an_unknown_kind_is_refused_by_its_name() {
        let mut spec = TokenizerSpec { model: "t5".into(), ..TokenizerSpec::default() };
        let error = Tokenizer::new(spec.clone()).unwrap_err();
        assert!(matches!(error, TokenizerError::Model(name) if name == "t5"));
        spec.model = "gpt2".into();
        spec.pre = "new-thing".into();
        let error = Tokenizer::new(spec).unwrap_err();
        assert!(error.to_string().contains("new-thing"), "{error}");
    }

    proptest! {
        #[test]
        fn any_text_comes_back(text in "\\PC{0,40}|[a-z0-9 \\n\\t]{0,40}") {
            let tokenizer = sample();
            let ids = tokenizer.encode(&text, false).unwrap();
            prop_assert_eq!(tokenizer.decode(&ids), text);
        }

        #[test]
        fn a_stream_is_the_whole_in_pieces(ids in proptest::collection::vec(0_u32..264, 0..60)) {
            let tokenizer = sample();
            let mut stream = Detokenizer::new();
            let mut text = String::new();
            for id in &ids {
                let piece = stream.push(tokenizer.token_bytes(*id));
                // A replacement may stand only where the bytes can never become a character.
                text.push_str(&piece);
            }
            text.push_str(&stream.finish());
            prop_assert_eq!(text, tokenizer.decode(&ids));
        }
    }
}
