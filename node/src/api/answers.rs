//! `POST /v1/chat/completions` and `POST /v1/completions`: from a request to its reply, whole or as
//! events.

use std::time::Duration;

use axum::Json;
use axum::extract::{Request, State};
use axum::http::{HeaderMap, HeaderName, HeaderValue};
use axum::response::{IntoResponse, Response};

use super::choice::{Choice, Piece};
use super::error::ApiError;
use super::opening::{Opened, Opening};
use super::order::{Order, Shape};
use super::replies::{Head, Reply, Said, Usage};
use super::sse::AnswerStream;
use super::{Api, body_of, chat_request, text_request, unix_now};
use crate::engine::{EngineError, Event, Finished, Route};

/// How long a streamed answer may wait for its first token before its status is sent. Until then a
/// failure is an honest HTTP status; after it, clients and proxies would take the silence for
/// death.
const COMMIT: Duration = Duration::from_secs(10);

/// Who computes, in a word; see [`Route`]'s text. One header for each route that was taken.
const ROUTE: HeaderName = HeaderName::from_static("x-taimatsu-route");

/// The value of [`ROUTE`] where an answer is awaited and nobody has been found for it yet.
const UNDECIDED: HeaderValue = HeaderValue::from_static("undecided");

/// The seed, given or drawn: with the fingerprint it decides the answer's bits.
const SEED: HeaderName = HeaderName::from_static("x-taimatsu-seed");

/// Answers a chat.
pub(super) async fn chat(State(api): State<Api>, request: Request) -> Result<Response, ApiError> {
    let body = body_of(request).await?;
    let order = chat_request::parse(&body, api.draw)?;
    answer(api, order).await
}

/// Continues texts.
pub(super) async fn text(State(api): State<Api>, request: Request) -> Result<Response, ApiError> {
    let body = body_of(request).await?;
    let order = text_request::parse(&body, api.draw)?;
    answer(api, order).await
}

async fn answer(api: Api, order: Order) -> Result<Response, ApiError> {
    if order.model.is_empty() {
        let models = api.engine.models().await;
        let names: Vec<String> = models.into_iter().map(|model| model.name).take(8).collect();
        return Err(ApiError::unknown_model("", &names));
    }
    let head = Head {
        shape: order.shape,
        id: order.id.clone(),
        created: unix_now(),
        seed: order.manner.sampling.seed,
        drawn: order.manner.drawn,
        label: order.manner.label,
    };
    let failed = |error: EngineError| refusal(error, order.shape);
    let mut opening = Opening::begin(api.engine, order.clone());
    if !order.manner.stream {
        let opened = opening.opened().await.map_err(failed)?;
        return whole(opened, &head, &order).await;
    }
    let usage = order.manner.include_usage;
    let seed = head.seed;
    let (stream, route) = match tokio::time::timeout(COMMIT, opening.opened()).await {
        Ok(opened) => {
            let opened = opened.map_err(failed)?;
            let route = opened.choices[opened.first.0].started.route.clone();
            (AnswerStream::opened(head, order.manner.n, usage, opened), Some(route))
        }
        Err(_) => {
            let route = opening.route();
            (AnswerStream::opening(head, order.manner.n, usage, opening), route)
        }
    };
    let mut reply = stream.into_response();
    label(reply.headers_mut(), seed, route.as_slice());
    Ok(reply)
}

/// Reads an answer to its end. Nothing is sent before, so that a failure is still a status.
async fn whole(opened: Opened, head: &Head, order: &Order) -> Result<Response, ApiError> {
    let Opened { choices, first, mut asking } = opened;
    let growing = |choice| Growing { choice, whole: Piece::default(), end: None };
    let mut growing: Vec<Growing> = choices.into_iter().map(growing).collect();
    let mut next = Some(first);
    while let Some((number, event)) = next {
        growing[number].take(event).map_err(|error| refusal(error, order.shape))?;
        next = asking.next().await;
    }
    let said: Option<Vec<Said>> = growing.into_iter().map(Growing::said).collect();
    let said = said.ok_or_else(|| ApiError::internal("a choice has no end"))?;
    let mut usage = Usage::default();
    let mut routes: Vec<Route> = Vec::new();
    for (number, Said { choice, finished, .. }) in said.iter().enumerate() {
        usage.add(&choice.started, finished, number % order.manner.n == 0);
        if !routes.contains(&choice.started.route) {
            routes.push(choice.started.route.clone());
        }
    }
    let mut reply = Json(Reply::whole(head, &said, usage)).into_response();
    label(reply.headers_mut(), head.seed, &routes);
    Ok(reply)
}

