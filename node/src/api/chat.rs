//! `POST /v1/chat/completions`.

use std::time::Duration;

use axum::Json;
use axum::extract::{Request, State};
use axum::response::{IntoResponse, Response};
use serde_json::Value;

use super::chat_request::ChatRequest;
use super::error::ApiError;
use super::reading::{self, Opened};
use super::replies::{Completion, Head, Label};
use super::sse::{ChatStream, Wishes};
use super::{Api, body_of, unix_now};
use crate::engine::Event;

/// How long a streamed answer may wait for its first token before its status is sent. Until then a
/// failure is an honest HTTP status; after it, clients and proxies would take the silence for
/// death.
const COMMIT: Duration = Duration::from_secs(10);

/// Answers a chat request, whole or as events.
pub(super) async fn completions(
    State(api): State<Api>,
    request: Request,
) -> Result<Response, ApiError> {
    let body = body_of(request).await?;
    let request = ChatRequest::parse(&body, api.draw)?;
    if request.question.model.is_empty() {
        let models = api.engine.models().await;
        let names: Vec<String> = models.into_iter().map(|model| model.name).take(8).collect();
        return Err(ApiError::unknown_model("", &names));
    }
    let head = Head { id: format!("chatcmpl-{:016x}", (api.draw)()), created: unix_now() };
    let mut opening = reading::open(api.engine, request.question);
    if !request.stream {
        let opened = opening.await?;
        return Ok(whole(opened, &head, request.label).await?.into_response());
    }
    let wishes = Wishes { usage: request.include_usage, label: request.label };
    let stream = match tokio::time::timeout(COMMIT, opening.as_mut()).await {
        Ok(opened) => ChatStream::opened(head, wishes, opened?),
        Err(_) => ChatStream::opening(head, wishes, opening),
    };
    Ok(stream.into_response())
}

/// Reads an answer to its end. Nothing is sent before, so that a failure is still a status.
async fn whole(opened: Opened, head: &Head, label: bool) -> Result<Json<Value>, ApiError> {
    let Opened { started, first, mut reading } = opened;
    let (mut text, mut tokens) = (String::new(), Vec::new());
    let mut event = first;
    let finished = loop {
        match event {
            Event::Token(token) => {
                text.push_str(&token.text);
                tokens.push(token.id);
            }
            Event::Finished(finished) => break finished,
            Event::Failed(error) => return Err(error.into()),
            Event::Started(_) => return Err(ApiError::internal("an answer began twice")),
        }
        event = reading.next().await;
    };
    text.push_str(&finished.text);
    let label = label.then(|| Label::new(&started, &tokens, &finished.report));
    let completion = Completion::new(head, &started, &text, &finished, label);
    let value = serde_json::to_value(completion).map_err(|e| ApiError::internal(e.to_string()))?;
    Ok(Json(value))
}
