//! Tokens become text: no character is split, what may begin a stop text is held back, and a
//! stop text is not part of the answer. Text on its way to a terminal steers nothing there.

use std::borrow::Cow;

/// Cuts a growing text at the first stop text.
#[derive(Debug)]
pub(crate) struct StopGate {
    stops: Vec<String>,
    held: String,
    stopped: bool,
}

impl StopGate {
    /// A gate for these stop texts; empty ones are ignored.
    pub(crate) fn new(stops: Vec<String>) -> Self {
        let stops = stops.into_iter().filter(|stop| !stop.is_empty()).collect();
        Self { stops, held: String::new(), stopped: false }
    }

    /// Takes in more text and gives out what is final.
    pub(crate) fn push(&mut self, text: &str) -> String {
        if self.stopped {
            return String::new();
        }
        self.held.push_str(text);
        let found = self.stops.iter().filter_map(|stop| self.held.find(stop.as_str())).min();
        if let Some(at) = found {
            self.stopped = true;
            self.held.truncate(at);
            return std::mem::take(&mut self.held);
        }
        let keep = self.stops.iter().map(|stop| overlap(&self.held, stop)).max().unwrap_or(0);
        let rest = self.held.split_off(self.held.len() - keep);
        std::mem::replace(&mut self.held, rest)
    }

    /// Whether a stop text has come.
    pub(crate) const fn stopped(&self) -> bool {
        self.stopped
    }

    /// The end: what was held back is final now.
    pub(crate) fn finish(&mut self) -> String {
        std::mem::take(&mut self.held)
    }
}

/// The text with its control characters written out (`\u001b`), line ends and tabs aside; so are
/// those that turn the direction of what follows.
pub(crate) fn visible(text: &str) -> Cow<'_, str> {
    if !text.contains(steers) {
        return Cow::Borrowed(text);
    }
    let mut shown = String::with_capacity(text.len() + 16);
    for letter in text.chars() {
        match steers(letter) {
            true => shown.push_str(&format!("\\u{:04x}", u32::from(letter))),
            false => shown.push(letter),
        }
    }
    Cow::Owned(shown)
}

fn steers(letter: char) -> bool {
    match letter {
        '\n' | '\t' => false,
        '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}' => true,
        other => other.is_control(),
    }
}

/// One line of it: what is shown in a row cannot look like another row.
pub(crate) fn row(text: &str) -> String {
    visible(text).split_whitespace().collect::<Vec<_>>().join(" ")
}

/// Bytes at the end of `text` that are a proper beginning of `stop`.
fn overlap(text: &str, stop: &str) -> usize {
    let longest = stop.len().saturating_sub(1).min(text.len());
    let fits = |length: &usize| {
        stop.is_char_boundary(*length) && text.as_bytes().ends_with(&stop.as_bytes()[..*length])
    };
    (1..=longest).rev().find(fits).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_stop_text_is_cut_off_even_across_pieces() {
        let mut gate = StopGate::new(vec!["END".into()]);
        assert_eq!(gate.push("one E"), "one ");
        assert_eq!(gate.push("N"), "");
        assert_eq!(gate.push("Dtwo"), "");
        assert!(gate.stopped());
        assert_eq!(gate.finish(), "");
    }

    #[test]
    fn what_only_looked_like_a_stop_text_comes_later() {
        let mut gate = StopGate::new(vec!["END".into()]);
        assert_eq!(gate.push("EN"), "");
        assert_eq!(gate.push("E"), "EN");
        assert_eq!(gate.finish(), "E");
    }

    #[test]
    fn what_steers_a_terminal_is_shown() {
        assert_eq!(
            visible("a\u{1b}[2J\u{9b}m\r\u{202e}b\u{7f}"),
            "a\\u001b[2J\\u009bm\\u000d\\u202eb\\u007f"
        );
        assert!(matches!(visible("two\nlines\tand 木 é"), Cow::Borrowed(_)));
        let json = serde_json::json!({"a\u{9b}": "\u{7f}\u{202e}\n"});
        let shown = visible(&json.to_string()).into_owned();
        assert_eq!(serde_json::from_str::<serde_json::Value>(&shown).unwrap(), json);
        assert_eq!(row("GPL\n  tiny 1 GB \u{1b}[m"), "GPL tiny 1 GB \\u001b[m");
    }

    proptest! {
        #[test]
        fn the_pieces_are_the_whole_text_up_to_the_first_stop(
            pieces in proptest::collection::vec("[abé]{0,4}", 0..12),
            stops in proptest::collection::vec("[abé]{1,4}", 0..3),
        ) {
            let mut gate = StopGate::new(stops.clone());
            let mut out: String = pieces.iter().map(|piece| gate.push(piece)).collect();
            out.push_str(&gate.finish());
            // Naive: the text grows piece by piece, and is cut when a stop text first stands in it.
            let mut whole = String::new();
            let mut cut = None;
            for piece in &pieces {
                whole.push_str(piece);
                cut = stops.iter().filter_map(|stop| whole.find(stop.as_str())).min();
                if cut.is_some() {
                    break;
                }
            }
            whole.truncate(cut.unwrap_or(whole.len()));
            prop_assert_eq!(out, whole);
            prop_assert_eq!(gate.stopped(), cut.is_some());
        }
    }
}
