//! Tokens with their log probabilities, as replies show them, in both of the forms that clients
//! know.

use std::collections::VecDeque;
use std::fmt::Write;
use std::sync::Arc;

use serde::ser::{SerializeMap, SerializeSeq, SerializeStruct};
use serde::{Serialize, Serializer};

use crate::engine::{Score, TokenEvent, Vocabulary};

/// What clients expect for a token that cannot come: JSON has no infinity.
const NEVER: f32 = -9999.0;

/// One token and how likely it was.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Log {
    word: Word,
    /// None for the first of a prompt: nothing stands before it.
    logprob: Option<f32>,
    /// The likeliest in its place, falling.
    top: Vec<(Word, f32)>,
    /// Characters of the text before it.
    offset: usize,
}

/// What a token prints as; a control token, its name.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Word(Vec<u8>);

/// The log probabilities of one answer as it grows. A token is shown when all its text is, and not
/// at all if a stop text has swallowed it.
pub(super) struct Ledger {
    words: Arc<dyn Vocabulary>,
    /// Alternatives wanted per token.
    top: usize,
    waiting: VecDeque<Waiting>,
    /// Bytes of all tokens so far.
    bytes: usize,
    /// Bytes of text that have been shown. A broken character is shown as one that is no shorter.
    shown: usize,
    /// Characters that all tokens so far begin.
    chars: usize,
}

struct Waiting {
    log: Log,
    start: usize,
    end: usize,
}

impl Ledger {
    /// A ledger for a model with these tokens.
    pub(super) fn new(words: Arc<dyn Vocabulary>, top: u8) -> Self {
        let (waiting, top) = (VecDeque::new(), usize::from(top));
        Self { words, top, waiting, bytes: 0, shown: 0, chars: 0 }
    }

    /// The prompt's tokens, where the prompt is part of the answer: `text`.
    pub(super) fn prompt(&mut self, ids: &[u32], rows: &[Score], text: &str) -> Vec<Log> {
        let mut rest = text;
        let mut logs = Vec::with_capacity(ids.len());
        for (at, &id) in ids.iter().enumerate() {
            let row = at.checked_sub(1).and_then(|before| rows.get(before));
            let log = Log {
                word: Word::of(&*self.words, id),
                logprob: row.map(|row| finite(row.next)),
                top: row.map_or_else(Vec::new, |row| self.alternatives(&row.top)),
                offset: self.chars,
            };
            // A control token counts where the text has its name: in one that was written so.
            let bytes = self.words.bytes(id);
            let printed = if bytes.is_empty() { self.words.name(id).as_bytes() } else { bytes };
            let found = rest.as_bytes().starts_with(printed);
            self.chars += if found || !bytes.is_empty() { begun(printed) } else { 0 };
            rest = rest.get(printed.len()..).filter(|_| found).unwrap_or(rest);
            logs.push(log);
        }
        self.chars = text.chars().count();
        logs
    }

    /// The answer's next token.
    pub(super) fn token(&mut self, token: &TokenEvent) -> Vec<Log> {
        let bytes = self.words.bytes(token.id);
        let log = Log {
            word: Word::of(&*self.words, token.id),
            logprob: Some(finite(token.logprob)),
            top: self.alternatives(&token.top),
            offset: self.chars,
        };
        let (start, end) = (self.bytes, self.bytes + bytes.len());
        self.chars += begun(bytes);
        self.bytes = end;
        self.waiting.push_back(Waiting { log, start, end });
        self.shown += token.text.len();
        self.due(|waiting, shown| waiting.end <= shown)
    }

    /// The answer's end, with this text still to be shown: the tokens that are in it in part.
    pub(super) fn finish(&mut self, text: &str) -> Vec<Log> {
        self.shown += text.len();
        let logs = self.due(|waiting, shown| {
            waiting.start < shown || (waiting.start == waiting.end && waiting.start == shown)
        });
        self.waiting.clear();
        logs
    }

    fn due(&mut self, is_due: impl Fn(&Waiting, usize) -> bool) -> Vec<Log> {
        let count = self.waiting.iter().take_while(|waiting| is_due(waiting, self.shown)).count();
        self.waiting.drain(..count).map(|waiting| waiting.log).collect()
    }

    fn alternatives(&self, top: &[(u32, f32)]) -> Vec<(Word, f32)> {
        let word =
            |(id, logprob): &(u32, f32)| (Word::of(&*self.words, *id), finite(Some(*logprob)));
        top.iter().take(self.top).map(word).collect()
    }
}

impl Word {
    fn of(words: &dyn Vocabulary, id: u32) -> Self {
        let bytes = words.bytes(id);
        let bytes = if bytes.is_empty() { words.name(id).as_bytes() } else { bytes };
        Self(bytes.to_vec())
    }

