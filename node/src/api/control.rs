//! What our own command line says to a running node, and what it hears: the engine's questions and
//! events as JSON. Both ends are this program, so the types stand here once; a failure crosses
//! whole, that the command line may print it as if it had happened there.

use serde::{Deserialize, Serialize};
use taimatsu_protocol::{Sampling, Span};

use super::failures::WireFailure;
use super::sampling::DEFAULT_TEMPERATURE;
use crate::engine::{Message, Privacy, Prompt, Question, ReceiptState, RouteWish};

/// `POST /taimatsu/v1/run`: answered by one [`RunEvent`] a line.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)] // An ignored wish for privacy would be a leak.
pub(crate) struct RunRequest {
    /// As in [`Question::model`].
    pub(crate) model: String,
    /// A text: the user's message, or with `raw` the beginning to go on from.
    #[serde(default)]
    pub(crate) prompt: Option<String>,
    /// A conversation, in place of `prompt`.
    #[serde(default)]
    pub(crate) messages: Option<Vec<ChatMessage>>,
    /// Token ids as they stand, in place of `prompt`.
    #[serde(default)]
    pub(crate) prompt_ids: Option<Vec<u32>>,
    /// `prompt` goes without the model's chat template.
    #[serde(default)]
    pub(crate) raw: bool,
    /// Tokens wanted at most.
    #[serde(default)]
    pub(crate) max_tokens: Option<u32>,
    /// See [`Sampling`]; so are the next six.
    #[serde(default)]
    pub(crate) temperature: Option<f32>,
    /// The k best; 0 is off.
    #[serde(default)]
    pub(crate) top_k: Option<u32>,
    /// The smallest set of this probability; 1 is off.
    #[serde(default)]
    pub(crate) top_p: Option<f32>,
    /// A share of the best probability; 0 is off.
    #[serde(default)]
    pub(crate) min_p: Option<f32>,
    /// For tokens that were there before; 1 is off.
    #[serde(default)]
    pub(crate) repeat_penalty: Option<f32>,
    /// For every time that the answer has a token; 0 is off.
    #[serde(default)]
    pub(crate) frequency_penalty: Option<f32>,
    /// For every token that the answer has; 0 is off.
    #[serde(default)]
    pub(crate) presence_penalty: Option<f32>,
    /// None: drawn by the node.
    #[serde(default)]
    pub(crate) seed: Option<u64>,
    /// Which of several answers with one seed; 0 is the first.
    #[serde(default)]
    pub(crate) choice: u32,
    /// Texts that end the answer.
    #[serde(default)]
    pub(crate) stop: Vec<String>,
    /// End tokens end nothing.
    #[serde(default)]
    pub(crate) ignore_eos: bool,
    /// Alternatives wanted per token.
    #[serde(default)]
    pub(crate) logprobs: Option<u8>,
    /// None: whatever is best.
    #[serde(default)]
    pub(crate) route: Option<Route>,
    /// Who may see it.
    #[serde(default)]
    pub(crate) privacy: Privacy,
}

/// One message of a conversation.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct ChatMessage {
    /// `system`, `user`, `assistant`, …
    pub(crate) role: String,
    /// Its text.
    pub(crate) content: String,
}

/// Who may compute it, where somebody has a wish.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Route {
    /// This node.
    Local,
    /// One host.
    Whole,
    /// Two hosts or more.
    Chain,
}

impl RunRequest {
    /// The request that asks this question.
    pub(crate) fn of(question: &Question) -> Self {
        let Sampling {
            repeat_penalty,
            frequency_penalty,
            presence_penalty,
            temperature,
            top_k,
            top_p,
            min_p,
            seed,
            choice,
        } = question.sampling;
        let mut request = Self {
            model: question.model.clone(),
            prompt: None,
            messages: None,
            prompt_ids: None,
            raw: false,
            max_tokens: question.max_tokens,
            temperature: Some(temperature),
            top_k: Some(top_k),
            top_p: Some(top_p),
            min_p: Some(min_p),
            repeat_penalty: Some(repeat_penalty),
            frequency_penalty: Some(frequency_penalty),
            presence_penalty: Some(presence_penalty),
            seed: Some(seed),
            choice,
            stop: question.stop.clone(),
            ignore_eos: question.ignore_eos,
            logprobs: question.logprobs,
            route: Route::of(question.route),
            privacy: question.privacy,
        };
        match &question.prompt {
            Prompt::Chat(messages) => {
                let messages = messages.iter().cloned();
                request.messages = Some(
                    messages
                        .map(|Message { role, content }| ChatMessage { role, content })
                        .collect(),
                );
            }
            Prompt::Raw(text) => {
                request.prompt = Some(text.clone());
                request.raw = true;
            }
            Prompt::Ids(ids) => request.prompt_ids = Some(ids.clone()),
        }
        request
    }

