//! What an answer is made by: the same questions and events whether this process computes, or a
//! chain of strangers does. The API and the command line speak to an [`Engine`] and know no more.

use std::fmt;
use std::sync::Arc;

use futures::future::BoxFuture;
use taimatsu_protocol::{PeerId, Sampling, Span};
use tokio::sync::{mpsc, watch};

mod error;

pub use error::EngineError;
pub(crate) use error::ranges;

/// Events that may wait for a slow reader: two credits, for the chain runs at most one ahead.
pub const EVENTS: usize = 512;

/// A question, before it is tokens.
#[derive(Debug, Clone)]
pub struct Question {
    /// What the asker knows the answer by; none: the session's id. Its receipts are kept under it.
    pub id: Option<String>,
    /// A catalogue name, a name in the store, a file's path, or `blake3:<hex>`.
    pub model: String,
    /// What to continue.
    pub prompt: Prompt,
    /// How to choose tokens.
    pub sampling: Sampling,
    /// Tokens wanted at most; none: as many as the context holds.
    pub max_tokens: Option<u32>,
    /// Texts that end the answer, and are not part of it.
    pub stop: Vec<String>,
    /// End tokens end nothing, and are part of the answer.
    pub ignore_eos: bool,
    /// Alternatives wanted per token; none: no logprobs.
    pub logprobs: Option<u8>,
    /// Who may compute it.
    pub route: RouteWish,
    /// Who may see it. The node's own setting holds too: the narrower one counts.
    pub privacy: Privacy,
}

/// A prompt whose tokens are to be scored.
#[derive(Debug, Clone)]
pub struct Scoring {
    /// As in [`Question::model`].
    pub model: String,
    /// The prompt.
    pub ids: Vec<u32>,
    /// Continuations wanted after each.
    pub top: usize,
    /// As in [`Question::route`].
    pub route: RouteWish,
    /// As in [`Question::privacy`].
    pub privacy: Privacy,
}

/// Who may see a question: a host of a span can rebuild it and its answer.
#[derive(
    Debug,
    Clone,
    Copy,
    PartialEq,
    Eq,
    PartialOrd,
    Ord,
    Default,
    serde::Serialize,
    serde::Deserialize,
)]
#[serde(rename_all = "snake_case")]
pub enum Privacy {
    /// Nobody but this node.
    Local,
    /// Hosts that its owner has named.
    Trusted,
    /// Whoever hosts it.
    #[default]
    Anyone,
}

impl fmt::Display for Privacy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Local => "local",
            Self::Trusted => "trusted",
            Self::Anyone => "anyone",
        })
    }
}

/// The forms of a prompt.
#[derive(Debug, Clone)]
pub enum Prompt {
    /// A conversation, to be rendered by the model's chat template.
    Chat(Vec<Message>),
    /// Text as it stands: BOS where the file says so, special tokens read.
    Raw(String),
    /// Token ids as they stand; nothing is added.
    Ids(Vec<u32>),
}

/// One message of a conversation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Message {
    /// `system`, `user`, `assistant`, …
    pub role: String,
    /// Its text.
    pub content: String,
}

/// Who may compute an answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum RouteWish {
    /// Whatever is best.
    #[default]
    Any,
    /// This node's own hosted whole model.
    Local,
    /// One host of the whole model.
    Whole,
    /// A chain of at least two hosts.
    Chain,
}

/// What happens while an answer is made, in this order: `Started`, any number of `Rerouted`, any
/// number of `Token`, and exactly one of `Finished` and `Failed`.
#[derive(Debug)]
pub enum Event {
    /// The prompt is tokens, and somebody has begun.
    Started(Started),
    /// The first way failed before its first token, and another is tried.
    Rerouted(Route),
    /// A token; its text may be empty (half a character, or held back for a stop text).
    Token(TokenEvent),
    /// The answer is complete.
    Finished(Finished),
    /// It is not, and will not be.
    Failed(EngineError),
}