    /// As text; where it is a part of a character, its bytes in the OpenAI API's notation.
    fn text(&self) -> String {
        match std::str::from_utf8(&self.0) {
            Ok(text) => text.to_owned(),
            Err(_) => self.0.iter().fold("bytes:".to_owned(), |mut text, byte| {
                // Writing to a string does not fail.
                let _ = write!(text, "\\x{byte:02x}");
                text
            }),
        }
    }
}

/// The text of these ids, broken characters replaced; control tokens print nothing.
pub(super) fn text_of(words: &dyn Vocabulary, ids: &[u32]) -> String {
    let bytes: Vec<u8> = ids.iter().flat_map(|id| words.bytes(*id).iter().copied()).collect();
    String::from_utf8_lossy(&bytes).into_owned()
}

/// Characters that begin in these bytes.
fn begun(bytes: &[u8]) -> usize {
    bytes.iter().filter(|byte| **byte & 0xc0 != 0x80).count()
}

fn finite(logprob: Option<f32>) -> f32 {
    logprob.filter(|logprob| logprob.is_finite()).unwrap_or(NEVER)
}

/// The form of chats: `{"content": [{token, logprob, bytes, top_logprobs}]}`.
pub(super) struct ChatLogs<'a>(pub(super) &'a [Log]);

impl Serialize for ChatLogs<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_struct("logprobs", 2)?;
        map.serialize_field("content", &Listed(self.0, ChatLog))?;
        map.serialize_field("refusal", &None::<()>)?;
        map.end()
    }
}

struct ChatLog<'a>(&'a Log);

impl Serialize for ChatLog<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let Log { word, logprob, top, .. } = self.0;
        let mut map = serializer.serialize_struct("token", 4)?;
        map.serialize_field("token", &word.text())?;
        map.serialize_field("logprob", logprob)?;
        map.serialize_field("bytes", &word.0)?;
        map.serialize_field("top_logprobs", &Listed(top, Alternative))?;
        map.end()
    }
}

struct Alternative<'a>(&'a (Word, f32));

impl Serialize for Alternative<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let (word, logprob) = self.0;
        let mut map = serializer.serialize_struct("token", 3)?;
        map.serialize_field("token", &word.text())?;
        map.serialize_field("logprob", logprob)?;
        map.serialize_field("bytes", &word.0)?;
        map.end()
    }
}

/// The form of texts: four lists, an entry per token.
pub(super) struct TextLogs<'a>(pub(super) &'a [Log]);

impl Serialize for TextLogs<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_struct("logprobs", 4)?;
        map.serialize_field("tokens", &Listed(self.0, |log: &Log| log.word.text()))?;
        map.serialize_field("token_logprobs", &Listed(self.0, |log: &Log| log.logprob))?;
        map.serialize_field("top_logprobs", &Listed(self.0, Best))?;
        map.serialize_field("text_offset", &Listed(self.0, |log: &Log| log.offset))?;
        map.end()
    }
}

/// Token to log probability, likeliest first; the token itself is always among them. Null for the
/// first of a prompt.
struct Best<'a>(&'a Log);

impl Serialize for Best<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let Log { word, logprob, top, .. } = self.0;
        let Some(logprob) = logprob else { return serializer.serialize_none() };
        let mut entries: Vec<(String, f32)> = Vec::with_capacity(top.len() + 1);
        for (word, logprob) in top.iter().chain([&(word.clone(), *logprob)]) {
            let text = word.text();
            if !entries.iter().any(|(other, _)| *other == text) {
                entries.push((text, *logprob));
            }
        }
        let mut map = serializer.serialize_map(Some(entries.len()))?;
        for (text, logprob) in &entries {
            map.serialize_entry(text, logprob)?;
        }
        map.end()
    }
}

/// A list, each item in a form of its own.
struct Listed<'a, T, F>(&'a [T], F);

