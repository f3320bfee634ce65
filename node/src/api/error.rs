//! The one shape of every error, `{"error":{message,type,param,code}}`, and what an engine's
//! failure is in HTTP.

use axum::Json;
use axum::http::{HeaderName, HeaderValue, Method, StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde_json::{Map, Value, json};

use crate::engine::EngineError;

/// A client that asks again sooner finds the same blocks without hosts: announcements are minutes
/// apart.
const NEW_HOSTS_SECS: u32 = 30;

/// An error as clients see it.
#[derive(Debug)]
pub(super) struct ApiError {
    status: StatusCode,
    /// `type` in JSON.
    kind: &'static str,
    code: &'static str,
    param: Option<String>,
    message: String,
    /// Further keys of the error object.
    extra: Map<String, Value>,
    retry: Retry,
}

/// What a client should think of asking again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Retry {
    /// As its library would by itself.
    Unsaid,
    /// It helps, after so many milliseconds.
    AfterMs(u32),
    /// It does not help at once; a person may try after so many seconds.
    Useless(u32),
}

impl ApiError {
    /// The request is wrong: `code` says how, `param` where.
    pub(super) fn request(
        status: StatusCode,
        code: &'static str,
        message: impl Into<String>,
    ) -> Self {
        Self {
            status,
            kind: "invalid_request_error",
            code,
            param: None,
            message: message.into(),
            extra: Map::new(),
            retry: Retry::Unsaid,
        }
    }

    /// The request is right, and yet there is no answer.
    fn server(status: StatusCode, code: &'static str, message: impl Into<String>) -> Self {
        Self { kind: "server_error", ..Self::request(status, code, message) }
    }

    /// A parameter has a wrong type, or a value that cannot be.
    pub(super) fn invalid(param: impl Into<String>, message: impl Into<String>) -> Self {
        Self::request(StatusCode::BAD_REQUEST, "invalid_value", message).about(param)
    }

    /// A parameter is known, would change the answer, and is not supported.
    pub(super) fn unsupported(param: impl Into<String>, message: impl Into<String>) -> Self {
        Self::request(StatusCode::BAD_REQUEST, "unsupported_parameter", message).about(param)
    }

    /// The body as a whole does not have the right form.
    pub(super) fn wrong_body(message: impl Into<String>) -> Self {
        Self::request(StatusCode::BAD_REQUEST, "invalid_value", message)
    }

    /// The body is not JSON.
    pub(super) fn invalid_json(error: &serde_json::Error) -> Self {
        let message = format!("the body is not valid JSON: {error}");
        Self::request(StatusCode::BAD_REQUEST, "invalid_json", message)
    }

    /// The body did not come whole.
    pub(super) fn broken_body(cause: &str) -> Self {
        let message = format!("the body could not be read: {cause}");
        Self::request(StatusCode::BAD_REQUEST, "invalid_json", message)
    }

    /// The body is larger than is read.
    pub(super) fn too_large(limit: usize) -> Self {
        let message = format!("the body is larger than {} MiB", limit >> 20);
        Self::request(StatusCode::PAYLOAD_TOO_LARGE, "request_too_large", message)
    }

    /// There is nothing at this address.
    pub(super) fn unknown_url(asked: &str) -> Self {
        let message = format!("there is no `{asked}`; try GET /v1/models");
        Self::request(StatusCode::NOT_FOUND, "unknown_url", message)
    }

    /// There is something at this address, for another method.
    pub(super) fn wrong_method(method: &Method, path: &str) -> Self {
        let message = format!("{path} does not take {method}; see the header Allow");
        Self::request(StatusCode::METHOD_NOT_ALLOWED, "method_not_allowed", message)
    }

    /// A key is needed, and this is none.
    pub(super) fn unauthorized() -> Self {
        let message = "this node wants an API key: the header `Authorization: Bearer KEY`";
        let status = StatusCode::UNAUTHORIZED;
        Self { kind: "authentication_error", ..Self::request(status, "invalid_api_key", message) }
    }

    /// Whoever asks may not.
    pub(super) fn forbidden(code: &'static str, message: &str) -> Self {
        let status = StatusCode::FORBIDDEN;
        Self { kind: "permission_error", ..Self::request(status, code, message) }
    }

    /// A bug, or a broken machine.
    pub(super) fn internal(message: impl Into<String>) -> Self {
        Self::server(StatusCode::INTERNAL_SERVER_ERROR, "internal", message)
    }

