//! The JSON of chat replies: whole, in chunks, and our label on them.

use serde::Serialize;
use serde_json::Value;

use crate::engine::{Finished, HopReport, RouteReport, Started};

/// What all chunks of an answer share, and the whole reply has too.
#[derive(Debug, Clone)]
pub(super) struct Head {
    /// `chatcmpl-…`.
    pub(super) id: String,
    /// Unix seconds.
    pub(super) created: u64,
}

/// One event of a streamed answer.
#[derive(Serialize)]
pub(super) struct Chunk<'a> {
    id: &'a str,
    object: &'static str,
    created: u64,
    model: &'a str,
    choices: Vec<ChunkChoice<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    usage: Option<Usage>,
    #[serde(skip_serializing_if = "Option::is_none")]
    taimatsu: Option<Label<'a>>,
}

#[derive(Serialize)]
struct ChunkChoice<'a> {
    index: u32,
    delta: Delta<'a>,
    logprobs: Option<Value>,
    finish_reason: Option<&'static str>,
}

/// What a chunk adds to the message.
#[derive(Serialize, Default)]
pub(super) struct Delta<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    role: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    content: Option<&'a str>,
}

impl<'a> Delta<'a> {
    /// The first: who speaks, and nothing said yet.
    pub(super) const fn role() -> Self {
        Self { role: Some("assistant"), content: Some("") }
    }

    /// More of the answer.
    pub(super) const fn content(text: &'a str) -> Self {
        Self { role: None, content: Some(text) }
    }
}

impl<'a> Chunk<'a> {
    /// A piece of the answer.
    pub(super) fn piece(head: &'a Head, model: &'a str, delta: Delta<'a>) -> Self {
        Self::new(head, model, vec![ChunkChoice::new(delta, None)])
    }

    /// The answer's end, with the label where it was asked for.
    pub(super) fn end(
        head: &'a Head,
        model: &'a str,
        finished: &Finished,
        label: Option<Label<'a>>,
    ) -> Self {
        let choice = ChunkChoice::new(Delta::default(), Some(finished.reason.word()));
        Self { taimatsu: label, ..Self::new(head, model, vec![choice]) }
    }

    /// The token counts, after the end.
    pub(super) fn usage(head: &'a Head, model: &'a str, usage: Usage) -> Self {
        Self { usage: Some(usage), ..Self::new(head, model, Vec::new()) }
    }

    fn new(head: &'a Head, model: &'a str, choices: Vec<ChunkChoice<'a>>) -> Self {
        let object = "chat.completion.chunk";
        let Head { id, created } = head;
        Self { id, object, created: *created, model, choices, usage: None, taimatsu: None }
    }
}

impl<'a> ChunkChoice<'a> {
    const fn new(delta: Delta<'a>, finish_reason: Option<&'static str>) -> Self {
        Self { index: 0, delta, logprobs: None, finish_reason }
    }
}

/// A whole answer.
#[derive(Serialize)]
pub(super) struct Completion<'a> {
    id: &'a str,
    object: &'static str,
    created: u64,
    model: &'a str,
    choices: [Choice<'a>; 1],
    usage: Usage,
    #[serde(skip_serializing_if = "Option::is_none")]
    taimatsu: Option<Label<'a>>,
}

#[derive(Serialize)]
struct Choice<'a> {
    index: u32,
    message: Reply<'a>,
    logprobs: Option<Value>,
    finish_reason: &'static str,
}

#[derive(Serialize)]
struct Reply<'a> {
    role: &'static str,
    content: &'a str,
    refusal: Option<Value>,
}

impl<'a> Completion<'a> {
    /// The reply with this text.
    pub(super) fn new(
        head: &'a Head,
        started: &'a Started,
        text: &'a str,
        finished: &Finished,
        label: Option<Label<'a>>,
    ) -> Self {
        let message = Reply { role: "assistant", content: text, refusal: None };
        let finish_reason = finished.reason.word();
        Self {
            id: &head.id,
            object: "chat.completion",
            created: head.created,
            model: &started.model,
            choices: [Choice { index: 0, message, logprobs: None, finish_reason }],
            usage: Usage::new(started, finished),
            taimatsu: label,
        }
    }
}

/// Token counts.
#[derive(Debug, Clone, Copy, Serialize)]
pub(super) struct Usage {
    prompt_tokens: u32,
    completion_tokens: u32,
    total_tokens: u32,
    prompt_tokens_details: PromptDetails,
}

/// Nothing is kept between requests yet, so nothing is saved.
#[derive(Debug, Clone, Copy, Serialize)]
struct PromptDetails {
    cached_tokens: u32,
}

impl Usage {
    /// What an answer took.
    pub(super) fn new(started: &Started, finished: &Finished) -> Self {
        let prompt = u32::try_from(started.prompt_tokens.len()).unwrap_or(u32::MAX);
        Self {
            prompt_tokens: prompt,
            completion_tokens: finished.completion_tokens,
            total_tokens: prompt.saturating_add(finished.completion_tokens),
            prompt_tokens_details: PromptDetails { cached_tokens: 0 },
        }
    }
}

/// Our label on an answer: who computed what and saw what, and how fast it went.
#[derive(Serialize)]
pub(super) struct Label<'a> {
    route: Vec<LabelHop<'a>>,
    tokens: &'a [u32],
    prompt_tokens: &'a [u32],
    ttft_ms: f64,
    tokens_per_second: f64,
    forwarded_frames: u32,
    /// The question left this process, under a seal for each host.
    sealed: bool,
}

#[derive(Serialize)]
struct LabelHop<'a> {
    peer: &'a str,
    blocks: [u32; 2],
    ms_per_token: f64,
    direct_frames: u32,
    relayed_frames: u32,
    saw: &'static str,
}

impl<'a> Label<'a> {
    /// The label of an answer with these tokens.
    pub(super) fn new(started: &'a Started, tokens: &'a [u32], report: &'a RouteReport) -> Self {
        Self {
            route: report.hops.iter().map(LabelHop::new).collect(),
            tokens,
            prompt_tokens: &started.prompt_tokens,
            ttft_ms: report.ttft_ms,
            tokens_per_second: report.tokens_per_second,
            forwarded_frames: report.forwarded_frames,
            sealed: !report.hops.is_empty(),
        }
    }
}

impl<'a> LabelHop<'a> {
    fn new(hop: &'a HopReport) -> Self {
        Self {
            peer: &hop.peer,
            blocks: hop.span.inclusive(),
            ms_per_token: hop.ms_per_token,
            direct_frames: hop.direct_frames,
            relayed_frames: hop.relayed_frames,
            saw: saw(hop),
        }
    }
}

/// The leader gets the prompt's ids and every chosen token, the tail gets the prompt's ids for
/// penalties and chooses the tokens; between them travel activations, and text can be rebuilt from
/// those.
const fn saw(hop: &HopReport) -> &'static str {
    if hop.span.embed || hop.span.head {
        "prompt and answer, as tokens"
    } else {
        "activations, from which prompt and answer can be rebuilt"
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use taimatsu_protocol::Span;

    #[test]
    fn only_the_hosts_between_the_ends_see_no_tokens() {
        let seen = |range| {
            let span = Span::new(range, 30).unwrap();
            let peer = String::new();
            let (direct_frames, relayed_frames) = (0, 0);
            saw(&HopReport { peer, span, ms_per_token: 0.0, direct_frames, relayed_frames })
        };
        for range in [0..30, 0..10, 10..30] {
            assert!(seen(range.clone()).contains("as tokens"), "{range:?}");
        }
        assert!(seen(10..20).starts_with("activations"));
    }
}
