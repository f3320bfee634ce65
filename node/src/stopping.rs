//! Stopping in two steps: first no new questions are taken, then those under way are ended with a
//! word, so that nobody waits for an answer that does not come.

use std::sync::Arc;
use std::time::Duration;

use futures::FutureExt;
use futures::future::BoxFuture;
use serde_json::Value;
use tokio::sync::{mpsc, watch};

use crate::engine::{
    Answer, EVENTS, Engine, EngineError, Event, ModelState, Question, Scores, Scoring, Vocabulary,
};

/// How long the last word of an answer waits for a reader that is slow.
const LAST_WORD: Duration = Duration::from_secs(1);

/// How far a node's end is. Cloned freely.
#[derive(Debug, Clone)]
pub(crate) struct Gate(watch::Sender<State>);

#[derive(Debug, Clone, Copy, Default)]
struct State {
    phase: Phase,
    /// Questions under way.
    running: usize,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord)]
enum Phase {
    #[default]
    Open,
    /// Nothing new is taken.
    Draining,
    /// What is under way is ended.
    Over,
}

impl Gate {
    /// A gate that is open.
    pub(crate) fn open() -> Self {
        Self(watch::Sender::default())
    }

    /// Takes nothing new from now on.
    pub(crate) fn drain(&self) {
        self.0.send_modify(|state| state.phase = state.phase.max(Phase::Draining));
    }

    /// Ends what is under way.
    pub(crate) fn end(&self) {
        self.0.send_modify(|state| state.phase = Phase::Over);
    }

    /// Waits until nothing is under way.
    pub(crate) async fn idle(&self) {
        // It cannot fail: the sender is here.
        let _ = self.0.subscribe().wait_for(|state| state.running == 0).await;
    }

    async fn over(&self) {
        let _ = self.0.subscribe().wait_for(|state| state.phase == Phase::Over).await;
    }

    /// Counts a question in.
    fn enter(&self) -> Result<Pass, EngineError> {
        let taken = self.0.send_if_modified(|state| {
            let open = state.phase == Phase::Open;
            state.running += usize::from(open);
            open
        });
        if taken { Ok(Pass(self.clone())) } else { Err(EngineError::Stopping) }
    }
}

/// A question under way; dropping it counts it out.
struct Pass(Gate);

impl Drop for Pass {
    fn drop(&mut self) {
        self.0.0.send_modify(|state| state.running -= 1);
    }
}

/// An engine behind a gate.
pub(crate) struct Gated<E> {
    pub(crate) engine: E,
    pub(crate) gate: Gate,
}

impl<E: Engine> Engine for Gated<E> {
    fn ask(&self, question: Question) -> BoxFuture<'_, Result<Answer, EngineError>> {
        async move {
            let pass = self.gate.enter()?;
            let Answer { events, consumed } = tokio::select! {
                answer = self.engine.ask(question) => answer?,
                () = self.gate.over() => return Err(EngineError::Stopping),
            };
            let (sender, receiver) = mpsc::channel(EVENTS);
            tokio::spawn(pass_on(events, sender, pass));
            Ok(Answer { events: receiver, consumed })
        }
        .boxed()
    }

    fn score(&self, scoring: Scoring) -> BoxFuture<'_, Result<Scores, EngineError>> {
        async move {
            let _pass = self.gate.enter()?;
            tokio::select! {
                scores = self.engine.score(scoring) => scores,
                () = self.gate.over() => Err(EngineError::Stopping),
            }
        }
        .boxed()
    }

    fn vocabulary(&self, model: String) -> BoxFuture<'_, Result<Arc<dyn Vocabulary>, EngineError>> {
        self.engine.vocabulary(model)
    }

    fn models(&self) -> BoxFuture<'_, Vec<ModelState>> {
        self.engine.models()
    }

    fn reputation(&self, peer: Option<String>) -> BoxFuture<'_, Value> {
        self.engine.reputation(peer)
    }

    fn receipts(&self, id: Option<String>) -> BoxFuture<'_, Option<Value>> {
        self.engine.receipts(id)
    }

    fn status(&self) -> BoxFuture<'_, Value> {
        self.engine.status()
    }

    fn map(&self, model: String) -> BoxFuture<'_, Result<Value, EngineError>> {
        self.engine.map(model)
    }

    fn try_dht(&self) -> BoxFuture<'_, Value> {
        self.engine.try_dht()
    }
}

