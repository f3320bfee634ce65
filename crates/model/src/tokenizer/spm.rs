//! SentencePiece as llama.cpp runs it: the two neighbours that make the token of the highest score
//! become one, until none do; a character that has no token becomes its bytes' tokens.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap};

use super::{TokenKind, TokenizerError, TokenizerSpec};

/// What the merges need of a vocabulary.
pub(super) struct Spm {
    /// Ids of the tokens that text can become. Not of control tokens and bytes: whoever writes
    /// their names has written letters.
    ids: HashMap<Box<str>, u32>,
    /// Of every id: its score, as an integer of the same order.
    ranks: Vec<i32>,
    /// The token of every byte.
    bytes: [u32; 256],
    /// Bytes of the longest token in `ids`.
    longest: usize,
}

impl Spm {
    pub(super) fn new(spec: &TokenizerSpec) -> Result<Self, TokenizerError> {
        if spec.scores.len() != spec.tokens.len() {
            return Err(TokenizerError::Nonsense("list of scores"));
        }
        let ranks = spec.scores.iter().map(|bits| rank(f32::from_bits(*bits)));
        let ranks = ranks.collect::<Option<Vec<i32>>>();
        let ranks = ranks.ok_or(TokenizerError::Nonsense("list of scores"))?;
        let mut ids: HashMap<Box<str>, u32> = HashMap::with_capacity(spec.tokens.len());
        let mut bytes = [None; 256];
        for (id, name) in (0_u32..).zip(spec.tokens.iter()) {
            match spec.kind(id as usize) {
                TokenKind::Normal | TokenKind::UserDefined => {
                    ids.insert(name.as_str().into(), id);
                }
                TokenKind::Byte => {
                    let byte = byte_of(name).ok_or(TokenizerError::Nonsense("list of bytes"))?;
                    bytes[usize::from(byte)] = Some(id);
                }
                TokenKind::Unknown | TokenKind::Control | TokenKind::Other => {}
            }
        }
        let all = bytes.iter().copied().collect::<Option<Vec<u32>>>();
        let bytes = all.and_then(|all| all.try_into().ok());
        let bytes = bytes.ok_or(TokenizerError::Nonsense("list of bytes"))?;
        let longest = ids.keys().map(|name| name.len()).max().unwrap_or(0);
        Ok(Self { ids, ranks, bytes, longest })
    }

    /// Adds the ids of a text; with `prefix`, of a space and the text.
    pub(super) fn encode(&self, text: &str, prefix: bool, ids: &mut Vec<u32>) {
        let mut escaped = if prefix { SPACE.to_owned() } else { String::new() };
        escaped.push_str(&text.replace(' ', SPACE));
        let mut merging = Merging::new(self, &escaped);
        merging.run();
        for symbol in merging.symbols.iter().filter(|symbol| symbol.length > 0) {
            let text = symbol.text(&escaped);
            match self.ids.get(text) {
                Some(id) => ids.push(*id),
                None => ids.extend(text.bytes().map(|byte| self.bytes[usize::from(byte)])),
            }
        }
    }

    /// What a token prints as.
    pub(super) fn printed(spec: &TokenizerSpec, id: usize) -> Vec<u8> {
        let name = &spec.tokens[id];
        match spec.kind(id) {
            TokenKind::Normal => name.replace(SPACE, " ").into_bytes(),
            TokenKind::UserDefined => name.clone().into_bytes(),
            TokenKind::Byte => byte_of(name).into_iter().collect(),
            TokenKind::Control | TokenKind::Unknown | TokenKind::Other => Vec::new(),
        }
    }
}

/// One text on its way.
struct Merging<'a> {
    spm: &'a Spm,
    text: &'a str,
    symbols: Vec<Symbol>,
    /// Best score first, of equal ones the leftmost; some are out of date.
    pairs: BinaryHeap<Pair>,
}

/// A part of the text that is one token, or one character; without length once it is part of
/// another.
struct Symbol {
    start: usize,
    length: usize,
    before: Option<usize>,
    after: Option<usize>,
}

/// The token's rank, the symbols' places, and the length of both when they were found.
type Pair = (i32, Reverse<usize>, usize, usize);