/// A choice that is being read.
struct Growing {
    choice: Choice,
    whole: Piece,
    end: Option<Finished>,
}

impl Growing {
    fn take(&mut self, event: Event) -> Result<(), EngineError> {
        let Some(event) = self.choice.settle(event) else { return Ok(()) };
        self.whole.push(self.choice.echo().unwrap_or_default());
        match event {
            Event::Token(token) => self.whole.push(self.choice.token(token)),
            Event::Finished(mut finished) => {
                self.whole.push(self.choice.finish(&mut finished));
                self.end = Some(finished);
            }
            Event::Failed(error) => return Err(error),
            Event::Started(_) | Event::Rerouted(_) => {}
        }
        Ok(())
    }

    fn said(self) -> Option<Said> {
        Some(Said { choice: self.choice, whole: self.whole, finished: self.end? })
    }
}

fn label(headers: &mut HeaderMap, seed: u64, routes: &[Route]) {
    headers.insert(SEED, HeaderValue::from(seed));
    for route in routes {
        let value = HeaderValue::from_str(&route.to_string());
        headers.append(ROUTE, value.unwrap_or(UNDECIDED));
    }
    if routes.is_empty() {
        headers.insert(ROUTE, UNDECIDED);
    }
}

/// An engine's failure, with the prompt by the name that this endpoint has for it.
pub(super) fn refusal(error: EngineError, shape: Shape) -> ApiError {
    let overflow = matches!(error, EngineError::ContextOverflow { .. });
    let error = ApiError::from(error);
    if overflow { error.about(shape.prompt_key()) } else { error }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::access::Access;
    use crate::api::fake::{self, Fake};
    use crate::engine::{Privacy, RouteReport, RouteWish, TokenEvent};
    use axum::http::StatusCode;
    use serde_json::{Value, json};
    use std::sync::Arc;

    fn said() -> Vec<Event> {
        let (a, b) = (fake::token(11, "Torch"), fake::token(12, ""));
        let began = fake::started_on(fake::two_hosts());
        vec![began, a, b, fake::finished("é!", fake::two_hops())]
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
        assert_eq!(body["system_fingerprint"], "fp_1");
        let usage = json!({
            "prompt_tokens": 3, "completion_tokens": 3, "total_tokens": 6,
            "prompt_tokens_details": {"cached_tokens": 0},
        });
        assert_eq!(body["usage"], usage);
        assert_eq!(body["taimatsu"], json!({"seed": 7}), "it was drawn");
    }

    #[tokio::test]
    async fn seed_and_route_are_headers_of_every_answer() {
        let said = |route| vec![fake::started_on(route), fake::finished("", Default::default())];
        let whole = Route { hosts: fake::two_hosts().hosts[..1].to_vec() };
        for (route, told) in [
            (Route::default(), "local"),
            (whole, "whole;a"),
            (fake::two_hosts(), "chain;a[0-9],b[10-29]"),
        ] {
            for stream in [false, true] {
                let change = json!({"seed": 11, "stream": stream});
                let router = Fake::saying(said(route.clone())).router();
                let (_, headers, body) = fake::reply(router, fake::chat(change)).await;
                assert_eq!(headers["x-taimatsu-route"], told);
                assert_eq!(headers["x-taimatsu-seed"], "11");
                assert!(!String::from_utf8_lossy(&body).contains("taimatsu"), "it was given");
            }
        }
    }

    #[tokio::test]
    async fn the_route_that_failed_is_not_told() {
        let said = || {
            let began = fake::started();
            vec![
                began,
                Event::Rerouted(fake::two_hosts()),
                fake::token(1, "a"),
                fake::finished("", fake::two_hops()),
            ]
        };
        for stream in [false, true] {
            let router = Fake::saying(said()).router();
            let (_, headers, _) = fake::reply(router, fake::chat(json!({"stream": stream}))).await;
            assert_eq!(headers["x-taimatsu-route"], "chain;a[0-9],b[10-29]");
        }
    }

    #[tokio::test]
    async fn several_choices_are_one_reply() {
        let answers = [("one", 0), ("two", 1)].map(|(text, report)| {
            let report = if report == 0 { RouteReport::default() } else { fake::two_hops() };
            vec![fake::started(), fake::token(5, text), fake::finished("", report)]
        });
        let fake = Arc::new(Fake::saying_each(answers.into()));
        let router = crate::api::router(fake.clone(), || 5, Access::everybody());
        let (_, _, body) =
            fake::json_reply(router, fake::chat(json!({"n": 2, "taimatsu": true}))).await;
        let choices = body["choices"].as_array().unwrap();
        let texts: Vec<&Value> = choices.iter().map(|c| &c["message"]["content"]).collect();
        assert_eq!(texts, ["one", "two"]);
        assert_eq!((&choices[0]["index"], &choices[1]["index"]), (&json!(0), &json!(1)));
        let usage = &body["usage"];
        assert_eq!((&usage["prompt_tokens"], &usage["completion_tokens"]), (&json!(3), &json!(6)));
        let label = &body["taimatsu"];
        assert_eq!((&label["seed"], label["choices"].as_array().unwrap().len()), (&json!(5), 2));
        assert_eq!(label["choices"][1]["route"][0]["peer"], "a");
        let asked = fake.asked.lock().unwrap();
        let choices: Vec<u32> = asked.iter().map(|question| question.sampling.choice).collect();
        assert_eq!(choices, [0, 1]);
    }

    #[tokio::test]
    async fn a_choice_that_fails_fails_the_reply() {
        let good =
            vec![fake::started(), fake::token(5, "a"), fake::finished("", Default::default())];
        let bad = vec![fake::started(), fake::token(5, "b"), Event::Failed(fake::peer_failed())];
        let router = Fake::saying_each(vec![good, bad]).router();
        let (status, _, _) = fake::json_reply(router, fake::chat(json!({"n": 2}))).await;
        assert_eq!(status, StatusCode::BAD_GATEWAY);
    }

    #[tokio::test]
    async fn log_probabilities_are_given_where_they_are_asked_for() {
        let likely = |id: u8, text: &str| {
            let id = u32::from(id);
            let top = vec![(98, -0.25), (id, -0.5)];
            Event::Token(TokenEvent { id, text: text.into(), logprob: Some(-0.5), top })
        };
        let said = vec![
            fake::started(),
            likely(b'a', "a"),
            likely(b'c', "c"),
            fake::finished("", Default::default()),
        ];
        let fake = Arc::new(Fake::saying(said));
        let change = json!({"logprobs": true, "top_logprobs": 1});
        let (_, _, body) = fake::json_reply(
            crate::api::router(fake.clone(), || 5, Access::everybody()),
            fake::chat(change),
        )
        .await;
        let content = &body["choices"][0]["logprobs"]["content"];
        let token = json!({
            "token": "c", "logprob": -0.5, "bytes": [99],
            "top_logprobs": [{"token": "b", "logprob": -0.25, "bytes": [98]}],
        });
        assert_eq!((content.as_array().unwrap().len(), &content[1]), (2, &token));
        assert_eq!(fake.asked.lock().unwrap()[0].logprobs, Some(1));
    }

    fn text(change: Value) -> axum::http::Request<axum::body::Body> {
        let mut body = json!({"model": "m", "prompt": "ab", "seed": 1});
        for (key, value) in change.as_object().unwrap() {
            body[key] = value.clone();
        }
        fake::request("/v1/completions", Some(body))
    }

    #[tokio::test]
    async fn a_text_is_continued() {
        let (status, _, body) =
            fake::json_reply(Fake::saying(said()).router(), text(json!({}))).await;
        assert_eq!(status, StatusCode::OK);
        assert!(body["id"].as_str().unwrap().starts_with("cmpl-"));
        assert_eq!(body["object"], "text_completion");
        let choice =
            json!({"index": 0, "text": "Torché!", "logprobs": null, "finish_reason": "stop"});
        assert_eq!(body["choices"], json!([choice]));
        assert_eq!(body["usage"]["total_tokens"], 6);
        let (_, _, body) =
            fake::json_reply(Fake::saying(said()).router(), text(json!({"echo": true}))).await;
        assert_eq!(body["choices"][0]["text"], "abTorché!");
    }

    /// What evaluations ask: how likely are the tokens of this prompt?
    #[tokio::test]
    async fn the_tokens_of_a_prompt_have_their_log_probabilities() {
        let change = json!({"prompt": [97, 98], "echo": true, "max_tokens": 0, "logprobs": 1});
        let said = vec![fake::started(), fake::finished("", Default::default())];
        let mut change = change;
        change["taimatsu"] = json!({"route": "whole", "privacy": "trusted"});
        let fake = Arc::new(Fake::saying(said));
        let router = crate::api::router(fake.clone(), || 5, Access::everybody());
        let (_, _, body) = fake::json_reply(router, text(change.clone())).await;
        let scored = fake.scored.lock().unwrap().pop().unwrap();
        assert_eq!((scored.route, scored.privacy), (RouteWish::Whole, Privacy::Trusted));
        let wanted = json!({
            "tokens": ["a", "b"], "token_logprobs": [null, -0.5],
            "top_logprobs": [null, {"<|end|>": -0.1, "b": -0.5}],
            "text_offset": [0, 1],
        });
        assert_eq!(body["choices"][0]["logprobs"], wanted);
        assert_eq!(body["choices"][0]["text"], "ab");
        let token = TokenEvent { id: 99, text: "c".into(), logprob: Some(-0.75), top: vec![] };
        let said =
            vec![fake::started(), Event::Token(token), fake::finished("", Default::default())];
        change["max_tokens"] = json!(1);
        let (_, _, body) = fake::json_reply(Fake::saying(said).router(), text(change)).await;
        let logs = &body["choices"][0]["logprobs"];
        assert_eq!(logs["token_logprobs"], json!([null, -0.5, -0.75]));
        assert_eq!(
            (&logs["text_offset"], &body["choices"][0]["text"]),
            (&json!([0, 1, 2]), &json!("abc"))
        );
    }

    #[tokio::test]
    async fn an_overlong_prompt_is_named_as_the_request_names_it() {
        let error = || EngineError::ContextOverflow { limit: 8, asked: 9, prompt: 9 };
        for (request, param) in [(fake::chat(json!({})), "messages"), (text(json!({})), "prompt")] {
            let (_, _, body) = fake::json_reply(Fake::refusing(error()).router(), request).await;
            assert_eq!(body["error"]["param"], param);
        }
    }

    #[tokio::test]
    async fn the_label_comes_where_it_is_asked_for() {
        let router = Fake::saying(said()).router();
        let (_, _, body) = fake::json_reply(router, fake::chat(json!({"taimatsu": true}))).await;
        let label = &body["taimatsu"];
        assert_eq!(label["privacy"], "trusted");
        assert_eq!(label["tokens"], json!([11, 12]));
        assert_eq!(label["prompt_tokens"], json!([1, 2, 3]));
        assert_eq!((&label["route"][0]["peer"], &label["sealed"]), (&json!("a"), &json!(true)));
        assert_eq!(label["route"][1]["blocks"], json!([10, 29]));
    }

    #[tokio::test]
    async fn the_engine_is_asked_what_the_request_says() {
        let fake = Arc::new(Fake::saying(said()));
        let router = crate::api::router(fake.clone(), || 5, Access::everybody());
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
            (json!({"tools": [{}]}), "unsupported_parameter"),
            (json!({"taimatsu": {"route": "moon"}}), "invalid_value"),
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