    /// The question; none where there is not exactly one prompt. `draw` gives a missing seed.
    pub(crate) fn question(self, draw: fn() -> u64) -> Option<Question> {
        let prompt = match (self.prompt, self.messages, self.prompt_ids) {
            (Some(text), None, None) if self.raw => Prompt::Raw(text),
            (Some(content), None, None) => {
                Prompt::Chat(vec![Message { role: "user".into(), content }])
            }
            (None, Some(messages), None) => {
                let messages = messages.into_iter();
                Prompt::Chat(
                    messages
                        .map(|ChatMessage { role, content }| Message { role, content })
                        .collect(),
                )
            }
            (None, None, Some(ids)) => Prompt::Ids(ids),
            _ => return None,
        };
        Some(Question {
            id: None,
            model: self.model,
            prompt,
            sampling: Sampling {
                repeat_penalty: self.repeat_penalty.unwrap_or(1.0),
                frequency_penalty: self.frequency_penalty.unwrap_or(0.0),
                presence_penalty: self.presence_penalty.unwrap_or(0.0),
                temperature: self.temperature.unwrap_or(DEFAULT_TEMPERATURE),
                top_k: self.top_k.unwrap_or(0),
                top_p: self.top_p.unwrap_or(1.0),
                min_p: self.min_p.unwrap_or(0.0),
                seed: self.seed.unwrap_or_else(draw),
                choice: self.choice,
            },
            max_tokens: self.max_tokens,
            stop: self.stop,
            ignore_eos: self.ignore_eos,
            logprobs: self.logprobs,
            route: Route::wish(self.route),
            privacy: self.privacy,
        })
    }
}

impl Route {
    /// The wish as it is sent.
    pub(crate) const fn of(wish: RouteWish) -> Option<Self> {
        match wish {
            RouteWish::Any => None,
            RouteWish::Local => Some(Self::Local),
            RouteWish::Whole => Some(Self::Whole),
            RouteWish::Chain => Some(Self::Chain),
        }
    }

    /// The wish as it was sent.
    pub(crate) const fn wish(route: Option<Self>) -> RouteWish {
        match route {
            None => RouteWish::Any,
            Some(Self::Local) => RouteWish::Local,
            Some(Self::Whole) => RouteWish::Whole,
            Some(Self::Chain) => RouteWish::Chain,
        }
    }
}

/// A line of the answer to a [`RunRequest`]: [`crate::engine::Event`] on the wire.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum RunEvent {
    /// See [`crate::engine::Event::Started`].
    Started(RunStarted),
    /// See [`crate::engine::Event::Rerouted`].
    Rerouted(RunRoute),
    /// See [`crate::engine::Event::Token`].
    Token(RunToken),
    /// See [`crate::engine::Event::Finished`].
    Finished(RunFinished),
    /// See [`crate::engine::Event::Failed`].
    Failed(WireFailure),
}

/// See [`crate::engine::Started`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct RunStarted {
    /// The model's canonical name.
    pub(crate) model: String,
    /// Of model and numerics.
    pub(crate) fingerprint: String,
    /// The prompt's ids.
    pub(crate) prompt_tokens: Vec<u32>,
    /// Who may see it.
    pub(crate) privacy: Privacy,
    /// Who computes.
    pub(crate) route: RunRoute,
}

/// See [`crate::engine::Route`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct RunRoute {
    /// The hosts in order; none where the node computes alone.
    pub(crate) hosts: Vec<RunHost>,
}

