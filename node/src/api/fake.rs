//! For the tests of this folder: an engine that does what it is told, and helpers around it.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex};

use axum::Router;
use axum::body::{Body, Bytes, to_bytes};
use axum::http::{HeaderMap, Request, StatusCode};
use axum::response::Response;
use futures::future::BoxFuture;
use serde_json::{Value, json};
use taimatsu_protocol::Span;
use tokio::sync::{mpsc, watch};
use tower::ServiceExt;

use super::access::Access;
use crate::engine::{
    Answer, Engine, EngineError, Event, FinishReason, Finished, HopReport, ModelState, Privacy,
    Question, ReceiptState, Route, RouteHost, RouteReport, Score, Scores, Scoring, Started,
    TokenEvent, Vocabulary,
};

/// An engine that does what it is told.
#[derive(Default)]
pub(crate) struct Fake {
    /// What it says to the next questions.
    answers: Mutex<VecDeque<Result<Answer, EngineError>>>,
    /// What it says about models.
    pub(crate) models: Vec<ModelState>,
    /// What it was asked to score.
    pub(crate) scored: Mutex<Vec<Scoring>>,
    /// What it was asked.
    pub(crate) asked: Mutex<Vec<Question>>,
    /// What it says to the next request for scores.
    pub(crate) scores: Mutex<Option<Result<Scores, EngineError>>>,
}

/// The other end of an answer.
pub(crate) struct Hand {
    /// What is sent here, happens.
    pub(crate) events: mpsc::Sender<Event>,
    /// What the reader has taken.
    pub(crate) consumed: watch::Receiver<u32>,
}

impl Fake {
    /// Refuses.
    pub(crate) fn refusing(error: EngineError) -> Self {
        Self { answers: Mutex::new([Err(error)].into()), ..Self::default() }
    }

    /// Answers with these events, and then drops its end.
    pub(crate) fn saying(events: Vec<Event>) -> Self {
        let (fake, hand) = Self::in_hand();
        for event in events {
            hand.events.try_send(event).unwrap();
        }
        fake
    }

    /// Answers one question after the other so.
    pub(crate) fn saying_each(answers: Vec<Vec<Event>>) -> Self {
        let answers = answers.into_iter().map(|events| {
            let fake = Self::saying(events);
            fake.answers.into_inner().unwrap().pop_front().unwrap()
        });
        Self { answers: Mutex::new(answers.collect()), ..Self::default() }
    }

    /// Answers by the test's hand.
    pub(crate) fn in_hand() -> (Self, Hand) {
        let (events, receiver) = mpsc::channel(128);
        let (consumed, told) = watch::channel(0);
        let answer = Answer { events: receiver, consumed };
        let fake = Self { answers: Mutex::new([Ok(answer)].into()), ..Self::default() };
        (fake, Hand { events, consumed: told })
    }

    /// Knows these models, ready or not.
    pub(crate) fn knowing(models: &[(&str, bool)]) -> Self {
        let state = |(name, ready): &(&str, bool)| ModelState {
            name: (*name).into(),
            id: Some(format!("blake3:{name}")),
            blocks: Some(30),
            ready: *ready,
            missing: if *ready { vec![] } else { vec![[0, 9], [20, 29]] },
            hosts: 1,
        };
        Self { models: models.iter().map(state).collect(), ..Self::default() }
    }

    /// The router over it.
    pub(crate) fn router(self) -> Router {
        crate::api::router(Arc::new(self), seven, Access::everybody())
    }
}

impl Engine for Fake {
    fn ask(&self, question: Question) -> BoxFuture<'_, Result<Answer, EngineError>> {
        self.asked.lock().unwrap().push(question);
        let answer = self.answers.lock().unwrap().pop_front();
        Box::pin(async move { answer.expect("the test meant this engine to be asked") })
    }

    fn score(&self, scoring: Scoring) -> BoxFuture<'_, Result<Scores, EngineError>> {
        let (ids, top) = (scoring.ids.clone(), scoring.top);
        self.scored.lock().unwrap().push(scoring);
        let told = self.scores.lock().unwrap().take();
        let row =
            |next| Score { next, top: (0..top).map(|k| (k as u32, -0.1 - k as f32)).collect() };
        let behind = ids.len().saturating_sub(1);
        let rows = (0..ids.len()).map(|at| row((at < behind).then_some(-0.5))).collect();
        let scores = told.unwrap_or_else(|| Ok(Scores { rows, route: Route::default() }));
        Box::pin(async move { scores })
    }

    fn vocabulary(
        &self,
        _model: String,
    ) -> BoxFuture<'_, Result<Arc<dyn Vocabulary>, EngineError>> {
        Box::pin(async { Ok(Arc::new(Letters) as Arc<dyn Vocabulary>) })
    }

    fn models(&self) -> BoxFuture<'_, Vec<ModelState>> {
        Box::pin(async move { self.models.clone() })
    }

    fn reputation(&self, peer: Option<String>) -> BoxFuture<'_, Value> {
        Box::pin(std::future::ready(json!({"peer": peer})))
    }

    fn receipts(&self, id: Option<String>) -> BoxFuture<'_, Option<Value>> {
        Box::pin(std::future::ready(id.filter(|id| id == "ab").map(|id| json!({"id": id}))))
    }

    fn status(&self) -> BoxFuture<'_, Value> {
        Box::pin(async { json!({"peer": "me"}) })
    }

    fn map(&self, model: String) -> BoxFuture<'_, Result<Value, EngineError>> {
        let known = model == "m";
        let map = json!({"model": model});
        Box::pin(async move { if known { Ok(map) } else { Err(EngineError::NoHost { model }) } })
    }

    fn try_dht(&self) -> BoxFuture<'_, Value> {
        Box::pin(async { json!({"announced": false}) })
    }
}

