//! The JSON of answers: whole, in chunks, and our label on them.

use serde::Serialize;

use super::choice::{Choice, Piece};
use super::logprobs::{ChatLogs, Log, TextLogs};
use super::order::Shape;
use crate::engine::{Finished, HopReport, Privacy, Started};

/// What all chunks of an answer share, and the whole reply has too.
#[derive(Debug, Clone)]
pub(super) struct Head {
    /// A message or a text.
    pub(super) shape: Shape,
    /// `chatcmpl-…`, `cmpl-…`.
    pub(super) id: String,
    /// Unix seconds.
    pub(super) created: u64,
    /// Of all choices.
    pub(super) seed: u64,
    /// The seed was drawn, and is told in the body as well.
    pub(super) drawn: bool,
    /// Our label is wanted.
    pub(super) label: bool,
}

/// A reply, or one event of a streamed one.
#[derive(Serialize)]
pub(super) struct Reply<'a> {
    id: &'a str,
    object: &'static str,
    created: u64,
    model: &'a str,
    system_fingerprint: &'a str,
    choices: Vec<Part<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    usage: Option<Usage>,
    #[serde(skip_serializing_if = "Option::is_none")]
    taimatsu: Option<Ours<'a>>,
}

/// One choice, or a piece of it.
#[derive(Serialize)]
pub(super) struct Part<'a> {
    index: usize,
    #[serde(flatten)]
    body: Body<'a>,
    logprobs: Option<Logs<'a>>,
    finish_reason: Option<&'static str>,
}

#[derive(Serialize)]
#[serde(untagged)]
enum Body<'a> {
    Message { message: Message<'a> },
    Delta { delta: Delta<'a> },
    Text { text: &'a str },
}

#[derive(Serialize)]
struct Message<'a> {
    role: &'static str,
    content: &'a str,
    refusal: Option<()>,
}

/// What a chunk adds to the message.
#[derive(Serialize, Default)]
struct Delta<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    role: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    content: Option<&'a str>,
}