/// The beginning of an answer.
#[derive(Debug, Clone, Default)]
pub struct Started {
    /// The model's canonical name.
    pub model: String,
    /// What with the seed decides the answer's bits: the model's id and the numerics, hashed.
    pub fingerprint: String,
    /// The prompt's ids.
    pub prompt_tokens: Vec<u32>,
    /// Who may see it: the narrower of what was asked for and what the node allows.
    pub privacy: Privacy,
    /// Who computes.
    pub route: Route,
}

/// Who computes an answer, as it is known when that begins.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Route {
    /// The hosts in order. None: the node that was asked computes by itself, or the process does.
    pub hosts: Vec<RouteHost>,
}

/// One host of a route.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RouteHost {
    /// Its full id.
    pub peer: String,
    /// What it computes.
    pub span: Span,
}

/// In a word, as the header `x-taimatsu-route` says it: `local`, `whole;PEER`, or
/// `chain;PEER[A-B],PEER[A-B]` with inclusive blocks.
impl fmt::Display for Route {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.hosts.as_slice() {
            [] => f.write_str("local"),
            [host] => write!(f, "whole;{}", host.peer),
            hosts => {
                for (number, RouteHost { peer, span }) in hosts.iter().enumerate() {
                    let lead = if number == 0 { "chain;" } else { "," };
                    let [first, last] = span.inclusive();
                    write!(f, "{lead}{peer}[{first}-{last}]")?;
                }
                Ok(())
            }
        }
    }
}

/// One token of an answer.
#[derive(Debug, Clone)]
pub struct TokenEvent {
    /// Its id. An end token is an event only with `ignore_eos`.
    pub id: u32,
    /// Text that is final now.
    pub text: String,
    /// Natural log probability, where asked for.
    pub logprob: Option<f32>,
    /// Alternatives in falling order, where asked for: id, logprob.
    pub top: Vec<(u32, f32)>,
}

/// The end of an answer.
#[derive(Debug, Clone)]
pub struct Finished {
    /// Why it ended.
    pub reason: FinishReason,
    /// Text that was held back and is final now.
    pub text: String,
    /// Tokens sampled, end token included: what `usage` counts.
    pub completion_tokens: u32,
    /// How it was made.
    pub report: RouteReport,
}

/// Why an answer ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FinishReason {
    /// By an end token or a stop text.
    Stop,
    /// By its length.
    Length,
}

impl FinishReason {
    /// The word that the OpenAI API and our JSON use.
    #[must_use]
    pub const fn word(self) -> &'static str {
        match self {
            Self::Stop => "stop",
            Self::Length => "length",
        }
    }
}

/// Who made an answer, and how fast.
#[derive(Debug, Clone, Default)]
pub struct RouteReport {
    /// Hops in order; empty where this process computed.
    pub hops: Vec<HopReport>,
    /// Hops that were lost on the way, and had seen it by then; their figures are not known.
    pub lost: Vec<HopReport>,
    /// Milliseconds from the question to the first token.
    pub ttft_ms: f64,
    /// Tokens per second after the first; 0 where there was only one.
    pub tokens_per_second: f64,
    /// Frames that went through this client because two hosts could not reach each other.
    pub forwarded_frames: u32,
    /// The session's id; none where no other node took part.
    pub session: Option<String>,
    /// What became of the receipts.
    pub receipts: ReceiptState,
}

/// What became of an answer's receipts.
#[derive(Debug, Clone, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ReceiptState {
    /// There are none: nobody else computed, or a host was gone before it had sent all.
    #[default]
    None,
    /// They hold together.
    Hold,
    /// They do not, and why.
    Broken(String),
}

/// One hop's part.
#[derive(Debug, Clone)]
pub struct HopReport {
    /// The host's full id.
    pub peer: String,
    /// What it computed.
    pub span: Span,
    /// Milliseconds of computing per decoded token.
    pub ms_per_token: f64,
    /// Frames it sent to its neighbours straight.
    pub direct_frames: u32,
    /// Frames it sent to its neighbours through the client.
    pub relayed_frames: u32,
}

impl HopReport {
    /// Of a hop that has not computed yet.
    pub(crate) fn of(peer: PeerId, span: Span) -> Self {
        Self {
            peer: peer.to_string(),
            span,
            ms_per_token: 0.0,
            direct_frames: 0,
            relayed_frames: 0,
        }
    }
}

