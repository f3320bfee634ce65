//! What newcomers dial first: discovery, no models, no say.
//!
//! A bootstrap node keeps a part of the swarm's DHT and is known by an address that does not
//! change. Through it a newcomer meets the others, and from then on needs it no more: losing every
//! bootstrap node harms nobody who has been in once. It holds no model, opens no session, refuses
//! every question and closes every stream; so it sees who looks for whom, and never what is said.
//!
//! [`run`] is all of it. The program `taimatsu-bootstrap` is that with a key file and flags; the
//! node's demo runs the same function in a process of its own.
//!
//! ```
//! use taimatsu_bootstrap::{Config, run};
//! use taimatsu_network::Multiaddr;
//! use taimatsu_protocol::SwarmId;
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! # tokio::runtime::Builder::new_current_thread().enable_all().build()?.block_on(async {
//! let config = Config::new([1; 32].into(), SwarmId::named("a club"))
//!     .listening(vec!["/ip4/127.0.0.1/tcp/0".parse()?]);
//! let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
//! let told = |addresses: &[Multiaddr]| {
//!     assert!(addresses[0].to_string().contains("/p2p/12D3Koo"));
//!     let _ = stop.send(());
//! };
//! run(config, told, async { drop(stopped.await) }).await?;
//! # Ok(()) })
//! # }
//! ```

use std::fmt;
use std::future::Future;
use std::pin::pin;

use taimatsu_network::{Incoming, Limits, Multiaddr, NetworkConfig, StartError, start};
use taimatsu_protocol::SwarmId;
use zeroize::Zeroizing;

/// What a bootstrap node is told at its start.
pub struct Config {
    secret: Zeroizing<[u8; 32]>,
    swarm: SwarmId,
    listen: Vec<Multiaddr>,
    bootstrap: Vec<Multiaddr>,
}

impl Config {
    /// A bootstrap node of `swarm` whose ed25519 seed is `secret`. It listens nowhere yet.
    #[must_use]
    pub const fn new(secret: Zeroizing<[u8; 32]>, swarm: SwarmId) -> Self {
        Self { secret, swarm, listen: Vec::new(), bootstrap: Vec::new() }
    }

    /// Listens on these addresses, TCP or QUIC; port 0 takes a free one.
    #[must_use]
    pub fn listening(mut self, listen: Vec<Multiaddr>) -> Self {
        self.listen = listen;
        self
    }

    /// Knows these other bootstrap nodes of the swarm, so that together they are one DHT.
    #[must_use]
    pub fn knowing(mut self, others: Vec<Multiaddr>) -> Self {
        self.bootstrap = others;
        self
    }
}

impl fmt::Debug for Config {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Config")
            .field("swarm", &self.swarm)
            .field("listen", &self.listen)
            .field("bootstrap", &self.bootstrap)
            .finish_non_exhaustive()
    }
}

/// Why a bootstrap node ended before it was told to.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// It did not start.
    #[error(transparent)]
    Start(#[from] StartError),
    /// The task that owns the swarm is gone.
    #[error("the network ended by itself; start the bootstrap node again, and report its log")]
    Ended,
}

/// Runs a bootstrap node until `shutdown` completes. Once it listens, `on_addresses` is told where
/// it can be dialled, each address with `/p2p/<id>`.
///
/// Must be called within a tokio runtime with IO and time enabled.
///
/// # Errors
/// See [`RunError`].
pub async fn run(
    config: Config,
    on_addresses: impl FnOnce(&[Multiaddr]),
    shutdown: impl Future<Output = ()>,
) -> Result<(), RunError> {
    let (network, mut incoming) = start(NetworkConfig {
        secret: *config.secret,
        swarm: config.swarm,
        listen: config.listen,
        bootstrap: config.bootstrap,
        remembered: Vec::new(),
        mdns: false,
        dht_server: true,
        limits: Limits { connections: CONNECTIONS, ..Limits::default() },
        tap: None,
    })
    .await?;
    on_addresses(&network.addresses().await);
    let mut shutdown = pin!(shutdown);
    loop {
        tokio::select! {
            () = &mut shutdown => break,
            arrival = incoming.recv() => match arrival {
                Some(arrival) => turn_away(arrival),
                None => return Err(RunError::Ended),
            },
        }
    }
    network.shutdown().await;
    Ok(())
}

/// Dropping is the refusal: a stream closes, a question fails.
fn turn_away(arrival: Incoming) {
    match arrival {
        Incoming::Stream { peer, kind, .. } => tracing::debug!(%peer, ?kind, "closed a stream"),
        Incoming::Query { peer, .. } => tracing::debug!(%peer, "refused a question"),
    }
}

/// Everybody who comes in passes here, and idle connections close after a minute.
const CONNECTIONS: u32 = 1024;