#[derive(Serialize)]
#[serde(untagged)]
enum Logs<'a> {
    Chat(ChatLogs<'a>),
    Text(TextLogs<'a>),
}

impl<'a> Part<'a> {
    /// The first of a streamed message: who speaks, and nothing said yet. A text has none.
    pub(super) fn role(shape: Shape, index: usize) -> Option<Self> {
        let delta = Delta { role: Some("assistant"), content: Some("") };
        (shape == Shape::Chat).then_some(Self::new(index, Body::Delta { delta }))
    }

    /// More of a streamed choice.
    pub(super) fn piece(shape: Shape, index: usize, piece: &'a Piece) -> Self {
        let body = match shape {
            Shape::Chat => Body::Delta { delta: Delta { role: None, content: Some(&piece.text) } },
            Shape::Text => Body::Text { text: &piece.text },
        };
        let logs = Some(piece.logs.as_slice()).filter(|logs| !logs.is_empty());
        Self { logprobs: logs.map(|logs| Logs::of(shape, logs)), ..Self::new(index, body) }
    }

    /// The end of a streamed choice.
    pub(super) fn end(shape: Shape, index: usize, finished: &Finished) -> Self {
        let body = match shape {
            Shape::Chat => Body::Delta { delta: Delta::default() },
            Shape::Text => Body::Text { text: "" },
        };
        Self { finish_reason: Some(finished.reason.word()), ..Self::new(index, body) }
    }

    /// A whole choice.
    pub(super) fn whole(shape: Shape, index: usize, said: &'a Said) -> Self {
        let Said { choice, whole, finished } = said;
        let body = match shape {
            Shape::Chat => {
                let (role, content) = ("assistant", whole.text.as_str());
                Body::Message { message: Message { role, content, refusal: None } }
            }
            Shape::Text => Body::Text { text: &whole.text },
        };
        Self {
            logprobs: choice.has_logs().then(|| Logs::of(shape, &whole.logs)),
            finish_reason: Some(finished.reason.word()),
            ..Self::new(index, body)
        }
    }

    const fn new(index: usize, body: Body<'a>) -> Self {
        Self { index, body, logprobs: None, finish_reason: None }
    }
}

impl<'a> Logs<'a> {
    const fn of(shape: Shape, logs: &'a [Log]) -> Self {
        match shape {
            Shape::Chat => Self::Chat(ChatLogs(logs)),
            Shape::Text => Self::Text(TextLogs(logs)),
        }
    }
}

/// A choice of which all is there.
pub(super) struct Said {
    /// Its beginning and its tokens.
    pub(super) choice: Choice,
    /// All its pieces together.
    pub(super) whole: Piece,
    /// Its end.
    pub(super) finished: Finished,
}

impl<'a> Reply<'a> {
    /// A chunk of a streamed reply.
    pub(super) fn chunk(head: &'a Head, started: &'a Started, part: Option<Part<'a>>) -> Self {
        let object = match head.shape {
            Shape::Chat => "chat.completion.chunk",
            Shape::Text => "text_completion",
        };
        Self::new(head, object, started, part.into_iter().collect())
    }

    /// A whole reply; `said` is not empty.
    pub(super) fn whole(head: &'a Head, said: &'a [Said], usage: Usage) -> Self {
        let object = match head.shape {
            Shape::Chat => "chat.completion",
            Shape::Text => "text_completion",
        };
        let part = |(index, said)| Part::whole(head.shape, index, said);
        let parts = said.iter().enumerate().map(part).collect();
        let reply = Self::new(head, object, &said[0].choice.started, parts);
        Self { usage: Some(usage), taimatsu: Ours::of(head, said), ..reply }
    }

    /// The same with our label for the choice that ends in it, or with the seed that was drawn.
    pub(super) fn labelled(self, head: &Head, choice: &'a Choice, finished: &'a Finished) -> Self {
        let label = head.label.then(|| Label::new(choice, finished));
        let ours = Ours { seed: head.seed, label, choices: Vec::new() };
        Self { taimatsu: (head.label || head.drawn).then_some(ours), ..self }
    }

    /// The same with the token counts.
    pub(super) fn counted(self, usage: Usage) -> Self {
        Self { usage: Some(usage), ..self }
    }

    fn new(
        head: &'a Head,
        object: &'static str,
        started: &'a Started,
        choices: Vec<Part<'a>>,
    ) -> Self {
        Self {
            id: &head.id,
            object,
            created: head.created,
            model: &started.model,
            system_fingerprint: &started.fingerprint,
            choices,
            usage: None,
            taimatsu: None,
        }
    }
}

/// Token counts.
#[derive(Debug, Clone, Copy, Default, Serialize)]
pub(super) struct Usage {
    prompt_tokens: u32,
    completion_tokens: u32,
    total_tokens: u32,
    prompt_tokens_details: PromptDetails,
}

/// Nothing is kept between requests yet, so nothing is saved.
#[derive(Debug, Clone, Copy, Default, Serialize)]
struct PromptDetails {
    cached_tokens: u32,
}

impl Usage {
    /// Adds a choice; its prompt is counted with the first choice only.
    pub(super) fn add(&mut self, started: &Started, finished: &Finished, first: bool) {
        let prompt = u32::try_from(started.prompt_tokens.len()).unwrap_or(u32::MAX);
        let prompt = if first { prompt } else { 0 };
        self.prompt_tokens = self.prompt_tokens.saturating_add(prompt);
        self.completion_tokens = self.completion_tokens.saturating_add(finished.completion_tokens);
        self.total_tokens = self.prompt_tokens.saturating_add(self.completion_tokens);
    }
}

/// The key that is ours: the label, or only the seed.
#[derive(Serialize)]
struct Ours<'a> {
    seed: u64,
    #[serde(flatten)]
    label: Option<Label<'a>>,
    /// Where there are several choices: each one's label.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    choices: Vec<Label<'a>>,
}

impl<'a> Ours<'a> {
    fn of(head: &Head, said: &'a [Said]) -> Option<Self> {
        let seed = head.seed;
        if !head.label {
            let only = Self { seed, label: None, choices: Vec::new() };
            return head.drawn.then_some(only);
        }
        let label = |said: &'a Said| Label::new(&said.choice, &said.finished);
        let several = said.len() > 1;
        let choices = if several { said.iter().map(label).collect() } else { Vec::new() };
        Some(Self { seed, label: said.first().map(label), choices })
    }
}

/// Our label on an answer: who computed what and saw what, and how fast it went.
#[derive(Serialize)]
struct Label<'a> {
    route: Vec<LabelHop<'a>>,
    /// Hosts that were lost on the way, and had seen it by then.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    lost: Vec<LabelHop<'a>>,
    /// Who might have seen it: the narrower of the request's wish and the node's setting.
    privacy: Privacy,
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
    fn new(choice: &'a Choice, finished: &'a Finished) -> Self {
        let report = &finished.report;
        Self {
            route: report.hops.iter().map(LabelHop::new).collect(),
            lost: report.lost.iter().map(LabelHop::new).collect(),
            privacy: choice.started.privacy,
            tokens: &choice.tokens,
            prompt_tokens: &choice.started.prompt_tokens,
            ttft_ms: report.ttft_ms,
            tokens_per_second: report.tokens_per_second,
            forwarded_frames: report.forwarded_frames,
            sealed: !choice.started.route.hosts.is_empty(),
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