    /// No such model; `near` are names that are alike.
    pub(super) fn unknown_model(name: &str, near: &[String]) -> Self {
        let what = if name.is_empty() {
            "the model has no name".to_owned()
        } else {
            format!("the model `{name}` is not known here")
        };
        let hint = if near.is_empty() {
            "GET /v1/models lists what is".to_owned()
        } else {
            format!("did you mean {}?", near.join(", "))
        };
        let error =
            Self::request(StatusCode::NOT_FOUND, "model_not_found", format!("{what}; {hint}"));
        error.about("model")
    }

    /// No model can be answered now; `models` says what each lacks.
    pub(super) fn nothing_ready(message: impl Into<String>, models: Value) -> Self {
        Self::server(StatusCode::SERVICE_UNAVAILABLE, "coverage_incomplete", message)
            .with("models", models)
            .retry(Retry::Useless(NEW_HOSTS_SECS))
    }

    /// Names the parameter at fault.
    pub(super) fn about(mut self, param: impl Into<String>) -> Self {
        self.param = Some(param.into());
        self
    }

    /// Adds a key to the error object.
    pub(super) fn with(mut self, key: &str, value: Value) -> Self {
        self.extra.insert(key.to_owned(), value);
        self
    }

    fn retry(mut self, retry: Retry) -> Self {
        self.retry = retry;
        self
    }

    /// The body: the reply's where nothing was sent yet, an event of the stream afterwards.
    pub(super) fn to_json(&self) -> Value {
        let mut error = self.extra.clone();
        error.insert("message".into(), json!(self.message));
        error.insert("type".into(), json!(self.kind));
        error.insert("param".into(), json!(self.param));
        error.insert("code".into(), json!(self.code));
        json!({ "error": error })
    }
}

impl From<EngineError> for ApiError {
    fn from(error: EngineError) -> Self {
        let text = error.to_string();
        match error {
            EngineError::UnknownModel { name, near } => Self::unknown_model(&name, &near),
            EngineError::Invalid { param, message } => Self::invalid(param, message),
            EngineError::ContextOverflow { limit, asked, prompt } => {
                context_overflow(limit, asked, prompt)
            }
            EngineError::Uncovered { model, missing } => {
                Self::server(StatusCode::SERVICE_UNAVAILABLE, "coverage_incomplete", text)
                    .with("model", json!(model))
                    .with("missing", json!(missing))
                    .retry(Retry::Useless(NEW_HOSTS_SECS))
            }
            EngineError::Private { model, privacy, missing, .. } => {
                Self::server(StatusCode::SERVICE_UNAVAILABLE, "no_private_route", text)
                    .with("model", json!(model))
                    .with("privacy", json!(privacy))
                    .with("missing", json!(missing))
                    .retry(Retry::Useless(NEW_HOSTS_SECS))
            }
            EngineError::NoHost { .. } | EngineError::NoSuchRoute { .. } => {
                Self::server(StatusCode::SERVICE_UNAVAILABLE, "no_route", text)
                    .retry(Retry::Useless(NEW_HOSTS_SECS))
            }
            EngineError::Busy { retry_ms, .. } => Self {
                kind: "rate_limit_error",
                ..Self::server(StatusCode::TOO_MANY_REQUESTS, "queue_full", text)
            }
            .retry(Retry::AfterMs(retry_ms)),
            EngineError::PeerFailed { .. } => {
                Self::server(StatusCode::BAD_GATEWAY, "peer_failed", text)
            }
            EngineError::PeerTimeout { .. } => {
                Self::server(StatusCode::GATEWAY_TIMEOUT, "peer_timeout", text)
            }
            EngineError::Stopping => {
                Self::server(StatusCode::SERVICE_UNAVAILABLE, "stopping", text)
            }
            EngineError::Internal(_) => Self::internal(text),
        }
    }
}

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        let mut reply = (self.status, Json(self.to_json())).into_response();
        let headers = reply.headers_mut();
        if self.status == StatusCode::UNAUTHORIZED {
            headers.insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
            // Who has no key holds no place.
            headers.insert(header::CONNECTION, HeaderValue::from_static("close"));
        }
        match self.retry {
            Retry::Unsaid => {}
            Retry::AfterMs(ms) => {
                headers.insert(RETRY_AFTER_MS, HeaderValue::from(ms));
                headers.insert(header::RETRY_AFTER, HeaderValue::from(ms.div_ceil(1000).max(1)));
            }
            Retry::Useless(secs) => {
                headers.insert(header::RETRY_AFTER, HeaderValue::from(secs));
                headers.insert(SHOULD_RETRY, HeaderValue::from_static("false"));
            }
        }
        reply
    }
}

/// Read by the OpenAI libraries before `retry-after`.
const RETRY_AFTER_MS: HeaderName = HeaderName::from_static("retry-after-ms");

