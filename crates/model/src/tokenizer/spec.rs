//! What a GGUF file says of its tokenizer, as a blob.

use bytes::Bytes;
use serde::{Deserialize, Serialize};
use taimatsu_protocol::codec::{self, BoundedVec, OverBound};

use super::TokenizerError;
use crate::gguf::{GgufFile, Value};

/// The longest tokenizer, in bytes: the largest vocabularies take some eight million.
pub const MAX_TOKENIZER: usize = 16 << 20;

/// A tokenizer's parts, as the file has them (keys under `tokenizer.ggml.`).
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct TokenizerSpec {
    /// The algorithm: `gpt2` (byte-level BPE), `llama` (SentencePiece), ...
    pub model: String,
    /// How text is split before merging; empty where the file does not say.
    pub pre: String,
    /// Every token's name; its place is its id.
    pub tokens: BoundedVec<String, 1_048_576>,
    /// Every token's kind, as a number; empty: all are normal.
    pub kinds: BoundedVec<u8, 1_048_576>,
    /// Pairs that become one token, first to last, each two names with a space between.
    pub merges: BoundedVec<String, 2_097_152>,
    /// Every token's score, as the bits of an f32; empty for BPE.
    pub scores: BoundedVec<u32, 1_048_576>,
    /// The token that begins a text.
    pub bos: Option<u32>,
    /// The token that ends a text.
    pub eos: Option<u32>,
    /// The token that ends a turn.
    pub eot: Option<u32>,
    /// The token that ends a message.
    pub eom: Option<u32>,
    /// The token for what has none.
    pub unknown: Option<u32>,
    /// The token for padding.
    pub padding: Option<u32>,
    /// Whether a text begins with [`Self::bos`], where the file says.
    pub add_bos: Option<bool>,
    /// Whether a text ends with [`Self::eos`], where the file says.
    pub add_eos: Option<bool>,
    /// Whether a space is put before a text, where the file says.
    pub add_space_prefix: Option<bool>,
}

/// What a token is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TokenKind {
    /// Text.
    Normal,
    /// Stands for what has no token.
    Unknown,
    /// Steers the model, and never prints.
    Control,
    /// Text that is never split.
    UserDefined,
    /// A byte of what has no token, in SentencePiece.
    Byte,
    /// Unused, or a kind that nobody knows.
    Other,
}