/// Ids are bytes: 97 is `a`. 0 is a control token.
pub(crate) struct Letters;

impl Vocabulary for Letters {
    fn bytes(&self, id: u32) -> &[u8] {
        static BYTES: [u8; 256] = {
            let mut bytes = [0; 256];
            let mut at = 0;
            while at < 256 {
                bytes[at] = at as u8;
                at += 1;
            }
            bytes
        };
        let at = id as usize;
        if (1..256).contains(&at) { &BYTES[at..=at] } else { &[] }
    }

    fn name(&self, id: u32) -> &str {
        if id == 0 { "<|end|>" } else { "" }
    }
}

fn seven() -> u64 {
    7
}

/// The beginning of every fake answer: three prompt tokens.
pub(crate) fn started() -> Event {
    started_on(Route::default())
}

/// The same, computed there.
pub(crate) fn started_on(route: Route) -> Event {
    let (model, fingerprint) = ("smollm2:135m".into(), "fp_1".into());
    Event::Started(Started {
        model,
        fingerprint,
        prompt_tokens: vec![1, 2, 3],
        privacy: Privacy::Trusted,
        route,
    })
}

/// The route of [`two_hops`].
pub(crate) fn two_hosts() -> Route {
    let host = |hop: HopReport| RouteHost { peer: hop.peer, span: hop.span };
    Route { hosts: two_hops().hops.into_iter().map(host).collect() }
}

/// A token.
pub(crate) fn token(id: u32, text: &str) -> Event {
    Event::Token(TokenEvent { id, text: text.into(), logprob: None, top: vec![] })
}

/// The end, after two tokens and an end token.
pub(crate) fn finished(text: &str, report: RouteReport) -> Event {
    let reason = FinishReason::Stop;
    Event::Finished(Finished { reason, text: text.into(), completion_tokens: 3, report })
}

/// A failure.
pub(crate) fn peer_failed() -> EngineError {
    let span = Span::new(10..20, 30).unwrap();
    EngineError::PeerFailed { peer: "12D3peer".into(), span, cause: "connection lost".into() }
}

/// A report of two hosts.
pub(crate) fn two_hops() -> RouteReport {
    let hop = |peer: &str, first, end| HopReport {
        peer: peer.into(),
        span: Span::new(first..end, 30).unwrap(),
        ms_per_token: 2.5,
        direct_frames: 4,
        relayed_frames: 1,
    };
    RouteReport {
        hops: vec![hop("a", 0, 10), hop("b", 10, 30)],
        lost: vec![hop("c", 0, 10)],
        ttft_ms: 12.5,
        tokens_per_second: 40.25,
        forwarded_frames: 1,
        session: Some("ab".into()),
        receipts: ReceiptState::Hold,
    }
}

/// One of each.
pub(crate) fn every_error() -> Vec<EngineError> {
    let span = Span::new(10..20, 30).unwrap();
    vec![
        EngineError::UnknownModel { name: "smol".into(), near: vec!["smollm2:135m".into()] },
        EngineError::Invalid { param: "max_tokens", message: "too many".into() },
        EngineError::ContextOverflow { limit: 8192, asked: 9000, prompt: 8900 },
        EngineError::Uncovered { model: "m".into(), missing: vec![[10, 19], [25, 29]] },
        EngineError::NoHost { model: "m".into() },
        EngineError::NoSuchRoute { model: "m".into(), wish: "chain" },
        EngineError::Private {
            model: "m".into(),
            privacy: Privacy::Trusted,
            of_node: true,
            missing: vec![[0, 9]],
        },
        EngineError::Busy { cause: "no KV".into(), retry_ms: 1500 },
        peer_failed(),
        EngineError::PeerTimeout { peer: "12D3peer".into(), span },
        EngineError::Stopping,
        EngineError::Internal("out of luck".into()),
    ]
}

/// A request with this body; GET where there is none.
pub(crate) fn request(path: &str, body: Option<Value>) -> Request<Body> {
    let request = Request::builder().uri(path);
    match body {
        None => request.body(Body::empty()).unwrap(),
        Some(body) => request.method("POST").body(Body::from(body.to_string())).unwrap(),
    }
}

/// A chat request with these keys beside model and messages.
pub(crate) fn chat(change: Value) -> Request<Body> {
    let mut body = json!({"model": "m", "messages": [{"role": "user", "content": "hi"}]});
    for (key, value) in change.as_object().unwrap() {
        body[key] = value.clone();
    }
    request("/v1/chat/completions", Some(body))
}

/// The reply, its body still to come.
pub(crate) async fn send(router: Router, request: Request<Body>) -> Response {
    router.oneshot(request).await.unwrap()
}

/// The reply, its body read.
pub(crate) async fn reply(
    router: Router,
    request: Request<Body>,
) -> (StatusCode, HeaderMap, Bytes) {
    let (parts, body) = send(router, request).await.into_parts();
    (parts.status, parts.headers, to_bytes(body, 1 << 20).await.unwrap())
}

/// The reply as JSON; every reply has an id.
pub(crate) async fn json_reply(
    router: Router,
    request: Request<Body>,
) -> (StatusCode, HeaderMap, Value) {
    let (status, headers, body) = reply(router, request).await;
    assert!(headers["x-request-id"].to_str().unwrap().starts_with("req_"));
    assert_eq!(headers["content-type"], "application/json");
    (status, headers, serde_json::from_slice(&body).unwrap())
}