impl<'a> Merging<'a> {
    fn new(spm: &'a Spm, text: &'a str) -> Self {
        let count = text.chars().count();
        let symbol = |(place, (start, letter)): (usize, (usize, char))| Symbol {
            start,
            length: letter.len_utf8(),
            before: place.checked_sub(1),
            after: Some(place + 1).filter(|after| *after < count),
        };
        let symbols = text.char_indices().enumerate().map(symbol).collect();
        let mut merging = Self { spm, text, symbols, pairs: BinaryHeap::new() };
        (1..count).for_each(|right| merging.consider(Some(right - 1), Some(right)));
        merging
    }

    fn run(&mut self) {
        while let Some((_, Reverse(left), right, length)) = self.pairs.pop() {
            let (first, second) = (&self.symbols[left], &self.symbols[right]);
            let gone = first.length == 0 || second.length == 0;
            if gone || first.length + second.length != length {
                continue;
            }
            let (before, after) = (first.before, second.after);
            self.symbols[right].length = 0;
            self.symbols[left].length = length;
            self.symbols[left].after = after;
            if let Some(after) = after {
                self.symbols[after].before = Some(left);
            }
            self.consider(before, Some(left));
            self.consider(Some(left), after);
        }
    }

    /// Notes two neighbours, if they are there and make a token.
    fn consider(&mut self, left: Option<usize>, right: Option<usize>) {
        let (Some(left), Some(right)) = (left, right) else { return };
        let (start, first) = (self.symbols[left].start, self.symbols[left].length);
        let length = first + self.symbols[right].length;
        if length > self.spm.longest {
            return;
        }
        if let Some(id) = self.spm.ids.get(&self.text[start..start + length]) {
            self.pairs.push((self.spm.ranks[*id as usize], Reverse(left), right, length));
        }
    }
}

impl Symbol {
    fn text<'a>(&self, text: &'a str) -> &'a str {
        &text[self.start..self.start + self.length]
    }
}

/// An integer of a score's order; 0 and -0 are equal. None of what is not a number.
fn rank(score: f32) -> Option<i32> {
    let bits = (score + 0.0).to_bits() as i32;
    (!score.is_nan()).then_some(if bits < 0 { bits ^ i32::MAX } else { bits })
}

/// The byte that `<0x0A>` stands for.
fn byte_of(name: &str) -> Option<u8> {
    let digits = name.strip_prefix("<0x")?.strip_suffix('>')?;
    (digits.len() == 2).then(|| u8::from_str_radix(digits, 16).ok())?
}