impl TokenizerSpec {
    /// The tokenizer of a file.
    ///
    /// # Errors
    /// The file has no tokenizer, or one with impossible parts.
    pub fn of(file: &GgufFile) -> Result<Self, TokenizerError> {
        let text = |key: &'static str| file.text(key).map(str::to_owned);
        let texts = |key: &'static str| match file.value(key) {
            Some(Value::Texts(texts)) => Some(texts.clone()),
            _ => None,
        };
        let kinds = match file.value("tokenizer.ggml.token_type") {
            Some(Value::Integers(kinds)) => {
                kinds.iter().map(|kind| u8::try_from(*kind).unwrap_or(u8::MAX)).collect()
            }
            _ => Vec::new(),
        };
        let scores = match file.value("tokenizer.ggml.scores") {
            Some(Value::Floats(scores)) => scores.iter().map(|score| score.to_bits()).collect(),
            _ => Vec::new(),
        };
        let spec = Self {
            model: text(MODEL).ok_or(TokenizerError::Key(MODEL))?,
            pre: text("tokenizer.ggml.pre").unwrap_or_default(),
            tokens: texts(TOKENS).ok_or(TokenizerError::Key(TOKENS))?.try_into()?,
            kinds: kinds.try_into()?,
            merges: texts("tokenizer.ggml.merges").unwrap_or_default().try_into()?,
            scores: scores.try_into()?,
            bos: file.number("tokenizer.ggml.bos_token_id"),
            eos: file.number("tokenizer.ggml.eos_token_id"),
            eot: file.number("tokenizer.ggml.eot_token_id"),
            eom: file.number("tokenizer.ggml.eom_token_id"),
            unknown: file.number("tokenizer.ggml.unknown_token_id"),
            padding: file.number("tokenizer.ggml.padding_token_id"),
            add_bos: file.truth("tokenizer.ggml.add_bos_token"),
            add_eos: file.truth("tokenizer.ggml.add_eos_token"),
            add_space_prefix: file.truth("tokenizer.ggml.add_space_prefix"),
        };
        spec.check()?;
        let length = spec.to_bytes().len();
        if length > MAX_TOKENIZER {
            // No client would read it.
            return Err(OverBound { length, limit: MAX_TOKENIZER }.into());
        }
        Ok(spec)
    }

    /// The blob.
    #[must_use]
    pub fn to_bytes(&self) -> Bytes {
        let mut bytes = DOMAIN.to_vec();
        bytes.extend(codec::encode(self));
        bytes.into()
    }

    /// Reads a blob that somebody sent. That its digest is the wanted one is the caller's to check.
    ///
    /// # Errors
    /// Not a tokenizer, or one with impossible parts.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, TokenizerError> {
        let body = bytes.strip_prefix(DOMAIN).ok_or(TokenizerError::Domain)?;
        let spec: Self = codec::decode(body, MAX_TOKENIZER)?;
        spec.check()?;
        Ok(spec)
    }

    /// What the token of this id is for.
    #[must_use]
    pub fn kind(&self, id: usize) -> TokenKind {
        match self.kinds.get(id) {
            None | Some(1) => TokenKind::Normal,
            Some(2) => TokenKind::Unknown,
            Some(3) => TokenKind::Control,
            Some(4) => TokenKind::UserDefined,
            Some(6) => TokenKind::Byte,
            Some(_) => TokenKind::Other,
        }
    }

    fn check(&self) -> Result<(), TokenizerError> {
        let count = self.tokens.len();
        let each = |length: usize| length == 0 || length == count;
        let ids = [self.bos, self.eos, self.eot, self.eom, self.unknown, self.padding];
        let checks = [
            ("list of tokens", count > 0),
            ("list of token types", each(self.kinds.len())),
            ("list of scores", each(self.scores.len())),
            ("special token", ids.iter().flatten().all(|id| (*id as usize) < count)),
        ];
        match checks.iter().find(|(_, fine)| !fine) {
            Some((what, _)) => Err(TokenizerError::Nonsense(what)),
            None => Ok(()),
        }
    }
}

const DOMAIN: &[u8] = b"taimatsu tokenizer 1\n";
const MODEL: &str = "tokenizer.ggml.model";
const TOKENS: &str = "tokenizer.ggml.tokens";

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn sample() -> TokenizerSpec {
        TokenizerSpec {
            model: "gpt2".into(),
            pre: "smollm".into(),
            tokens: vec!["a".into(), "b".into(), "ab".into()].try_into().unwrap(),
            kinds: vec![1, 1, 3].try_into().unwrap(),
            merges: vec!["a b".into()].try_into().unwrap(),
            eos: Some(2),
            add_bos: Some(false),
            ..TokenizerSpec::default()
        }
    }

    #[test]
    fn a_blob_reads_back() {
        assert_eq!(TokenizerSpec::from_bytes(&sample().to_bytes()).unwrap(), sample());
    }

    #[test]
    fn parts_that_do_not_fit_are_refused() {
        let wrong = [
            TokenizerSpec { eos: Some(3), ..sample() },
            TokenizerSpec { kinds: vec![1].try_into().unwrap(), ..sample() },
            TokenizerSpec { tokens: BoundedVec::new(), ..sample() },
        ];
        for spec in wrong {
            assert!(TokenizerSpec::from_bytes(&spec.to_bytes()).is_err(), "{spec:?}");
        }
    }

    proptest! {
        #[test]
        fn any_mutation_reads_or_is_refused(
            changes in proptest::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..6),
            keep in any::<prop::sample::Index>(),
        ) {
            let mut bytes = sample().to_bytes().to_vec();
            for (at, value) in changes {
                let at = at.index(bytes.len());
                bytes[at] = value;
            }
            bytes.truncate(keep.index(bytes.len() * 2));
            if let Ok(spec) = TokenizerSpec::from_bytes(&bytes) {
                let _ = super::super::Tokenizer::new(spec);
            }
        }
    }
}
