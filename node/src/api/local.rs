//! What our own command line asks of a running node: an answer as lines of JSON, scores, and the
//! node's state.

use std::collections::BTreeMap;
use std::convert::Infallible;

use axum::Json;
use axum::body::{Body, Bytes};
use axum::extract::{Query, Request, State};
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use super::asking::Asking;
use super::control::{RunEvent, RunRequest};
use super::error::ApiError;
use super::failures::WireFailure;
use super::scoring::{ScoreReply, ScoreRequest};
use super::{Api, body_of, sampling};
use crate::engine::{EngineError, Event};

/// `POST /taimatsu/v1/run`. The engine's failures are events; only a request that cannot be read
/// is a status of its own.
pub(super) async fn run(State(api): State<Api>, request: Request) -> Result<Response, ApiError> {
    let request: RunRequest = read(request).await?;
    let question = request.question(api.draw).ok_or_else(|| {
        ApiError::invalid("prompt", "give one of `prompt`, `messages` and `prompt_ids`")
    })?;
    sampling::check(&question.sampling)?;
    let asking = Asking::new(api.engine, vec![question]);
    let lines = futures::stream::unfold(asking, |mut asking| async move {
        let (_, event) = asking.next().await?;
        Some((Ok::<_, Infallible>(line(event)), asking))
    });
    let mut reply = Response::new(Body::from_stream(lines));
    let kind = HeaderValue::from_static("application/x-ndjson");
    reply.headers_mut().insert(header::CONTENT_TYPE, kind);
    Ok(reply)
}

/// `POST /taimatsu/v1/score`.
pub(super) async fn score(State(api): State<Api>, request: Request) -> Result<Response, ApiError> {
    let request: ScoreRequest = read(request).await?;
    let scored = api.engine.score(request.into()).await;
    let scores = scored.map_err(whole)?;
    Ok(Json(ScoreReply::from(scores)).into_response())
}

/// `GET /taimatsu/v1/status`.
pub(super) async fn status(State(api): State<Api>) -> Json<Value> {
    Json(api.engine.status().await)
}

/// `GET /taimatsu/v1/map?model=`: who hosts which blocks of a model.
pub(super) async fn map(
    State(api): State<Api>,
    Query(asked): Query<BTreeMap<String, String>>,
) -> Result<Json<Value>, ApiError> {
    let model = asked.get("model").cloned().unwrap_or_default();
    let mapped = api.engine.map(model).await;
    mapped.map(Json).map_err(whole)
}

/// `POST /taimatsu/v1/try-dht`.
pub(super) async fn try_dht(State(api): State<Api>) -> Json<Value> {
    Json(api.engine.try_dht().await)
}

/// `GET /taimatsu/v1/reputation`, of all or with `?peer=` of one.
pub(super) async fn reputation(
    State(api): State<Api>,
    Query(asked): Query<BTreeMap<String, String>>,
) -> Json<Value> {
    Json(api.engine.reputation(asked.get("peer").cloned()).await)
}

/// `GET /taimatsu/v1/receipts`: the last answers, or with `?id=` all of what is called so.
pub(super) async fn receipts(
    State(api): State<Api>,
    Query(asked): Query<BTreeMap<String, String>>,
) -> Result<Json<Value>, ApiError> {
    let id = asked.get("id").cloned();
    let found = api.engine.receipts(id.clone()).await;
    found.map(Json).ok_or_else(|| {
        let id: String = id.unwrap_or_default().chars().take(80).collect();
        ApiError::request(
            StatusCode::NOT_FOUND,
            "unknown_answer",
            format!("no answer `{id}` is kept here"),
        )
    })
}

/// A failure with all that the engine says of it.
fn whole(error: EngineError) -> ApiError {
    let whole = json!(WireFailure::from(error.clone()));
    ApiError::from(error).with("engine", whole)
}

fn line(event: Event) -> Bytes {
    let mut line = serde_json::to_vec(&RunEvent::from(event)).expect("our own types are JSON");
    line.push(b'\n');
    line.into()
}