/// Passes an answer's events on; the last is that the node stops, if it does before.
async fn pass_on(mut events: mpsc::Receiver<Event>, to: mpsc::Sender<Event>, pass: Pass) {
    let over = pass.0.over();
    tokio::pin!(over);
    loop {
        let event = tokio::select! {
            biased;
            () = &mut over => break,
            () = to.closed() => return,
            event = events.recv() => event,
        };
        let Some(event) = event else { return };
        let sent = tokio::select! {
            biased;
            sent = to.send(event) => sent,
            () = &mut over => break,
        };
        if sent.is_err() {
            return;
        }
    }
    drop(events);
    let last = to.send(Event::Failed(EngineError::Stopping));
    let _ = tokio::time::timeout(LAST_WORD, last).await;
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::fake::{self, Fake};
    use crate::engine::{Privacy, Prompt, RouteWish};
    use taimatsu_protocol::Sampling;

    fn question() -> Question {
        Question {
            id: None,
            model: "m".into(),
            prompt: Prompt::Ids(vec![1]),
            sampling: Sampling::greedy(),
            max_tokens: None,
            stop: vec![],
            ignore_eos: false,
            logprobs: None,
            route: RouteWish::Any,
            privacy: Privacy::Anyone,
        }
    }

    #[tokio::test]
    async fn an_answer_under_way_goes_on_and_is_ended_with_a_word() {
        let (fake, hand) = Fake::in_hand();
        let gated = Gated { engine: fake, gate: Gate::open() };
        let mut answer = gated.ask(question()).await.unwrap();
        gated.gate.drain();
        assert!(matches!(gated.ask(question()).await, Err(EngineError::Stopping)));
        let Question { model, route, privacy, .. } = question();
        let scoring = Scoring { model, ids: vec![1], top: 1, route, privacy };
        let scored = gated.score(scoring).await;
        assert!(matches!(scored, Err(EngineError::Stopping)));
        hand.events.send(fake::token(7, "a")).await.unwrap();
        assert!(matches!(answer.events.recv().await, Some(Event::Token(_))));
        answer.consumed.send(1).unwrap();
        assert_eq!(*hand.consumed.borrow(), 1, "the reader's word comes through");
        gated.gate.end();
        let last = answer.events.recv().await;
        assert!(matches!(last, Some(Event::Failed(EngineError::Stopping))));
        assert!(answer.events.recv().await.is_none());
        hand.events.closed().await;
        gated.gate.idle().await;
    }

    #[tokio::test]
    async fn a_reader_that_goes_cancels_and_is_counted_out() {
        let (fake, hand) = Fake::in_hand();
        let gated = Gated { engine: fake, gate: Gate::open() };
        let answer = gated.ask(question()).await.unwrap();
        drop(answer);
        hand.events.closed().await;
        gated.gate.idle().await;
    }

    #[tokio::test]
    async fn an_answer_that_ends_by_itself_is_whole() {
        let fake = Fake::saying(vec![fake::started(), fake::finished("x", Default::default())]);
        let gated = Gated { engine: fake, gate: Gate::open() };
        let mut answer = gated.ask(question()).await.unwrap();
        gated.gate.idle().await;
        gated.gate.end();
        assert!(matches!(answer.events.recv().await, Some(Event::Started(_))));
        assert!(matches!(answer.events.recv().await, Some(Event::Finished(_))));
        assert!(answer.events.recv().await.is_none());
    }
}
