//! One choice of a reply as it grows: its text and its log probabilities, piece by piece.

use std::sync::Arc;

use super::logprobs::{Ledger, Log};
use crate::engine::{Event, Finished, Score, Started, TokenEvent, Vocabulary};

/// See the module's page.
#[derive(Default)]
pub(super) struct Choice {
    /// Its beginning; the latest of its routes.
    pub(super) started: Started,
    /// The ids of the answer.
    pub(super) tokens: Vec<u32>,
    ledger: Option<Ledger>,
    echo: Option<Arc<Echo>>,
}

/// A prompt that is part of its answers.
#[derive(Debug)]
pub(super) struct Echo {
    /// Its text.
    pub(super) text: String,
    /// Its ids and their scores, where log probabilities are wanted.
    pub(super) scored: Option<(Vec<u32>, Vec<Score>)>,
}

/// More of a choice.
#[derive(Debug, Default)]
pub(super) struct Piece {
    /// Text that is final.
    pub(super) text: String,
    /// The tokens in it, where they are wanted.
    pub(super) logs: Vec<Log>,
}

impl Choice {
    /// A choice of which nothing is there yet. With `logs`: a model's tokens, and how many
    /// alternatives are wanted for each.
    pub(super) fn new(logs: Option<(Arc<dyn Vocabulary>, u8)>, echo: Option<Arc<Echo>>) -> Self {
        let ledger = logs.map(|(words, top)| Ledger::new(words, top));
        Self { ledger, echo, ..Self::default() }
    }

    /// Takes in what changes nothing for the reader; other events are given back.
    pub(super) fn settle(&mut self, event: Event) -> Option<Event> {
        match event {
            Event::Started(started) => self.started = started,
            Event::Rerouted(route) => self.started.route = route,
            other => return Some(other),
        }
        None
    }

    /// What comes before the first token; nothing the second time.
    pub(super) fn echo(&mut self) -> Option<Piece> {
        let echo = self.echo.take()?;
        let logs = match (&mut self.ledger, &echo.scored) {
            (Some(ledger), Some((ids, rows))) => ledger.prompt(ids, rows, &echo.text),
            _ => Vec::new(),
        };
        Some(Piece { text: echo.text.clone(), logs })
    }

    /// The next token.
    pub(super) fn token(&mut self, token: TokenEvent) -> Piece {
        self.tokens.push(token.id);
        let logs = self.ledger.as_mut().map(|ledger| ledger.token(&token));
        Piece { text: token.text, logs: logs.unwrap_or_default() }
    }

    /// The end.
    pub(super) fn finish(&mut self, finished: &mut Finished) -> Piece {
        let text = std::mem::take(&mut finished.text);
        let logs = self.ledger.as_mut().map(|ledger| ledger.finish(&text));
        Piece { text, logs: logs.unwrap_or_default() }
    }

    /// Whether log probabilities are wanted.
    pub(super) const fn has_logs(&self) -> bool {
        self.ledger.is_some()
    }
}

impl Piece {
    /// Nothing to say.
    pub(super) fn is_empty(&self) -> bool {
        self.text.is_empty() && self.logs.is_empty()
    }

    /// Puts another behind it.
    pub(super) fn push(&mut self, other: Self) {
        self.text.push_str(&other.text);
        self.logs.extend(other.logs);
    }
}
