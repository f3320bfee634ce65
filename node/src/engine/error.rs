//! Why an engine gives no answer.

use taimatsu_protocol::Span;

use super::Privacy;

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
    /// Those who may see the question do not host all of the model.
    #[error(
        "blocks {} of {model} have no host that may see the question (privacy {privacy}, {})",
        ranges(missing),
        if *of_node { "as this node was started" } else { "as the request asks" }
    )]
    Private {
        /// The model.
        model: String,
        /// The narrower of the request's and the node's.
        privacy: Privacy,
        /// The node's own is the narrower one.
        of_node: bool,
        /// Inclusive ranges of blocks that they do not host.
        missing: Vec<[u32; 2]>,
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

/// Ranges of blocks in words: `0-3, 7-9`.
pub(crate) fn ranges(missing: &[[u32; 2]]) -> String {
    missing.iter().map(|[a, b]| format!("{a}-{b}")).collect::<Vec<_>>().join(", ")
}
