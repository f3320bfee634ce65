//! What our own command line asks of a running node: an answer as lines of JSON, scores, and the
//! node's state.

use std::convert::Infallible;

use axum::Json;
use axum::body::{Body, Bytes};
use axum::extract::{Request, State};
use axum::http::{HeaderValue, header};
use axum::response::{IntoResponse, Response};
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use super::control::{Route, RunEvent, RunRequest, ScoreReply, ScoreRequest, ScoredPosition};
use super::error::ApiError;
use super::failures::WireFailure;
use super::reading::{Reading, begin};
use super::{Api, body_of, sampling};
use crate::engine::{Event, Question, SharedEngine};

/// `POST /taimatsu/v1/run`. The engine's failures are events; only a request that cannot be read
/// is a status of its own.
pub(super) async fn run(State(api): State<Api>, request: Request) -> Result<Response, ApiError> {
    let request: RunRequest = read(request).await?;
    let question = request.question(api.draw).ok_or_else(|| {
        ApiError::invalid("prompt", "give one of `prompt`, `messages` and `prompt_ids`")
    })?;
    sampling::check(&question.sampling)?;
    let run = Run::Asking(api.engine, Box::new(question));
    let lines = futures::stream::unfold(run, |run| async move {
        let (event, run) = run.next().await?;
        Some((Ok::<_, Infallible>(line(event)), run))
    });
    let mut reply = Response::new(Body::from_stream(lines));
    let kind = HeaderValue::from_static("application/x-ndjson");
    reply.headers_mut().insert(header::CONTENT_TYPE, kind);
    Ok(reply)
}

/// `POST /taimatsu/v1/score`.
pub(super) async fn score(State(api): State<Api>, request: Request) -> Result<Response, ApiError> {
    let ScoreRequest { model, ids, top, route } = read(request).await?;
    let scored = api.engine.score(model, ids, top.into(), Route::wish(route)).await;
    let scores = scored.map_err(|error| {
        let whole = json!(WireFailure::from(error.clone()));
        ApiError::from(error).with("engine", whole)
    })?;
    let positions = scores.into_iter().map(|top| ScoredPosition { top }).collect();
    Ok(Json(ScoreReply { positions }).into_response())
}

/// `GET /taimatsu/v1/status`.
pub(super) async fn status(State(api): State<Api>) -> Json<Value> {
    Json(api.engine.status().await)
}

/// An answer on its way to the command line. Dropping it cancels the answer.
enum Run {
    Asking(SharedEngine, Box<Question>),
    Running(Reading),
    Done,
}

impl Run {
    /// The next event, and what is left; none after the end.
    async fn next(self) -> Option<(Event, Self)> {
        match self {
            Self::Done => None,
            Self::Asking(engine, question) => Some(match begin(&engine, *question).await {
                Ok((started, reading)) => (Event::Started(started), Self::Running(reading)),
                Err(error) => (Event::Failed(error), Self::Done),
            }),
            Self::Running(mut reading) => {
                let event = reading.next().await;
                let last = matches!(event, Event::Finished(_) | Event::Failed(_));
                Some((event, if last { Self::Done } else { Self::Running(reading) }))
            }
        }
    }
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
