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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::fake::{self, Fake};
    use axum::http::StatusCode;
    use serde_json::json;
    use std::sync::Arc;

    fn said() -> Vec<Event> {
        let (a, b) = (fake::token(11, "Torch"), fake::token(12, ""));
        vec![fake::started(), a, b, fake::finished("é!", fake::two_hops())]
    }

    #[tokio::test]
    async fn a_whole_answer_has_its_text_and_its_usage() {
        let router = Fake::saying(said()).router();
        let (status, _, body) = fake::json_reply(router, fake::chat(json!({}))).await;
        assert_eq!(status, StatusCode::OK);
        assert!(body["id"].as_str().unwrap().starts_with("chatcmpl-"));
        assert_eq!(body["object"], "chat.completion");
        assert!(body["created"].as_u64().unwrap() > 1_600_000_000);
        assert_eq!(body["model"], "smollm2:135m");
        let choice = json!({
            "index": 0, "logprobs": null, "finish_reason": "stop",
            "message": {"role": "assistant", "content": "Torché!", "refusal": null},
        });
        assert_eq!(body["choices"], json!([choice]));
        let usage = json!({
            "prompt_tokens": 3, "completion_tokens": 3, "total_tokens": 6,
            "prompt_tokens_details": {"cached_tokens": 0},
        });
        assert_eq!(body["usage"], usage);
        assert!(body.get("taimatsu").is_none());
    }

    #[tokio::test]
    async fn the_label_comes_where_it_is_asked_for() {
        let router = Fake::saying(said()).router();
        let (_, _, body) = fake::json_reply(router, fake::chat(json!({"taimatsu": true}))).await;
        let label = &body["taimatsu"];
        assert_eq!(label["tokens"], json!([11, 12]));
        assert_eq!(label["prompt_tokens"], json!([1, 2, 3]));
        assert_eq!((&label["route"][0]["peer"], &label["sealed"]), (&json!("a"), &json!(true)));
        assert_eq!(label["route"][1]["blocks"], json!([10, 29]));
    }

    #[tokio::test]
    async fn the_engine_is_asked_what_the_request_says() {
        let fake = Arc::new(Fake::saying(said()));
        let router = crate::api::router(fake.clone(), || 5);
        let change = json!({"max_tokens": 4, "stop": "END", "temperature": 0, "seed": -1});
        fake::json_reply(router, fake::chat(change)).await;
        let asked = fake.asked.lock().unwrap();
        let question = &asked[0];
        assert_eq!((question.model.as_str(), question.max_tokens), ("m", Some(4)));
        assert_eq!((question.sampling.temperature, question.sampling.seed), (0.0, u64::MAX));
        assert_eq!(question.stop, ["END"]);
    }

    #[tokio::test]
    async fn a_failure_at_any_time_is_a_status_where_nothing_was_sent() {
        let failed = || Event::Failed(fake::peer_failed());
        for events in [
            vec![failed()],
            vec![fake::started(), failed()],
            vec![fake::started(), fake::token(1, "a"), failed()],
        ] {
            let router = Fake::saying(events).router();
            let (status, _, body) = fake::json_reply(router, fake::chat(json!({}))).await;
            assert_eq!(status, StatusCode::BAD_GATEWAY);
            assert_eq!(body["error"]["code"], "peer_failed");
        }
    }

    #[tokio::test]
    async fn an_answer_without_an_end_is_never_whole() {
        for events in [
            vec![],
            vec![fake::started()],
            vec![fake::started(), fake::token(1, "a")],
            vec![fake::token(1, "a")],
            vec![fake::started(), fake::started()],
        ] {
            let text = format!("{events:?}");
            let router = Fake::saying(events).router();
            let (status, _, body) = fake::json_reply(router, fake::chat(json!({}))).await;
            assert_eq!(status, StatusCode::INTERNAL_SERVER_ERROR, "{text}: {body}");
        }
    }

    #[tokio::test]
    async fn wrong_requests_never_reach_the_engine() {
        for (change, code) in [
            (json!({"messages": []}), "invalid_value"),
            (json!({"temperature": 3}), "invalid_value"),
            (json!({"n": 2}), "unsupported_parameter"),
        ] {
            // This engine panics when it is asked.
            let router = Fake::default().router();
            let (status, _, body) = fake::json_reply(router, fake::chat(change)).await;
            assert_eq!(status, StatusCode::BAD_REQUEST);
            assert_eq!(body["error"]["code"], code);
        }
    }

    #[tokio::test]
    async fn a_model_without_a_name_is_a_404_that_lists_models() {
        let router = Fake::knowing(&[("smollm2:135m", true)]).router();
        let (status, _, body) = fake::json_reply(router, fake::chat(json!({"model": ""}))).await;
        assert_eq!(status, StatusCode::NOT_FOUND);
        assert_eq!(body["error"]["code"], "model_not_found");
        assert!(body["error"]["message"].as_str().unwrap().contains("smollm2:135m"));
    }
}