/// A body of ours: what is not JSON and what is JSON of another form are told apart.
async fn read<T: DeserializeOwned>(request: Request) -> Result<T, ApiError> {
    let body = body_of(request).await?;
    serde_json::from_slice(&body).map_err(|error| {
        if error.is_data() {
            ApiError::wrong_body(error.to_string())
        } else {
            ApiError::invalid_json(&error)
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::access::Access;
    use crate::api::failures::ErrorReply;
    use crate::api::fake::{self, Fake};
    use crate::engine::{EngineError, Prompt, RouteWish};
    use axum::http::StatusCode;
    use futures::StreamExt;
    use std::sync::Arc;

    async fn lines(fake: Fake, body: Value) -> Vec<RunEvent> {
        let request = fake::request("/taimatsu/v1/run", Some(body));
        let (status, headers, body) = fake::reply(fake.router(), request).await;
        assert_eq!(status, StatusCode::OK);
        assert_eq!(headers["content-type"], "application/x-ndjson");
        let text = std::str::from_utf8(&body).unwrap();
        assert!(text.ends_with('\n'));
        text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    }

    fn ask() -> Value {
        json!({"model": "m", "prompt": "hi"})
    }

    fn said() -> Vec<Event> {
        let (a, b) = (fake::token(1, "a"), fake::token(2, "é\n"));
        vec![fake::started(), a, b, fake::finished("!", fake::two_hops())]
    }

    #[tokio::test]
    async fn a_run_is_the_engines_events_line_by_line() {
        let heard = lines(Fake::saying(said()), ask()).await;
        let heard: Vec<Event> = heard.into_iter().map(Event::from).collect();
        assert_eq!(format!("{heard:?}"), format!("{:?}", said()));
    }

    #[tokio::test]
    async fn the_question_is_the_requests() {
        let fake = Arc::new(Fake::saying(said()));
        let router = crate::api::router(fake.clone(), || 5, Access::everybody());
        let body = json!({"model": "m", "prompt": "Once", "raw": true, "route": "chain"});
        fake::reply(router, fake::request("/taimatsu/v1/run", Some(body))).await;
        let asked = fake.asked.lock().unwrap();
        assert!(matches!(&asked[0].prompt, Prompt::Raw(text) if text == "Once"));
        assert_eq!((asked[0].route, asked[0].sampling.seed), (RouteWish::Chain, 5));
    }

    #[tokio::test]
    async fn every_failure_comes_over_whole_early_and_late() {
        for error in fake::every_error() {
            let wanted = format!("{error:?}");
            let late = vec![fake::started(), fake::token(1, "a"), Event::Failed(error.clone())];
            for fake in [Fake::refusing(error.clone()), Fake::saying(late)] {
                let heard = lines(fake, ask()).await.pop().unwrap();
                let Event::Failed(heard) = Event::from(heard) else { panic!("no failure") };
                assert_eq!(format!("{heard:?}"), wanted);
            }
        }
    }

    #[tokio::test]
    async fn an_engine_that_breaks_off_is_a_failure() {
        let heard = lines(Fake::saying(vec![fake::started()]), ask()).await;
        assert!(matches!(heard.as_slice(), [RunEvent::Started(_), RunEvent::Failed(_)]));
    }

    #[tokio::test]
    async fn tokens_are_told_when_they_are_taken_and_dropping_cancels() {
        let (fake, hand) = Fake::in_hand();
        for event in [fake::started(), fake::token(1, "a"), fake::token(2, "b")] {
            hand.events.send(event).await.unwrap();
        }
        let request = fake::request("/taimatsu/v1/run", Some(ask()));
        let mut body = fake::send(fake.router(), request).await.into_body().into_data_stream();
        for taken in [0, 0, 1] {
            body.next().await.unwrap().unwrap();
            assert_eq!(*hand.consumed.borrow(), taken);
        }
        assert!(!hand.events.is_closed());
        drop(body);
        assert!(hand.events.is_closed());
    }

    #[tokio::test]
    async fn what_cannot_be_read_is_a_usage_error_for_the_command_line() {
        for (path, body, code) in [
            ("run", json!({"model": "m"}), "invalid_value"),
            ("run", json!({"model": "m", "prompt": 4}), "invalid_value"),
            ("run", json!({"model": "m", "prompt": "a", "route": "moon"}), "invalid_value"),
            ("run", json!({"model": "m", "prompt": "a", "top_p": 0.0}), "invalid_value"),
            ("score", json!({"model": "m", "ids": [1], "top": -1}), "invalid_value"),
        ] {
            let request = fake::request(&format!("/taimatsu/v1/{path}"), Some(body.clone()));
            let (status, _, reply) = fake::json_reply(Fake::default().router(), request).await;
            assert_eq!(status, StatusCode::BAD_REQUEST, "{body}");
            assert_eq!(reply["error"]["code"], code, "{body}");
            let heard: ErrorReply = serde_json::from_value(reply).unwrap();
            assert!(matches!(EngineError::from(heard), EngineError::Invalid { .. }));
        }
    }

    #[tokio::test]
    async fn scores_keep_their_bits_and_their_failures() {
        let body = json!({"model": "m", "ids": [4, 5], "top": 2, "route": "whole"});
        let request = || fake::request("/taimatsu/v1/score", Some(body.clone()));
        let (status, _, text) = fake::reply(Fake::default().router(), request()).await;
        assert_eq!(status, StatusCode::OK);
        let top = r#""top":[[0,-0.1],[1,-1.1]]"#;
        let rows = format!(r#"[{{"next":-0.5,{top}}},{{{top}}}]"#);
        assert_eq!(text, format!(r#"{{"positions":{rows},"route":{{"hosts":[]}}}}"#));
        for error in fake::every_error() {
            let fake = Fake::default();
            *fake.scores.lock().unwrap() = Some(Err(error.clone()));
            let (status, _, reply) = fake::json_reply(fake.router(), request()).await;
            assert!(!status.is_success());
            let heard: ErrorReply = serde_json::from_value(reply).unwrap();
            assert_eq!(format!("{:?}", EngineError::from(heard)), format!("{error:?}"));
        }
    }

    #[tokio::test]
    async fn the_status_is_the_engines() {
        let request = fake::request("/taimatsu/v1/status", None);
        let (_, _, body) = fake::json_reply(Fake::default().router(), request).await;
        assert_eq!(body, json!({"peer": "me"}));
    }
}
