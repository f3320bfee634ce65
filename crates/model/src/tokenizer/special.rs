//! Tokens that are found in a text before anything is split: control tokens and user-defined ones.

use std::collections::{BTreeSet, HashMap};

use super::{TokenKind, TokenizerError, TokenizerSpec};

/// A tokenizer's special tokens.
pub(super) struct Specials {
    /// Longest first.
    all: Vec<Special>,
    /// Of names with these first two bytes: their lengths. What it keeps from being searched is
    /// most of thousands of names that do not occur.
    lengths: HashMap<[u8; 2], BTreeSet<usize>>,
    /// Places in `all`.
    places: HashMap<Box<str>, usize>,
}

struct Special {
    name: Box<str>,
    id: u32,
    /// Whether it stands for itself even where special tokens are not parsed.
    always: bool,
}

/// A part of a text.
#[derive(Clone, Copy)]
pub(super) enum Piece<'a> {
    Token(u32),
    Text(&'a str),
}

impl Specials {
    pub(super) fn new(spec: &TokenizerSpec) -> Result<Self, TokenizerError> {
        let mut all = Vec::new();
        for (id, name) in (0_u32..).zip(spec.tokens.iter()) {
            let always = match spec.kind(id as usize) {
                TokenKind::UserDefined => true,
                TokenKind::Control | TokenKind::Unknown => false,
                TokenKind::Normal | TokenKind::Byte | TokenKind::Other => continue,
            };
            if !name.is_empty() {
                all.push(Special { name: name.as_str().into(), id, always });
            }
        }
        if all.len() > MAX_SPECIAL {
            return Err(TokenizerError::Nonsense("number of special tokens"));
        }
        all.sort_by_key(|special| (std::cmp::Reverse(special.name.len()), special.id));
        let mut lengths: HashMap<[u8; 2], BTreeSet<usize>> = HashMap::new();
        for special in &all {
            if let Some(start) = special.name.as_bytes().first_chunk() {
                lengths.entry(*start).or_default().insert(special.name.len());
            }
        }
        let places = all.iter().enumerate().rev();
        let places = places.map(|(place, special)| (special.name.clone(), place)).collect();
        Ok(Self { all, lengths, places })
    }

    /// As llama.cpp cuts: one special token after the other, longest first, out of what is left.
    pub(super) fn cut<'a>(&self, text: &'a str, parse_special: bool) -> Vec<Piece<'a>> {
        let mut pieces = vec![Piece::Text(text)];
        for place in self.occurring(text) {
            let Special { name, id, always } = &self.all[place];
            if !(parse_special || *always) {
                continue;
            }
            let mut cut = Vec::with_capacity(pieces.len());
            for piece in pieces {
                let Piece::Text(text) = piece else {
                    cut.push(piece);
                    continue;
                };
                for (index, part) in text.split(&**name).enumerate() {
                    if index > 0 {
                        cut.push(Piece::Token(*id));
                    }
                    if !part.is_empty() {
                        cut.push(Piece::Text(part));
                    }
                }
            }
            pieces = cut;
        }
        pieces.retain(|piece| !matches!(piece, Piece::Text("")));
        pieces
    }

    /// The places of those that may be in a text, in order.
    fn occurring(&self, text: &str) -> BTreeSet<usize> {
        let short = self.all.iter().enumerate().rev();
        let short = short.take_while(|(_, special)| special.name.len() == 1);
        let mut found: BTreeSet<usize> = short.map(|(place, _)| place).collect();
        for (start, pair) in text.as_bytes().windows(2).enumerate() {
            let lengths = self.lengths.get(pair).into_iter().flatten();
            let names = lengths.map_while(|length| text.as_bytes().get(start..start + length));
            let names = names.filter_map(|name| std::str::from_utf8(name).ok());
            found.extend(names.filter_map(|name| self.places.get(name)));
        }
        found
    }
}

/// Most special tokens: each one that occurs is another pass over the text.
const MAX_SPECIAL: usize = 16_384;

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn specials(names: &[&str]) -> Specials {
        let tokens: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
        let kinds: Vec<u8> = (0..names.len()).map(|id| if id % 2 == 0 { 4 } else { 3 }).collect();
        let (tokens, kinds) = (tokens.try_into().unwrap(), kinds.try_into().unwrap());
        Specials::new(&TokenizerSpec { tokens, kinds, ..TokenizerSpec::default() }).unwrap()
    }

    fn told(pieces: &[Piece<'_>]) -> String {
        let tell = |piece: &Piece<'_>| match piece {
            Piece::Token(id) => format!("[{id}]"),
            Piece::Text(text) => (*text).to_owned(),
        };
        pieces.iter().map(tell).collect()
    }

    #[test]
    fn the_longest_is_cut_first_wherever_it_stands() {
        let specials = specials(&["ab", "<x>", "bcd", "<y>", "\n", "\n\n"]);
        assert_eq!(told(&specials.cut("abcd", true)), "a[2]");
        assert_eq!(told(&specials.cut("<x>é\n\n\nab", true)), "[1]é[5][4][0]");
        assert_eq!(told(&specials.cut("<x>\n\n", false)), "<x>[4][4]");
    }

    proptest! {
        /// The same with a search for every name, which is what llama.cpp does.
        #[test]
        fn what_is_not_searched_is_not_there(text in "[ab<x>\\né]{0,30}") {
            let names = ["ab", "<x>", "aab", "é", "\n", "\n\n", "b", "xé", "<", "éa\n"];
            let specials = specials(&names);
            let found = specials.occurring(&text);
            for (place, special) in specials.all.iter().enumerate() {
                prop_assert!(found.contains(&place) || !text.contains(&*special.name));
            }
        }
    }
}