impl<'a, T, F, S> Serialize for Listed<'a, T, F>
where
    F: Fn(&'a T) -> S,
    S: Serialize,
{
    fn serialize<Z: Serializer>(&self, serializer: Z) -> Result<Z::Ok, Z::Error> {
        let mut list = serializer.serialize_seq(Some(self.0.len()))?;
        for item in self.0 {
            list.serialize_element(&(self.1)(item))?;
        }
        list.end()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::fake;
    use serde_json::{Value, json};

    fn ledger(top: u8) -> Ledger {
        Ledger::new(Arc::new(fake::Letters), top)
    }

    fn token(id: u8, text: &str) -> TokenEvent {
        let id = u32::from(id);
        TokenEvent { id, text: text.into(), logprob: Some(-0.5), top: vec![(id, -0.5), (98, -1.5)] }
    }

    fn texts(logs: &[Log]) -> Vec<String> {
        logs.iter().map(|log| log.word.text()).collect()
    }

    #[test]
    fn a_chats_form_has_bytes_and_alternatives() {
        let mut ledger = ledger(2);
        let logs = ledger.token(&token(b'a', "a"));
        let content = json!([{
            "token": "a", "logprob": -0.5, "bytes": [97],
            "top_logprobs": [
                {"token": "a", "logprob": -0.5, "bytes": [97]},
                {"token": "b", "logprob": -1.5, "bytes": [98]},
            ],
        }]);
        let wanted = json!({ "content": content, "refusal": null });
        assert_eq!(serde_json::to_value(ChatLogs(&logs)).unwrap(), wanted);
    }

    #[test]
    fn a_texts_form_is_four_lists() {
        let mut ledger = ledger(1);
        let row = |next| Score { next: Some(next), top: vec![(98, -0.25), (99, -3.0)] };
        let logs = ledger.prompt(&[97, 98, 99], &[row(-0.25), row(-3.0), row(0.0)], "abc");
        let wanted = json!({
            "tokens": ["a", "b", "c"],
            "token_logprobs": [null, -0.25, -3.0],
            "top_logprobs": [null, {"b": -0.25}, {"b": -0.25, "c": -3.0}],
            "text_offset": [0, 1, 2],
        });
        assert_eq!(serde_json::to_value(TextLogs(&logs)).unwrap(), wanted);
        let next = ledger.token(&token(b'd', "d"));
        let next = serde_json::to_value(TextLogs(&next)).unwrap();
        assert_eq!(next["text_offset"], json!([3]));
        assert_eq!(next["top_logprobs"], json!([{"d": -0.5}]));
    }

    #[test]
    fn parts_of_a_character_are_shown_as_bytes_and_begin_where_it_does() {
        let mut ledger = ledger(0);
        assert!(ledger.token(&token(0xc3, "")).is_empty(), "half a character is not shown yet");
        let mut logs = ledger.token(&token(0xa9, "é"));
        logs.extend(ledger.token(&token(b'x', "x")));
        let value = serde_json::to_value(TextLogs(&logs)).unwrap();
        assert_eq!(value["tokens"], json!(["bytes:\\xc3", "bytes:\\xa9", "x"]));
        assert_eq!(value["text_offset"], json!([0, 1, 1]));
        assert_eq!(value["top_logprobs"][0], json!({"bytes:\\xc3": -0.5}));
    }

    #[test]
    fn what_a_stop_text_swallows_has_no_log() {
        let mut ledger = ledger(0);
        assert_eq!(texts(&ledger.token(&token(b'a', "a"))), ["a"]);
        assert!(ledger.token(&token(b'E', "")).is_empty(), "it may become END");
        assert_eq!(texts(&ledger.token(&token(b'x', "Ex"))), ["E", "x"]);
        assert!(ledger.token(&token(b'E', "")).is_empty());
        assert!(ledger.token(&token(b'N', "")).is_empty());
        assert!(ledger.finish("").is_empty());
    }

    #[test]
    fn what_was_held_back_for_nothing_comes_at_the_end() {
        let mut ledger = ledger(0);
        assert!(ledger.token(&token(b'E', "")).is_empty());
        assert_eq!(texts(&ledger.finish("E")), ["E"]);
        let mut ledger = self::ledger(0);
        assert_eq!(texts(&ledger.token(&token(0, ""))), ["<|end|>"], "it has no text to wait for");
    }

    #[test]
    fn control_tokens_count_where_they_are_written() {
        let rows = vec![Score { next: Some(-1.0), top: vec![] }; 3];
        let offsets = |text: &str, ids: &[u32]| -> Value {
            let logs = ledger(0).prompt(ids, &rows, text);
            serde_json::to_value(TextLogs(&logs)).unwrap()["text_offset"].take()
        };
        assert_eq!(offsets("ab", &[0, 97, 98]), json!([0, 0, 1]));
        assert_eq!(offsets("<|end|>b", &[0, 98]), json!([0, 7]));
    }

    #[test]
    fn there_is_no_infinity_in_json() {
        let mut ledger = ledger(1);
        let mut token = token(b'a', "a");
        token.logprob = Some(f32::NEG_INFINITY);
        token.top = vec![(98, f32::NAN)];
        let logs = serde_json::to_value(ChatLogs(&ledger.token(&token))).unwrap();
        assert_eq!(logs["content"][0]["logprob"], json!(-9999.0));
        assert_eq!(logs["content"][0]["top_logprobs"][0]["logprob"], json!(-9999.0));
    }
}
