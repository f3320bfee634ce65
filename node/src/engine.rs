//! What an answer is made by: the same questions and events whether this process computes, or a
//! chain of strangers does. The API and the command line speak to an [`Engine`] and know no more.

use std::sync::Arc;

use futures::future::BoxFuture;
use taimatsu_protocol::{Sampling, Span};
use tokio::sync::{mpsc, watch};

/// Events that may wait for a slow reader; the chain runs at most a credit of 64 tokens ahead.
pub const EVENTS: usize = 128;

/// A question, before it is tokens.
#[derive(Debug, Clone)]
pub struct Question {
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

/// What happens while an answer is made, in this order: `Started`, any number of `Token`, and
/// exactly one of `Finished` and `Failed`.
#[derive(Debug)]
pub enum Event {
    /// The prompt is tokens, and somebody has begun.
    Started(Started),
    /// A token; its text may be empty (half a character, or held back for a stop text).
    Token(TokenEvent),
    /// The answer is complete.
    Finished(Finished),
    /// It is not, and will not be.
    Failed(EngineError),
}

/// The beginning of an answer.
#[derive(Debug, Clone)]
pub struct Started {
    /// The model's canonical name.
    pub model: String,
    /// The prompt's ids.
    pub prompt_tokens: Vec<u32>,
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
    /// Milliseconds from the question to the first token.
    pub ttft_ms: f64,
    /// Tokens per second after the first; 0 where there was only one.
    pub tokens_per_second: f64,
    /// Frames that went through this client because two hosts could not reach each other.
    pub forwarded_frames: u32,
    /// The session's id; none where no other node took part. Receipts are kept under it.
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

/// Best continuations: one entry per prompt id, each (id, natural logprob) in falling order.
pub type Scores = Vec<Vec<(u32, f32)>>;

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

    /// The best continuations after each of `ids`.
    fn score(
        &self,
        model: String,
        ids: Vec<u32>,
        top: usize,
        route: RouteWish,
    ) -> BoxFuture<'_, Result<Scores, EngineError>>;

    /// The models that can be asked for, and whether each can be answered now.
    fn models(&self) -> BoxFuture<'_, Vec<ModelState>>;

    /// What this node has seen of a peer (its full id, or the end of it), or of all.
    fn reputation(&self, peer: Option<String>) -> BoxFuture<'_, serde_json::Value>;

    /// Receipts of the last answers, or all of one's, by its id or the beginning of it.
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

/// Why there is no answer (or not all of it).
#[derive(Debug, Clone, thiserror::Error)]
pub enum EngineError {
    /// No such model here or in the swarm. `near` holds names that are alike.
    #[error("model `{name}` is not known here")]
    UnknownModel {
        /// As asked for.
        name: String,
        /// Names that are alike.
        near: Vec<String>,
    },
    /// Something in the question cannot be.
    #[error("{message}")]
    Invalid {
        /// Which parameter.
        param: &'static str,
        /// What is wrong, and what would be right.
        message: String,
    },
    /// The prompt (with the answer asked for) does not fit.
    #[error("this model's maximum context length is {limit} tokens; the request needs {asked}")]
    ContextOverflow {
        /// Positions of the model (or of its hosts).
        limit: u32,
        /// Prompt and wanted answer.
        asked: u32,
        /// Of these, the prompt.
        prompt: u32,
    },
    /// Blocks of the model have no host (inclusive ranges).
    #[error("no host for blocks {} of {model}", ranges(missing))]
    Uncovered {
        /// The model.
        model: String,
        /// Inclusive ranges of blocks.
        missing: Vec<[u32; 2]>,
    },
    /// Nobody is known who hosts any of it.
    #[error("no host of {model} is known")]
    NoHost {
        /// The model.
        model: String,
    },
    /// There are hosts, but not for the route that was asked for.
    #[error("no route of the kind `{wish}` to {model}")]
    NoSuchRoute {
        /// The model.
        model: String,
        /// As asked for.
        wish: &'static str,
    },
    /// Hosts are there, and all refuse for now.
    #[error("all hosts are busy: {cause}")]
    Busy {
        /// The last refusal.
        cause: String,
        /// When to ask again, in milliseconds.
        retry_ms: u32,
    },
    /// A host was lost or failed while the answer was made.
    #[error("host {peer} (blocks {span}) failed: {cause}")]
    PeerFailed {
        /// The host's full id.
        peer: String,
        /// What it computed.
        span: Span,
        /// What happened.
        cause: String,
    },
    /// A host did not answer in time.
    #[error("host {peer} (blocks {span}) did not answer in time")]
    PeerTimeout {
        /// The host's full id.
        peer: String,
        /// What it computes.
        span: Span,
    },
    /// This node was told to stop: it takes nothing new, or ends what is under way.
    #[error("this node is stopping")]
    Stopping,
    /// A bug or a broken machine here.
    #[error("internal error: {0}")]
    Internal(String),
}

fn ranges(missing: &[[u32; 2]]) -> String {
    missing.iter().map(|[a, b]| format!("{a}-{b}")).collect::<Vec<_>>().join(", ")
}