/// See [`crate::engine::RouteHost`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct RunHost {
    /// Its full id.
    pub(crate) peer: String,
    /// What it computes.
    #[serde(flatten)]
    pub(crate) span: WireSpan,
}

/// See [`crate::engine::TokenEvent`].
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct RunToken {
    /// Its id.
    pub(crate) id: u32,
    /// Text that is final now.
    pub(crate) text: String,
    /// Where asked for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) logprob: Option<f32>,
    /// Where asked for.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(crate) top: Vec<(u32, f32)>,
}

/// See [`crate::engine::Finished`].
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct RunFinished {
    /// Why it ended.
    pub(crate) reason: Reason,
    /// Text that is final now.
    pub(crate) text: String,
    /// Tokens sampled.
    pub(crate) completion_tokens: u32,
    /// How it was made.
    pub(crate) report: RunReport,
}

/// See [`crate::engine::FinishReason`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Reason {
    /// By an end token or a stop text.
    Stop,
    /// By its length.
    Length,
}

/// See [`crate::engine::RouteReport`].
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct RunReport {
    /// Hops in order.
    pub(crate) hops: Vec<RunHop>,
    /// Hops that were lost on the way.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(crate) lost: Vec<RunHop>,
    /// Milliseconds to the first token.
    pub(crate) ttft_ms: f64,
    /// Tokens per second after it.
    pub(crate) tokens_per_second: f64,
    /// Frames through the client.
    pub(crate) forwarded_frames: u32,
    /// The session's id.
    #[serde(default)]
    pub(crate) session: Option<String>,
    /// What became of the receipts.
    #[serde(default)]
    pub(crate) receipts: ReceiptState,
}

/// See [`crate::engine::HopReport`].
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct RunHop {
    /// The host's full id.
    pub(crate) peer: String,
    /// What it computed.
    #[serde(flatten)]
    pub(crate) span: WireSpan,
    /// Milliseconds per decoded token.
    pub(crate) ms_per_token: f64,
    /// Frames sent straight.
    pub(crate) direct_frames: u32,
    /// Frames sent through the client.
    pub(crate) relayed_frames: u32,
}

/// A span as JSON shows it: blocks are inclusive.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "RawSpan", into = "RawSpan")]
pub(crate) struct WireSpan(pub(crate) Span);

#[derive(Serialize, Deserialize)]
struct RawSpan {
    blocks: [u32; 2],
    embed: bool,
    head: bool,
}

impl From<WireSpan> for RawSpan {
    fn from(WireSpan(span): WireSpan) -> Self {
        Self { blocks: span.inclusive(), embed: span.embed, head: span.head }
    }
}

impl TryFrom<RawSpan> for WireSpan {
    type Error = taimatsu_protocol::span::SpanError;

