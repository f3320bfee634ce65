//! The answers to one request: several choices, read side by side as one sequence of events.

use std::collections::VecDeque;

use futures::StreamExt;
use futures::future::{BoxFuture, FutureExt};
use futures::stream::FuturesUnordered;

use super::reading::{Reading, without_beginning};
use crate::engine::{EngineError, Event, Question, SharedEngine};

/// Choices of one request that are made at a time; the others wait. Each takes a session, and
/// memory for its keys and values, at every host of its route.
const SIDE_BY_SIDE: usize = 4;

/// The choices of a request, under way. Dropping it cancels them all.
///
/// Of each choice come `Started`, then the rest in the engine's order; between choices there is no
/// order.
pub(super) struct Asking {
    engine: SharedEngine,
    waiting: VecDeque<(usize, Question)>,
    running: FuturesUnordered<BoxFuture<'static, Step>>,
    /// The choice of the event that was given out last: it is read on when the next is asked for.
    parked: Option<(usize, Reading)>,
    begun: Vec<bool>,
}

/// What one choice did next; its reading, if there is more to come.
struct Step {
    choice: usize,
    event: Event,
    reading: Option<Reading>,
}

impl Asking {
    /// Asks these questions; a choice's number is its question's place.
    pub(super) fn new(engine: SharedEngine, questions: Vec<Question>) -> Self {
        let begun = vec![false; questions.len()];
        let waiting = questions.into_iter().enumerate().collect();
        Self { engine, waiting, running: FuturesUnordered::new(), parked: None, begun }
    }

    /// What happens next, and to which choice; none when all have ended. To ask is to say that
    /// everything before is with the client. May be dropped and called again.
    pub(super) async fn next(&mut self) -> Option<(usize, Event)> {
        if let Some((choice, reading)) = self.parked.take() {
            self.running.push(read_on(choice, reading));
        }
        while self.running.len() < SIDE_BY_SIDE {
            let Some((choice, question)) = self.waiting.pop_front() else { break };
            self.running.push(ask(choice, self.engine.clone(), question));
        }
        let Step { choice, event, reading } = self.running.next().await?;
        let event = self.in_order(choice, event);
        if !matches!(event, Event::Finished(_) | Event::Failed(_)) {
            self.parked = reading.map(|reading| (choice, reading));
        }
        Some((choice, event))
    }

    /// The event, or that it cannot be: an answer begins once, and before all else.
    fn in_order(&mut self, choice: usize, event: Event) -> Event {
        let begun = std::mem::replace(&mut self.begun[choice], true);
        match event {
            Event::Started(_) if begun => {
                Event::Failed(EngineError::Internal("an answer began twice".into()))
            }
            Event::Started(_) | Event::Failed(_) => event,
            _ if begun => event,
            _ => Event::Failed(without_beginning()),
        }
    }
}

fn ask(choice: usize, engine: SharedEngine, question: Question) -> BoxFuture<'static, Step> {
    async move {
        match engine.ask(question).await {
            Ok(answer) => read_on(choice, Reading::new(answer)).await,
            Err(error) => Step { choice, event: Event::Failed(error), reading: None },
        }
    }
    .boxed()
}

fn read_on(choice: usize, mut reading: Reading) -> BoxFuture<'static, Step> {
    async move {
        let event = reading.next().await;
        Step { choice, event, reading: Some(reading) }
    }
    .boxed()
}