/// What stands for a space in the names of tokens.
const SPACE: &str = "\u{2581}";

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::{Tokenizer, TokenizerError};
    use super::*;

    fn spec(words: &[(&str, f32)]) -> TokenizerSpec {
        let mut tokens: Vec<String> = vec!["<s>".into(), "  ".into()];
        tokens.extend((0..=255).map(|byte| format!("<0x{byte:02X}>")));
        let mut kinds: Vec<u8> = vec![6; tokens.len()];
        kinds[..2].copy_from_slice(&[3, 4]);
        let mut scores = vec![0_f32; tokens.len()];
        for (word, score) in words {
            tokens.push((*word).to_owned());
            kinds.push(1);
            scores.push(*score);
        }
        let scores: Vec<u32> = scores.into_iter().map(f32::to_bits).collect();
        TokenizerSpec {
            model: "llama".into(),
            tokens: tokens.try_into().unwrap(),
            kinds: kinds.try_into().unwrap(),
            scores: scores.try_into().unwrap(),
            bos: Some(0),
            add_space_prefix: Some(false),
            ..TokenizerSpec::default()
        }
    }

    const WORDS: [(&str, f32); 7] = [
        ("a", -9.0),
        ("b", -9.0),
        (SPACE, -9.0),
        ("ab", -2.0),
        ("ba", -1.0),
        ("aba", -3.0),
        ("\u{2581}a", -0.0),
    ];

    fn names(spec: TokenizerSpec, text: &str) -> String {
        let tokenizer = Tokenizer::new(spec).unwrap();
        let ids = tokenizer.encode(text, true).unwrap();
        let names = ids.iter().map(|id| tokenizer.token_name(*id).unwrap());
        names.collect::<Vec<_>>().join(" ")
    }

    #[test]
    fn the_best_pair_is_made_first_and_of_equals_the_left() {
        assert_eq!(names(spec(&WORDS), "ab"), "ab");
        assert_eq!(names(spec(&WORDS), "abab"), "aba b");
        assert_eq!(names(spec(&WORDS), "bb ab"), "b b \u{2581}a b");
        let equal = [("a", 0.0), ("aa", -1.0)];
        assert_eq!(names(spec(&equal), "aaaaa"), "aa aa a");
        // A merge that was noted before one of its sides grew.
        assert_eq!(names(spec(&[WORDS[0], WORDS[1], WORDS[3], ("bab", 1.0)]), "bab"), "bab");
    }

    #[test]
    fn what_has_no_token_becomes_bytes() {
        assert_eq!(names(spec(&WORDS), "é"), "<0xC3> <0xA9>");
        assert_eq!(names(spec(&WORDS), "a  b<s>"), "a    b <s>");
        let tokenizer = Tokenizer::new(spec(&WORDS)).unwrap();
        let letters = tokenizer.encode("<s>", false).unwrap();
        assert_eq!((letters.len(), tokenizer.decode(&letters)), (3, "<s>".into()));
    }

    #[test]
    fn a_space_is_put_before_text_and_taken_away_where_the_file_does_not_forbid_it() {
        let spec = TokenizerSpec { add_space_prefix: None, ..spec(&WORDS) };
        assert_eq!(names(spec.clone(), "a<s>ab"), "\u{2581}a <s> \u{2581}a b");
        let tokenizer = Tokenizer::new(spec.clone()).unwrap();
        let ids = tokenizer.encode(" ab", true).unwrap();
        assert_eq!(tokenizer.decode(&ids), " ab");
        assert_eq!(tokenizer.with_bos(ids.clone())[..2], [0, ids[0]]);
        assert_eq!(tokenizer.with_bos(tokenizer.encode("<s>", true).unwrap()), [0]);
        let without = TokenizerSpec { add_bos: Some(false), ..spec };
        assert_eq!(Tokenizer::new(without).unwrap().with_bos(ids.clone()), ids);
    }

    #[test]
    fn a_vocabulary_without_scores_or_bytes_is_refused() {
        let none = TokenizerSpec { scores: Vec::new().try_into().unwrap(), ..spec(&WORDS) };
        let nan = spec(&[("a", f32::NAN)]);
        let mut kinds = spec(&WORDS).kinds.to_vec();
        kinds[77] = 1;
        let byte = TokenizerSpec { kinds: kinds.try_into().unwrap(), ..spec(&WORDS) };
        for spec in [none, nan, byte] {
            assert!(matches!(Tokenizer::new(spec), Err(TokenizerError::Nonsense(_))));
        }
    }

    proptest! {
        #[test]
        fn any_text_comes_back(text in "[^\u{2581}]{0,40}|[ab ]{0,60}", prefix: bool) {
            // A user-defined token in the text would take a space with it, as in llama.cpp.
            let text = if prefix { text.replace("  ", "ab") } else { text };
            let spec = TokenizerSpec { add_space_prefix: Some(prefix), ..spec(&WORDS) };
            let tokenizer = Tokenizer::new(spec).unwrap();
            let ids = tokenizer.encode(&text, false).unwrap();
            prop_assert_eq!(tokenizer.decode(&ids), text);
        }

        #[test]
        fn any_mutation_tokenizes_or_is_refused(
            changes in proptest::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..6),
            text in "[ab \\PC]{0,20}",
        ) {
            let mut bytes = spec(&WORDS).to_bytes().to_vec();
            for (at, value) in changes {
                let at = at.index(bytes.len());
                bytes[at] = value;
            }
            let read = TokenizerSpec::from_bytes(&bytes).and_then(Tokenizer::new);
            if let Ok(tokenizer) = read {
                let _ = tokenizer.decode(&tokenizer.encode(&text, true).unwrap());
            }
        }

        #[test]
        fn ranks_have_the_order_of_scores(a: f32, b: f32) {
            if let Some(order) = a.partial_cmp(&b) {
                prop_assert_eq!(rank(a).cmp(&rank(b)), order);
            }
        }
    }
}