/// Read by the OpenAI libraries before they look at the status.
const SHOULD_RETRY: HeaderName = HeaderName::from_static("x-should-retry");

/// Libraries know this case by the words "maximum context length is".
fn context_overflow(limit: u32, asked: u32, prompt: u32) -> ApiError {
    let message = format!(
        "This model's maximum context length is {limit} tokens; got {asked} \
         ({prompt} in the prompt, {} for the answer)",
        asked.saturating_sub(prompt)
    );
    ApiError::request(StatusCode::BAD_REQUEST, "context_length_exceeded", message)
        .about("messages")
        .with("n_prompt_tokens", json!(prompt))
        .with("n_ctx", json!(limit))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::fake::{self, Fake};

    /// What a client gets when the engine refuses a question so.
    async fn refusal(error: EngineError) -> (u16, Value, [Option<String>; 3]) {
        let router = Fake::refusing(error).router();
        let (status, headers, mut body) = fake::json_reply(router, fake::chat(json!({}))).await;
        let header = |name: &str| headers.get(name).map(|value| value.to_str().unwrap().to_owned());
        let retry = [header("retry-after"), header("retry-after-ms"), header("x-should-retry")];
        (status.as_u16(), body["error"].take(), retry)
    }

    #[tokio::test]
    async fn every_engine_failure_has_its_status_type_and_code() {
        let request = "invalid_request_error";
        let wanted = [
            (404, request, "model_not_found", json!("model")),
            (400, request, "invalid_value", json!("max_tokens")),
            (400, request, "context_length_exceeded", json!("messages")),
            (503, "server_error", "coverage_incomplete", Value::Null),
            (503, "server_error", "no_route", Value::Null),
            (503, "server_error", "no_route", Value::Null),
            (503, "server_error", "no_private_route", Value::Null),
            (429, "rate_limit_error", "queue_full", Value::Null),
            (502, "server_error", "peer_failed", Value::Null),
            (504, "server_error", "peer_timeout", Value::Null),
            (503, "server_error", "stopping", Value::Null),
            (500, "server_error", "internal", Value::Null),
        ];
        let errors = fake::every_error();
        assert_eq!(errors.len(), wanted.len());
        for (error, (status, kind, code, param)) in errors.into_iter().zip(wanted) {
            let (got, body, _) = refusal(error).await;
            assert_eq!(got, status, "{body}");
            assert_eq!((&body["type"], &body["code"]), (&json!(kind), &json!(code)));
            assert_eq!(body["param"], param);
            assert!(!body["message"].as_str().unwrap().is_empty());
        }
    }

    #[tokio::test]
    async fn an_overlong_prompt_is_told_in_the_words_that_clients_know() {
        let error = EngineError::ContextOverflow { limit: 8192, asked: 9000, prompt: 8900 };
        let (_, body, _) = refusal(error).await;
        let text = body["message"].as_str().unwrap();
        assert!(text.starts_with("This model's maximum context length is 8192 tokens; "), "{text}");
        assert!(text.contains("got 9000"), "{text}");
        assert_eq!((&body["n_prompt_tokens"], &body["n_ctx"]), (&json!(8900), &json!(8192)));
    }

    #[tokio::test]
    async fn missing_blocks_are_named_and_asking_again_is_discouraged() {
        let missing = vec![[10, 19], [25, 29]];
        let error = EngineError::Uncovered { model: "m".into(), missing };
        let (_, body, retry) = refusal(error).await;
        assert!(body["message"].as_str().unwrap().contains("10-19, 25-29"), "{body}");
        assert_eq!(body["missing"], json!([[10, 19], [25, 29]]));
        assert_eq!(retry, [Some("30".into()), None, Some("false".into())]);
    }

    #[tokio::test]
    async fn busy_says_when_to_come_back() {
        let busy = |retry_ms| EngineError::Busy { cause: "no KV".into(), retry_ms };
        let (_, _, retry) = refusal(busy(1500)).await;
        assert_eq!(retry, [Some("2".into()), Some("1500".into()), None]);
        let (_, _, retry) = refusal(busy(0)).await;
        assert_eq!(retry, [Some("1".into()), Some("0".into()), None]);
        let (_, _, retry) = refusal(fake::peer_failed()).await;
        assert_eq!(retry, [None, None, None]);
    }

    #[tokio::test]
    async fn an_unknown_model_names_its_neighbours() {
        let near = vec!["smollm2:135m".into()];
        let (_, body, _) = refusal(EngineError::UnknownModel { name: "smol".into(), near }).await;
        let text = body["message"].as_str().unwrap();
        assert!(text.contains("`smol`") && text.contains("smollm2:135m"), "{text}");
    }
}
