//! Bytes of tokens to text, as they come, never splitting a character.

/// Turns the bytes of one token after another into text. A character whose bytes are spread over
/// several tokens comes out with the last of them.
#[derive(Debug, Clone, Default)]
pub struct Detokenizer {
    /// The beginning of a character, at most three bytes.
    pending: Vec<u8>,
}

impl Detokenizer {
    /// Nothing seen yet.
    #[must_use]
    pub const fn new() -> Self {
        Self { pending: Vec::new() }
    }

    /// Takes a token's bytes ([`super::Tokenizer::token_bytes`]); gives all text that is complete.
    pub fn push(&mut self, bytes: &[u8]) -> String {
        self.pending.extend_from_slice(bytes);
        let whole = whole_prefix(&self.pending);
        let rest = self.pending.split_off(whole);
        let text = String::from_utf8_lossy(&self.pending).into_owned();
        self.pending = rest;
        text
    }

    /// What is left at the end: nothing, or a replacement for the broken character.
    #[must_use]
    pub fn finish(self) -> String {
        String::from_utf8_lossy(&self.pending).into_owned()
    }
}

/// The length of what no further byte can change: all but a character that has only begun.
fn whole_prefix(bytes: &[u8]) -> usize {
    let last = bytes.utf8_chunks().last();
    let Some(broken) = last.map(|chunk| chunk.invalid()).filter(|invalid| !invalid.is_empty())
    else {
        return bytes.len();
    };
    match std::str::from_utf8(broken) {
        Err(error) if error.error_len().is_none() => bytes.len() - broken.len(),
        _ => bytes.len(),
    }
}

/// GPT-2's letters for bytes: printable ones stand for themselves, the others for U+0100 onwards.
pub(super) struct ByteAlphabet {
    bytes: std::collections::BTreeMap<char, u8>,
}

impl ByteAlphabet {
    pub(super) fn new() -> Self {
        let mut next = 0x100_u32;
        let letter = |byte| match byte {
            b'!'..=b'~' | 0xa1..=0xac | 0xae..=0xff => (char::from(byte), byte),
            _ => {
                let letter = char::from_u32(next).expect("U+0100..U+0144 are letters");
                next += 1;
                (letter, byte)
            }
        };
        Self { bytes: (0..=255_u8).map(letter).collect() }
    }

    #[cfg(test)]
    pub(super) fn letter(&self, byte: u8) -> char {
        *self.bytes.iter().find(|(_, of)| **of == byte).unwrap().0
    }

    /// A token's bytes; what is no letter of the alphabet stands for itself.
    pub(super) fn decode(&self, token: &str) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(token.len());
        for letter in token.chars() {
            match self.bytes.get(&letter) {
                Some(byte) => bytes.push(*byte),
                None => bytes.extend_from_slice(letter.encode_utf8(&mut [0; 4]).as_bytes()),
            }
        }
        bytes
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_character_waits_for_its_last_byte() {
        let mut stream = Detokenizer::new();
        let bytes = "日本".as_bytes();
        assert_eq!(stream.push(&bytes[..2]), "");
        assert_eq!(stream.push(&bytes[2..4]), "日");
        assert_eq!(stream.push(&bytes[4..]), "本");
        assert_eq!(stream.push(&[0xff, b'a', 0xe6]), "\u{fffd}a");
        assert_eq!(stream.finish(), "\u{fffd}");
    }

    proptest! {
        #[test]
        fn pieces_make_the_whole(pieces in proptest::collection::vec(
            prop_oneof![
                proptest::collection::vec(any::<u8>(), 0..4),
                "\\PC{0,3}".prop_map(String::into_bytes),
            ],
            0..30,
        )) {
            let mut stream = Detokenizer::new();
            let mut text = String::new();
            for piece in &pieces {
                text.push_str(&stream.push(piece));
                prop_assert!(stream.pending.len() < 4);
            }
            text.push_str(&stream.finish());
            let whole = pieces.concat();
            prop_assert_eq!(text, String::from_utf8_lossy(&whole));
        }

        #[test]
        fn text_cut_anywhere_has_no_replacements(text in "\\PC{0,20}", width in 1_usize..4) {
            let mut stream = Detokenizer::new();
            let out: String = text.as_bytes().chunks(width).map(|bytes| stream.push(bytes)).collect();
            prop_assert_eq!(out, text);
            prop_assert_eq!(stream.finish(), "");
        }
    }
}
