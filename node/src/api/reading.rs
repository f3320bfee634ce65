//! Reading an answer, and telling its engine how far the reader is.

use futures::future::BoxFuture;

use crate::engine::{Answer, EngineError, Event, Question, SharedEngine, Started};

/// An answer being read. Dropping it cancels the answer.
pub(super) struct Reading {
    answer: Answer,
    /// Tokens given out so far.
    taken: u32,
}

impl Reading {
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

/// An answer of which the first event after its start is here, so that it is known not to have
/// failed at once.
pub(super) struct Opened {
    /// Its beginning.
    pub(super) started: Started,
    /// A token or the end; never a failure.
    pub(super) first: Event,
    /// The rest.
    pub(super) reading: Reading,
}

/// An answer that is being opened.
pub(super) type Opening = BoxFuture<'static, Result<Opened, EngineError>>;

/// Asks, and waits for the first token: whatever goes wrong before it can still be an HTTP status.
pub(super) fn open(engine: SharedEngine, question: Question) -> Opening {
    Box::pin(async move {
        let (started, mut reading) = begin(&engine, question).await?;
        match reading.next().await {
            Event::Failed(error) => Err(error),
            first => Ok(Opened { started, first, reading }),
        }
    })
}

/// Asks, and waits for the beginning only.
pub(super) async fn begin(
    engine: &SharedEngine,
    question: Question,
) -> Result<(Started, Reading), EngineError> {
    let answer = engine.ask(question).await?;
    let mut reading = Reading { answer, taken: 0 };
    match reading.next().await {
        Event::Started(started) => Ok((started, reading)),
        Event::Failed(error) => Err(error),
        Event::Token(_) | Event::Finished(_) => {
            Err(EngineError::Internal("an answer came without a beginning".into()))
        }
    }
}

/// An engine that drops its end of the channel has a bug; its answer must not look complete.
pub(super) fn broken_off() -> EngineError {
    EngineError::Internal("the answer broke off without a reason".into())
}
