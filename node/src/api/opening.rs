//! The beginning of a reply: whatever goes wrong here can still be an HTTP status.

use std::sync::Arc;

use futures::future::BoxFuture;
use futures::{FutureExt, StreamExt, TryStreamExt};
use tokio::sync::watch;

use super::asking::Asking;
use super::choice::{Choice, Echo};
use super::logprobs::text_of;
use super::order::Order;
use super::reading;
use crate::engine::{EngineError, Event, Prompt, Route, Scoring, SharedEngine, Vocabulary};

/// Prompts that are scored at a time, for one request.
const SCORED_AT_A_TIME: usize = 4;

/// Choices of which one has said something, so that they are known not to have failed at once.
pub(super) struct Opened {
    /// All of them.
    pub(super) choices: Vec<Choice>,
    /// Who spoke first, and what: a token or an end, never a failure.
    pub(super) first: (usize, Event),
    /// The rest.
    pub(super) asking: Asking,
}

/// A reply that is being opened. Dropping it cancels everything.
pub(super) struct Opening {
    opened: BoxFuture<'static, Result<Opened, EngineError>>,
    route: watch::Receiver<Option<Route>>,
}

impl Opening {
    /// Asks.
    pub(super) fn begin(engine: SharedEngine, order: Order) -> Self {
        let (told, route) = watch::channel(None);
        let opened = Box::pin(async move { open(engine, &order, &told).await });
        Self { opened, route }
    }

    /// Waits for the first token. May be dropped and called again, until it has ended.
    pub(super) async fn opened(&mut self) -> Result<Opened, EngineError> {
        self.opened.as_mut().await
    }

    /// Who computes, as far as that is known.
    pub(super) fn route(&self) -> Option<Route> {
        self.route.borrow().clone()
    }
}

async fn open(
    engine: SharedEngine,
    order: &Order,
    told: &watch::Sender<Option<Route>>,
) -> Result<Opened, EngineError> {
    let logs = match order.logprobs {
        Some(top) => Some((engine.vocabulary(order.model.clone()).await?, top)),
        None => None,
    };
    let echoes = if order.echo { echoes(&engine, order).await? } else { Vec::new() };
    let choice = |number| {
        let echo = echoes.get(order.prompt_of(number)).map(|(echo, _)| echo.clone());
        Choice::new(logs.clone(), echo)
    };
    let mut choices: Vec<Choice> = (0..order.choices()).map(choice).collect();
    let mut asking = Asking::new(engine, order.questions());
    while let Some((number, mut event)) = asking.next().await {
        if let (Event::Started(started), Some(0)) = (&mut event, order.max_tokens) {
            // Nothing is computed but the prompt's scores, if those.
            let scored = echoes.get(order.prompt_of(number));
            started.route = scored.map_or_else(Route::default, |(_, route)| route.clone());
        }
        match choices[number].settle(event) {
            None => {
                told.send_replace(Some(choices[number].started.route.clone()));
            }
            Some(Event::Failed(error)) => return Err(error),
            Some(event) => return Ok(Opened { choices, first: (number, event), asking }),
        }
    }
    Err(EngineError::Internal("there was nothing to answer".into()))
}

/// The prompts as parts of their answers, and who computed their scores.
async fn echoes(
    engine: &SharedEngine,
    order: &Order,
) -> Result<Vec<(Arc<Echo>, Route)>, EngineError> {
    let words = engine.vocabulary(order.model.clone()).await?;
    let echoes: Vec<BoxFuture<'_, _>> =
        order.prompts.iter().map(|prompt| echo(engine, order, prompt, &*words).boxed()).collect();
    futures::stream::iter(echoes).buffered(SCORED_AT_A_TIME).try_collect().await
}

async fn echo(
    engine: &SharedEngine,
    order: &Order,
    prompt: &Prompt,
    words: &dyn Vocabulary,
) -> Result<(Arc<Echo>, Route), EngineError> {
    let text = match prompt {
        Prompt::Raw(text) => text.clone(),
        Prompt::Ids(ids) => text_of(words, ids),
        Prompt::Chat(_) => String::new(),
    };
    let Some(top) = order.logprobs else {
        return Ok((Arc::new(Echo { text, scored: None }), Route::default()));
    };
    let ids = match prompt {
        Prompt::Ids(ids) => ids.clone(),
        other => {
            let question = order.of_no_tokens(other.clone());
            reading::begin(engine, question).await?.0.prompt_tokens
        }
    };
    // A scoring session gives one continuation at least.
    let scoring = Scoring {
        model: order.model.clone(),
        ids: ids.clone(),
        top: usize::from(top.max(1)),
        route: order.manner.route,
        privacy: order.manner.privacy,
    };
    let scores = engine.score(scoring).await?;
    let echo = Echo { text, scored: Some((ids, scores.rows)) };
    Ok((Arc::new(echo), scores.route))
}
