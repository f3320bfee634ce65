//! Why a peer, or the DHT, did not answer.

/// Why no stream to a peer was opened.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum OpenError {
    /// The peer is this node.
    #[error("a node does not dial itself; serve the request locally")]
    Myself,
    /// No address of the peer led to it.
    #[error("the peer cannot be reached; choose another: {cause}")]
    Unreachable {
        /// What the last attempt ran into.
        cause: String,
    },
    /// Connected, but the peer speaks another swarm's protocols, or an older version.
    #[error("the peer does not speak this swarm's protocol; choose another")]
    NotSpoken,
    /// The connection ended before the answer.
    #[error("the connection was lost; try once more, or choose another peer")]
    Lost,
    /// The deadline passed.
    #[error("the peer did not answer in time; choose another")]
    Late,
    /// Too many openings already wait here.
    #[error("too many dials are under way; try again shortly")]
    Busy,
    /// This node's network was shut down.
    #[error("the network is shut down; start the node again")]
    Closed,
}

/// Why a question got no answer.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum AskError {
    /// Longer than a question may be.
    #[error("a query of {length} bytes is over the limit of {limit}; ask for less")]
    TooLong {
        /// Bytes of the query.
        length: usize,
        /// Bytes that are allowed.
        limit: usize,
    },
    /// The peer could not be asked.
    #[error(transparent)]
    Peer(#[from] OpenError),
    /// The peer was asked, and broke off, or sent what is no answer.
    #[error("the peer gave no answer; ask another: {cause}")]
    NoAnswer {
        /// What happened to the exchange.
        cause: String,
    },
}

/// Why the DHT gave no answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum DiscoveryError {
    /// No other node of the swarm is known.
    #[error("no node of the swarm is known yet; give a bootstrap address that answers")]
    Alone,
    /// The deadline passed before anything was found.
    #[error("the swarm's directory did not answer in time; try again")]
    Late,
    /// More keys than one node may announce.
    #[error("this node announces {limit} keys already; host fewer models")]
    TooManyKeys {
        /// The bound.
        limit: usize,
    },
    /// Too many lookups already wait here.
    #[error("too many lookups are under way; try again shortly")]
    Busy,
    /// This node's network was shut down.
    #[error("the network is shut down; start the node again")]
    Closed,
}
