//! What a node's network is told at its start, and why it may not start.

use std::fmt;
use std::io;
use std::sync::Arc;

use libp2p::Multiaddr;
use taimatsu_protocol::SwarmId;

use crate::frames::FrameTap;

/// Everything [`start`](crate::start) needs.
pub struct NetworkConfig {
    /// The ed25519 seed that the node's [`PeerId`](taimatsu_protocol::PeerId) comes from; zeroed
    /// by [`start`](crate::start).
    pub secret: [u8; 32],
    /// The swarm; peers of others are not talked to.
    pub swarm: SwarmId,
    /// Where to listen, TCP or QUIC; port 0 takes a free one. Empty: only dials.
    pub listen: Vec<Multiaddr>,
    /// Whom to dial first, until reached; with or without `/p2p/…`.
    pub bootstrap: Vec<Multiaddr>,
    /// Peers that were good before: tried beside those, until enough are met.
    pub remembered: Vec<Multiaddr>,
    /// Whether nodes of this local network are looked for by multicast, and told of this one.
    pub mdns: bool,
    /// Whether this node keeps a part of the DHT: so does whoever can be dialled.
    pub dht_server: bool,
    /// Bounds on what peers may take.
    pub limits: Limits,
    /// Hears every frame of every stream; for tests.
    pub tap: Option<Arc<dyn FrameTap>>,
}

impl fmt::Debug for NetworkConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("NetworkConfig")
            .field("swarm", &self.swarm)
            .field("listen", &self.listen)
            .field("bootstrap", &self.bootstrap)
            .field("remembered", &self.remembered)
            .field("mdns", &self.mdns)
            .field("dht_server", &self.dht_server)
            .field("limits", &self.limits)
            .finish_non_exhaustive()
    }
}

/// Bounds on what peers may take of a node.
#[derive(Debug, Clone, PartialEq)]
pub struct Limits {
    /// Connections at once, either way.
    pub connections: u32,
    /// Connections of one peer: both sides dialled at once, and one to spare.
    pub connections_per_peer: u32,
    /// Handshakes under way that others began.
    pub pending_incoming: u32,
    /// Share of the machine's memory that this process may hold before it takes no more
    /// connections. Memory-mapped weights count, for the kernel counts them.
    pub memory_share: f64,
    /// Streams and queries that wait in [`Incoming`](crate::Incoming); when full, the newest is
    /// dropped and its peer sees it close.
    pub waiting: usize,
    /// Bytes that streams and answers may take of the upload in a second; none: as many as go.
    pub upload_per_second: Option<u64>,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            connections: 256,
            connections_per_peer: 3,
            pending_incoming: 32,
            memory_share: 0.9,
            waiting: 64,
            upload_per_second: None,
        }
    }
}

/// Why the network did not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// Another program listens there.
    #[error("{address} is in use; choose another port, or 0 for a free one")]
    AddressInUse {
        /// The address asked for.
        address: Multiaddr,
    },
    /// Listening there failed.
    #[error("cannot listen on {address}; choose an address of this machine: {source}")]
    Listen {
        /// The address asked for.
        address: Multiaddr,
        /// What the operating system, or libp2p, said.
        source: io::Error,
    },
    /// Noise could not be set up for the key.
    #[error("the node's key cannot authenticate connections; make a new one: {0}")]
    Noise(#[from] libp2p::noise::Error),
    /// This machine's network interfaces cannot be watched, so nobody can be found by multicast.
    #[error("cannot look for nodes of the local network: {0}")]
    Mdns(io::Error),
    /// A bootstrap address is a name, and this machine resolves none.
    #[error("names cannot be resolved here; give bootstrap addresses as numbers: {0}")]
    Dns(io::Error),
}
