//! Reading an answer, and telling its engine how far the reader is.

use crate::engine::{Answer, EngineError, Event, Question, SharedEngine, Started};

/// An answer being read. Dropping it cancels the answer.
pub(super) struct Reading {
    answer: Answer,
    /// Tokens given out so far.
    taken: u32,
}

impl Reading {
    /// Reads an answer from its beginning.
    pub(super) const fn new(answer: Answer) -> Self {
        Self { answer, taken: 0 }
    }

    /// What comes next. To ask is to say that everything before is with the client: only then is
    /// the engine told, so that a slow client slows the chain.
    pub(super) async fn next(&mut self) -> Event {
        self.answer.consumed.send_replace(self.taken);
        let event = self.answer.events.recv().await;
        if let Some(Event::Token(_)) = event {
            self.taken = self.taken.saturating_add(1);
        }
        event.unwrap_or_else(|| Event::Failed(broken_off()))
    }
}

/// Asks, and waits for the beginning only.
pub(super) async fn begin(
    engine: &SharedEngine,
    question: Question,
) -> Result<(Started, Reading), EngineError> {
    let mut reading = Reading::new(engine.ask(question).await?);
    match reading.next().await {
        Event::Started(started) => Ok((started, reading)),
        Event::Failed(error) => Err(error),
        Event::Rerouted(_) | Event::Token(_) | Event::Finished(_) => Err(without_beginning()),
    }
}

/// An engine that drops its end of the channel has a bug; its answer must not look complete.
fn broken_off() -> EngineError {
    EngineError::Internal("the answer broke off without a reason".into())
}

/// The same of one whose answer does not begin with its beginning.
pub(super) fn without_beginning() -> EngineError {
    EngineError::Internal("an answer came without a beginning".into())
}
