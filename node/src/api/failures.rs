//! An engine's failure on the wire between a node and our own command line, with nothing lost: the
//! same four lines are printed and the same exit code is given on both sides.

use serde::{Deserialize, Serialize};

use super::control::WireSpan;
use crate::engine::{EngineError, Privacy};

/// An [`EngineError`] in JSON.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct WireFailure {
    /// For people, and for programs that know no more.
    pub(crate) message: String,
    #[serde(flatten)]
    kind: Kind,
}

/// What it was, by the codes of the API.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "code")]
enum Kind {
    #[serde(rename = "model_not_found")]
    UnknownModel { name: String, near: Vec<String> },
    #[serde(rename = "invalid_value")]
    Invalid { param: String },
    #[serde(rename = "context_length_exceeded")]
    ContextOverflow { limit: u32, asked: u32, prompt: u32 },
    #[serde(rename = "coverage_incomplete")]
    Uncovered { model: String, missing: Vec<[u32; 2]> },
    #[serde(rename = "no_host")]
    NoHost { model: String },
    #[serde(rename = "no_route")]
    NoSuchRoute { model: String, wish: String },
    #[serde(rename = "no_private_route")]
    Private { model: String, privacy: Privacy, of_node: bool, missing: Vec<[u32; 2]> },
    #[serde(rename = "queue_full")]
    Busy { cause: String, retry_ms: u32 },
    #[serde(rename = "peer_failed")]
    PeerFailed { peer: String, span: WireSpan, cause: String },
    #[serde(rename = "peer_timeout")]
    PeerTimeout { peer: String, span: WireSpan },
    #[serde(rename = "stopping")]
    Stopping,
    #[serde(rename = "internal")]
    Internal { cause: String },
}

impl From<EngineError> for WireFailure {
    fn from(error: EngineError) -> Self {
        let message = error.to_string();
        let kind = match error {
            EngineError::UnknownModel { name, near } => Kind::UnknownModel { name, near },
            EngineError::Invalid { param, message: _ } => Kind::Invalid { param: param.into() },
            EngineError::ContextOverflow { limit, asked, prompt } => {
                Kind::ContextOverflow { limit, asked, prompt }
            }
            EngineError::Uncovered { model, missing } => Kind::Uncovered { model, missing },
            EngineError::NoHost { model } => Kind::NoHost { model },
            EngineError::NoSuchRoute { model, wish } => {
                Kind::NoSuchRoute { model, wish: wish.into() }
            }
            EngineError::Private { model, privacy, of_node, missing } => {
                Kind::Private { model, privacy, of_node, missing }
            }
            EngineError::Busy { cause, retry_ms } => Kind::Busy { cause, retry_ms },
            EngineError::PeerFailed { peer, span, cause } => {
                Kind::PeerFailed { peer, span: WireSpan(span), cause }
            }
            EngineError::PeerTimeout { peer, span } => {
                Kind::PeerTimeout { peer, span: WireSpan(span) }
            }
            EngineError::Stopping => Kind::Stopping,
            EngineError::Internal(cause) => Kind::Internal { cause },
        };
        Self { message, kind }
    }
}

impl From<WireFailure> for EngineError {
    fn from(WireFailure { message, kind }: WireFailure) -> Self {
        match kind {
            Kind::UnknownModel { name, near } => Self::UnknownModel { name, near },
            Kind::Invalid { param } => Self::Invalid { param: known(&PARAMS, &param), message },
            Kind::ContextOverflow { limit, asked, prompt } => {
                Self::ContextOverflow { limit, asked, prompt }
            }
            Kind::Uncovered { model, missing } => Self::Uncovered { model, missing },
            Kind::NoHost { model } => Self::NoHost { model },
            Kind::NoSuchRoute { model, wish } => {
                Self::NoSuchRoute { model, wish: known(&WISHES, &wish) }
            }
            Kind::Private { model, privacy, of_node, missing } => {
                Self::Private { model, privacy, of_node, missing }
            }
            Kind::Busy { cause, retry_ms } => Self::Busy { cause, retry_ms },
            Kind::PeerFailed { peer, span, cause } => {
                Self::PeerFailed { peer, span: span.0, cause }
            }
            Kind::PeerTimeout { peer, span } => Self::PeerTimeout { peer, span: span.0 },
            Kind::Stopping => Self::Stopping,
            Kind::Internal { cause } => Self::Internal(cause),
        }
    }
}

/// The body of a reply of the control surface that is not 200.
#[derive(Debug, Deserialize)]
pub(crate) struct ErrorReply {
    error: ErrorBody,
}

#[derive(Debug, Deserialize)]
struct ErrorBody {
    message: String,
    code: String,
    param: Option<String>,
    /// The engine's own failure, where it was one.
    engine: Option<WireFailure>,
}

impl From<ErrorReply> for EngineError {
    fn from(ErrorReply { error }: ErrorReply) -> Self {
        let ErrorBody { message, code, param, engine } = error;
        match engine {
            Some(failure) => failure.into(),
            None if matches!(code.as_str(), "invalid_value" | "invalid_json") => {
                Self::Invalid { param: known(&PARAMS, &param.unwrap_or_default()), message }
            }
            None => Self::Internal(message),
        }
    }
}

/// Parameter names live in the program; a name from elsewhere becomes the last of these.
const PARAMS: [&str; 20] = [
    "model",
    "prompt",
    "messages",
    "prompt_ids",
    "ids",
    "max_tokens",
    "temperature",
    "top_k",
    "top_p",
    "min_p",
    "repeat_penalty",
    "frequency_penalty",
    "presence_penalty",
    "seed",
    "stop",
    "ignore_eos",
    "logprobs",
    "top",
    "route",
    "request",
];

/// The same for the routes that somebody may have wished for.
const WISHES: [&str; 4] = ["local", "whole", "chain", "any"];

fn known<const N: usize>(names: &[&'static str; N], name: &str) -> &'static str {
    names.iter().copied().find(|known| *known == name).unwrap_or(names[N - 1])
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::fake;
    use crate::failure::Failure;
    use serde_json::json;

    #[test]
    fn every_failure_prints_the_same_on_both_sides() {
        for error in fake::every_error() {
            let text = serde_json::to_string(&WireFailure::from(error.clone())).unwrap();
            let heard: WireFailure = serde_json::from_str(&text).unwrap();
            let heard = EngineError::from(heard);
            assert_eq!(format!("{heard:?}"), format!("{error:?}"));
            assert_eq!(Failure::from(heard), Failure::from(error));
        }
    }

    #[test]
    fn a_failure_carries_its_code_and_its_text() {
        let error = EngineError::Busy { cause: "full".into(), retry_ms: 5 };
        let wire = serde_json::to_value(WireFailure::from(error)).unwrap();
        let wanted = json!({
            "code": "queue_full", "message": "all hosts are busy: full",
            "cause": "full", "retry_ms": 5,
        });
        assert_eq!(wire, wanted);
    }

    #[test]
    fn a_strange_parameter_is_still_a_usage_error() {
        let reply = json!({"error": {"message": "no", "code": "invalid_value", "param": "odd"}});
        let reply: ErrorReply = serde_json::from_value(reply).unwrap();
        let error = EngineError::from(reply);
        assert!(matches!(error, EngineError::Invalid { param: "request", .. }), "{error:?}");
    }
}