/// A prompt's scores.
#[derive(Debug, Clone, Default)]
pub struct Scores {
    /// One per prompt id.
    pub rows: Vec<Score>,
    /// Who computed them.
    pub route: Route,
}

/// What may follow one id of a prompt.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Score {
    /// The natural log probability of the id that does; none after the last.
    pub next: Option<f32>,
    /// The best continuations: id, natural log probability, falling.
    pub top: Vec<(u32, f32)>,
}

/// A model's tokens as text, for those who show ids to people.
pub trait Vocabulary: Send + Sync {
    /// What a token prints as: raw bytes, not always whole characters; nothing for control tokens
    /// and for ids beyond the vocabulary.
    fn bytes(&self, id: u32) -> &[u8];

    /// A token's name in the model's file; nothing beyond the vocabulary.
    fn name(&self, id: u32) -> &str;
}

/// An answer under way. Dropping it cancels the answer on every hop.
#[derive(Debug)]
pub struct Answer {
    /// What happens.
    pub events: mpsc::Receiver<Event>,
    /// Told by the reader how many tokens it has taken; the chain's credit follows.
    pub consumed: watch::Sender<u32>,
}

/// Whoever makes answers.
pub trait Engine: Send + Sync + 'static {
    /// Begins an answer. Everything that goes wrong later is [`Event::Failed`].
    fn ask(&self, question: Question) -> BoxFuture<'_, Result<Answer, EngineError>>;

    /// What may follow each token of a prompt.
    fn score(&self, scoring: Scoring) -> BoxFuture<'_, Result<Scores, EngineError>>;

    /// A model's tokens as text.
    fn vocabulary(&self, model: String) -> BoxFuture<'_, Result<Arc<dyn Vocabulary>, EngineError>>;

    /// The models that can be asked for, and whether each can be answered now.
    fn models(&self) -> BoxFuture<'_, Vec<ModelState>>;

    /// What this node has seen of a peer (its full id, or the end of it), or of all.
    fn reputation(&self, peer: Option<String>) -> BoxFuture<'_, serde_json::Value>;

    /// The last answers, or those whose id, or session's id, begins so, with all receipts.
    fn receipts(&self, id: Option<String>) -> BoxFuture<'_, Option<serde_json::Value>>;

    /// The node's own state, as `taimatsu status --json` prints it.
    fn status(&self) -> BoxFuture<'_, serde_json::Value>;

    /// Who hosts which blocks of a model, as `taimatsu map --json` prints it.
    fn map(&self, model: String) -> BoxFuture<'_, Result<serde_json::Value, EngineError>>;

    /// Announces something that stands for nothing in the DHT, and forgets it here: whoever asks
    /// for it (`nonce`, hexadecimal) hears of it from others. For `taimatsu doctor`.
    fn try_dht(&self) -> BoxFuture<'_, serde_json::Value>;
}

/// A shared engine.
pub type SharedEngine = Arc<dyn Engine>;

/// A model as `/v1/models` and `/health` see it.
#[derive(Debug, Clone)]
pub struct ModelState {
    /// Its canonical name.
    pub name: String,
    /// `blake3:<hex>`, where known.
    pub id: Option<String>,
    /// Blocks of the model, where known.
    pub blocks: Option<u32>,
    /// Whether a question would be answered now.
    pub ready: bool,
    /// Blocks without a host, inclusive; all of them where nobody hosts.
    pub missing: Vec<[u32; 2]>,
    /// Hosts of any span of it.
    pub hosts: u32,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_route_is_told_in_a_word() {
        let host = |peer: &str, range| RouteHost {
            peer: peer.into(),
            span: Span::new(range, 30).unwrap(),
        };
        let told = |hosts: &[RouteHost]| Route { hosts: hosts.to_vec() }.to_string();
        assert_eq!(told(&[]), "local");
        assert_eq!(told(&[host("a", 0..30)]), "whole;a");
        assert_eq!(told(&[host("a", 0..10), host("b", 10..30)]), "chain;a[0-9],b[10-29]");
    }
}