    fn try_from(raw: RawSpan) -> Result<Self, Self::Error> {
        let [first, last] = raw.blocks;
        // Only the manifest knows the model's blocks; here its own end bounds the span.
        let end = last.saturating_add(1);
        let mut span = Span::new(first..end, end)?;
        span.embed = raw.embed;
        span.head = raw.head;
        Ok(Self(span))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::fake;
    use crate::api::scoring::{ScoreReply, ScoredPosition};
    use crate::engine::{EngineError, Event, TokenEvent};
    use serde_json::{Value, json};

    fn question(prompt: Prompt, route: RouteWish) -> Question {
        Question {
            id: None,
            model: "m".into(),
            prompt,
            sampling: Sampling {
                repeat_penalty: 1.1,
                frequency_penalty: 0.5,
                presence_penalty: -0.5,
                temperature: 0.7,
                top_k: 40,
                top_p: 0.9,
                min_p: 0.05,
                seed: u64::MAX,
                choice: 2,
            },
            max_tokens: Some(9),
            stop: vec!["END".into()],
            ignore_eos: true,
            logprobs: Some(3),
            route,
            privacy: Privacy::Trusted,
        }
    }

    fn zero() -> u64 {
        0
    }

    #[test]
    fn a_question_comes_over_whole() {
        let chat = vec![Message { role: "user".into(), content: "hé".into() }];
        for (prompt, route) in [
            (Prompt::Chat(chat), RouteWish::Any),
            (Prompt::Raw("Once".into()), RouteWish::Local),
            (Prompt::Ids(vec![1, 2]), RouteWish::Whole),
            (Prompt::Ids(vec![]), RouteWish::Chain),
        ] {
            let asked = question(prompt, route);
            let text = serde_json::to_string(&RunRequest::of(&asked)).unwrap();
            let read: RunRequest = serde_json::from_str(&text).unwrap();
            let heard = read.question(zero).unwrap();
            assert_eq!(format!("{heard:?}"), format!("{asked:?}"));
        }
    }

    #[test]
    fn a_short_request_is_a_chat_with_one_message() {
        let read: RunRequest =
            serde_json::from_value(json!({"model": "m", "prompt": "hi", "route": null})).unwrap();
        let question = read.question(zero).unwrap();
        assert!(matches!(&question.prompt, Prompt::Chat(list) if list[0].content == "hi"));
        assert_eq!(question.route, RouteWish::Any);
    }

    #[test]
    fn two_prompts_or_none_are_no_question() {
        for body in [
            json!({"model": "m"}),
            json!({"model": "m", "prompt": "a", "prompt_ids": [1]}),
            json!({"model": "m", "prompt": "a", "messages": []}),
        ] {
            let read: RunRequest = serde_json::from_value(body.clone()).unwrap();
            assert!(read.question(zero).is_none(), "{body}");
        }
    }

    #[test]
    fn events_come_over_whole() {
        let finished = fake::finished("!", fake::two_hops());
        let token =
            TokenEvent { id: 7, text: "é".into(), logprob: Some(-0.1), top: vec![(7, -0.1)] };
        for event in [
            fake::started(),
            Event::Rerouted(fake::two_hosts()),
            Event::Token(token),
            fake::token(8, ""),
            finished,
            Event::Failed(EngineError::Internal("x".into())),
        ] {
            let before = format!("{event:?}");
            let line = serde_json::to_string(&RunEvent::from(event)).unwrap();
            let heard: RunEvent = serde_json::from_str(&line).unwrap();
            assert_eq!(format!("{:?}", Event::from(heard)), before);
        }
    }

    #[test]
    fn the_lines_have_the_written_form() {
        let line = |event| serde_json::to_value(RunEvent::from(event)).unwrap();
        assert_eq!(line(fake::token(7, "a")), json!({"token": {"id": 7, "text": "a"}}));
        let finished = line(fake::finished("", fake::two_hops()));
        assert_eq!(finished["finished"]["reason"], "stop");
        assert_eq!(finished["finished"]["report"]["hops"][0]["blocks"], json!([0, 9]));
    }

    #[test]
    fn a_span_that_cannot_be_is_refused() {
        for blocks in [json!([5, 4]), json!([u32::MAX, u32::MAX])] {
            let span: Value = json!({"blocks": blocks, "embed": false, "head": false});
            assert!(serde_json::from_value::<WireSpan>(span.clone()).is_err(), "{span}");
        }
    }

    fn scored(logprob: f32) -> ScoreReply {
        let row = ScoredPosition { next: Some(logprob), top: vec![(3, logprob)] };
        ScoreReply { positions: vec![row], route: RunRoute { hosts: Vec::new() } }
    }

    #[test]
    fn log_probabilities_keep_every_bit() {
        // A walk through all sizes that occur, with a stride that shares no factor with 2.
        let mut bits = (-1e-9_f32).to_bits();
        while f32::from_bits(bits) > -100.0 {
            let reply = scored(f32::from_bits(bits));
            let text = serde_json::to_string(&reply).unwrap();
            let read: ScoreReply = serde_json::from_str(&text).unwrap();
            assert_eq!(read.positions[0].top[0].1.to_bits(), bits, "{text}");
            assert_eq!(read.positions[0].next.map(f32::to_bits), Some(bits), "{text}");
            bits += 12_345;
        }
        let text = serde_json::to_string(&scored(-0.1)).unwrap();
        let row = r#"{"next":-0.1,"top":[[3,-0.1]]}"#;
        assert_eq!(text, format!(r#"{{"positions":[{row}],"route":{{"hosts":[]}}}}"#));
    }
}
